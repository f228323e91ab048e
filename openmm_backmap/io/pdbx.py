"""PDBx/mmCIF structures, tokenised by OpenMM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry.cg import CGTopology
from openmm_backmap.errors import InputError
from openmm_backmap.io.frames import CGFrame, CGSource, cell_box


def open_pdbx(path: Path) -> CGSource:
    """The frames of a PDBx/mmCIF file; its models are frames."""
    from openmm.app.internal.pdbx.reader.PdbxReader import PdbxReader

    data: list = []
    with open(path, errors="replace") as file:
        PdbxReader(file).read(data)
    sites = data[0].getObj("atom_site") if data else None
    if sites is None or not sites.getRowCount():
        raise InputError(f"{path}: holds no _atom_site table")
    column = _cif_columns(sites)
    models = column("pdbx_PDB_model_num") or ["1"] * sites.getRowCount()
    xyz = np.array([column(f"Cartn_{axis}") for axis in "xyz"], dtype=float).T / 10
    starts = [0, *(i for i in range(1, len(models)) if models[i] != models[i - 1]), len(models)]
    frames = [xyz[a:b] for a, b in zip(starts, starts[1:])]
    box = _cif_box(data[0].getObj("cell"))
    topology = _cif_topology(path, column, starts[1], data[0].getObj("struct_conn"))
    return CGSource(path, topology, len(frames), lambda first, stop, stride: (
        CGFrame(positions, box) for positions in frames[first:stop:stride]))


def _cif_columns(table) -> Callable[..., list[str] | None]:
    rows = table.getRowList()

    def column(*names: str) -> list[str] | None:
        """The first of the columns that the table has."""
        for name in names:
            if (k := table.getAttributeIndex(name)) >= 0:
                return [row[k] for row in rows]
        return None

    return column


def _cif_topology(path: Path, column, n: int, connections) -> CGTopology:
    names = column("auth_atom_id", "label_atom_id")
    residues = column("auth_comp_id", "label_comp_id")
    numbers = column("auth_seq_id", "label_seq_id")
    chains = column("label_asym_id", "auth_asym_id")
    if None in (names, residues, numbers, chains):
        raise InputError(f"{path}: its _atom_site table lacks names of atoms, residues or chains, or residue numbers")
    labels = [column(f"label_{x}", f"auth_{x}")[:n] for x in ("asym_id", "seq_id", "atom_id")]
    values = [int(number) if number.lstrip("-").isdigit() else 0 for number in numbers[:n]]
    return CGTopology.from_beads(names[:n], residues[:n], values, chains[:n], _cif_bonds(labels, connections))


def _cif_bonds(labels: list[list[str]], connections) -> np.ndarray | None:
    """Bonds of the struct_conn table, if atoms can be told apart by chain, residue number and name."""
    if connections is None or not connections.getRowCount():
        return None
    keys = list(zip(*labels))
    index = {key: i for i, key in enumerate(keys)}
    column = _cif_columns(connections)
    ends = [list(zip(*(column(f"ptnr{side}_label_{x}") or [] for x in ("asym_id", "seq_id", "atom_id"))))
            for side in "12"]
    covalent = [kind.lower()[:6] in ("covale", "disulf", "modres") for kind in column("conn_type_id")]
    pairs = [(a, b) for a, b, bonded in zip(*ends, covalent) if bonded]
    if not pairs or len(index) < len(keys) or any(a not in index or b not in index for a, b in pairs):
        return None
    return np.array([(index[a], index[b]) for a, b in pairs], dtype=np.int64)


def _cif_box(cell) -> np.ndarray | None:
    if cell is None or not cell.getRowCount():
        return None
    value = _cif_columns(cell)
    try:
        return cell_box([float(value(f"length_{x}")[0]) / 10 for x in "abc"],
                     [float(value(f"angle_{x}")[0]) for x in ("alpha", "beta", "gamma")])
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        # A cell of ? marks is no cell.
        return None
