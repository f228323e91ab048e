"""Structures, trajectories, systems and states to files; a file appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry.system import with_box
from openmm_backmap.errors import InputError

TRAJECTORIES = (".xtc", ".trr", ".dcd")
STRUCTURES = (".gro", ".pdb", ".cif", ".pdbx")
_PDB_LIMITS_NM = (-99.99, 999.99)


def check_output(path: str | Path, overwrite: bool = False) -> Path:
    """Refuse, before any work is done, a path that cannot or must not be written.

    Raises :class:`InputError` where the file exists and ``overwrite`` is false, or its folder is missing or read-only.
    """
    path = Path(path)
    folder = path.parent
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if not folder.is_dir():
        raise InputError(f"{path}: the folder {folder} does not exist")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; use --overwrite to replace it, or another name")
    try:
        # Permissions do not tell all (read-only and virtual file systems): try it.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.stem}."):
            pass
    except OSError as error:
        raise InputError(f"{path}: the folder {folder} is not writable ({error.strerror})") from None
    return path


@contextmanager
def replacing(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary beside ``path``, of the same ending, that becomes ``path`` when the block ends well.

    It is removed when the block fails, be it by Ctrl-C.
    """
    path = check_output(path, overwrite)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error})") from error
    finally:
        part.unlink(missing_ok=True)


def write_structure(path: str | Path, topology, positions: np.ndarray, box: np.ndarray | None, *,
                    overwrite: bool = False, gro_precision: int = 3) -> None:
    """Write one or many frames; the ending says the format (.gro, .pdb, .cif, .pdbx, .xtc, .trr, .dcd).

    Parameters
    ----------
    path : path
    topology : openmm.app.Topology
    positions : ndarray, shape (n_frames, n_atoms, 3) or (n_atoms, 3), nm
    box : ndarray, shape (3, 3) or (n_frames, 3, 3), nm, or None
    overwrite : bool
        Replace a file that exists.
    gro_precision : int
        Decimal places of positions in a .gro file.

    Raises
    ------
    InputError
        The path cannot be written, the format cannot hold the names or positions, or shapes do not fit.
    """
    positions = np.asarray(positions, dtype=float)
    positions = positions[None] if positions.ndim == 2 else positions
    boxes = [None] * len(positions) if box is None else np.broadcast_to(box, (len(positions), 3, 3))
    with TrajectoryWriter(path, topology, overwrite, gro_precision=gro_precision) as writer:
        for k, (frame, frame_box) in enumerate(zip(positions, boxes)):
            writer.write(frame, frame_box, float(k) if len(positions) > 1 else None)


class TrajectoryWriter:
    """Writes frames one by one; the file appears when the ``with`` block ends well.

    Parameters
    ----------
    path : path
        The ending says the format: .xtc, .trr, .dcd, .gro, .pdb, .cif, .pdbx.
    topology : openmm.app.Topology
    overwrite : bool
        Replace a file that exists.
    gro_precision : int
        Decimal places of positions in a .gro file.
    """

    def __init__(self, path: str | Path, topology, overwrite: bool = False, *, gro_precision: int = 3):
        self.path, self.topology, self.overwrite, self.gro_precision = Path(path), topology, overwrite, gro_precision
        self.n_atoms, self.n_frames = topology.getNumAtoms(), 0
        if self.path.suffix.lower() not in (*STRUCTURES, *TRAJECTORIES):
            raise InputError(f"{path}: unknown ending {self.path.suffix!r}; known: "
                             f"{', '.join((*STRUCTURES, *TRAJECTORIES))}")

    def __enter__(self) -> TrajectoryWriter:
        with ExitStack() as stack:
            part = stack.enter_context(replacing(self.path, self.overwrite))
            self._sink = stack.enter_context(self._open(part))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None and not self.n_frames:
            error = InputError(f"{self.path}: no frame to write")
            self._stack.__exit__(InputError, error, None)
            raise error
        return self._stack.__exit__(kind, error, traceback)

    def write(self, positions: np.ndarray, box: np.ndarray | None, time_ps: float | None = None) -> None:
        """Add a frame: ``positions`` (n_atoms, 3) in nm, ``box`` (3, 3) in nm or None."""
        positions = np.asarray(positions, dtype=float)
        if positions.shape != (self.n_atoms, 3):
            raise InputError(f"{self.path}: positions of shape {positions.shape} for {self.n_atoms} atoms")
        if not np.isfinite(positions).all():
            atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
            raise InputError(f"{self.path}: the position of atom {atom + 1} is not finite")
        self._sink.write(positions, box, time_ps, self.n_frames)
        self.n_frames += 1

    def _open(self, part: Path):
        kind = self.path.suffix.lower()
        if kind == ".gro":
            return _GroSink(part, self.path, self.topology, self.gro_precision)
        if kind == ".pdb":
            return _PdbSink(part, self.path, self.topology)
        if kind in TRAJECTORIES:
            return _BinarySink(part)
        return _CifSink(part, self.path, self.topology)


class _TextSink:
    """A text file that is open from construction to the end of a ``with`` block."""

    def __init__(self, part: Path):
        self.file = open(part, "w")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


class _GroSink(_TextSink):
    def __init__(self, part: Path, path: Path, topology, precision: int):
        labels = []
        for residue, number in zip(topology.residues(), _gro_numbers(topology)):
            for atom in residue.atoms():
                _check_name(path, residue.name, 5)
                _check_name(path, atom.name, 5)
                labels.append(f"{number:5d}{residue.name:<5s}{atom.name:>5s}{(atom.index + 1) % 100000:5d}")
        self.path, self.precision, self.labels = path, precision, labels
        super().__init__(part)

    def write(self, positions, box, time_ps, frame) -> None:
        _check_range(self.path, positions, -999.0, 9999.0)
        width, places = self.precision + 5, self.precision
        coordinate = f"%{width}.{places}f" * 3
        time = "" if time_ps is None else f" t= {time_ps:.5f}"
        self.file.write(f"openmm_backmap{time}\n{len(self.labels):5d}\n")
        self.file.writelines(f"{label}{coordinate % tuple(x)}\n" for label, x in zip(self.labels, positions.tolist()))
        vectors = np.zeros((3, 3)) if box is None else np.asarray(box)
        rest = [vectors[i, j] for i in range(3) for j in range(3) if i != j]
        numbers = [*np.diag(vectors), *(rest if np.any(rest) else [])]
        # Columns as GROMACS writes them: some readers tell this line from an atom's by where its digits are.
        self.file.write("".join(f"{x:{places + 7}.{places + 2}f}" for x in numbers) + "\n")


def _gro_numbers(topology) -> list[int]:
    """Residue numbers of the topology where they tell neighbours apart, else the place in the file."""
    residues = list(topology.residues())
    try:
        numbers = [int(residue.id) % 100000 for residue in residues]
    except ValueError:
        numbers = [0] * len(residues)
    keys = list(zip(numbers, (residue.name for residue in residues)))
    if any(a == b for a, b in zip(keys, keys[1:])):
        return [(k + 1) % 100000 for k in range(len(residues))]
    return numbers


class _PdbSink(_TextSink):
    def __init__(self, part: Path, path: Path, topology):
        for residue in topology.residues():
            _check_name(path, residue.name, 3)
            for atom in residue.atoms():
                _check_name(path, atom.name, 4)
        self.path, self.topology = path, topology
        super().__init__(part)

    def write(self, positions, box, time_ps, frame) -> None:
        from openmm.app import PDBFile

        _check_range(self.path, positions, *_PDB_LIMITS_NM)
        if time_ps is not None:
            self.file.write(f"TITLE     openmm_backmap t= {time_ps:.5f}\n")
        if box is not None:
            lengths, angles = _cell(box)
            cell = "".join([f"{x * 10:9.3f}" for x in lengths] + [f"{x:7.2f}" for x in angles])
            self.file.write(f"CRYST1{cell} P 1           1\n")
        PDBFile.writeModel(self.topology, positions * 10, self.file, modelIndex=frame + 1, keepIds=True)

    def __exit__(self, kind, *_):
        from openmm.app import PDBFile

        if kind is None:
            PDBFile.writeFooter(self.topology, self.file)
        super().__exit__()


class _CifSink(_TextSink):
    def __init__(self, part: Path, path: Path, topology):
        self.path, self.topology = path, _with_unique_ids(topology)
        super().__init__(part)

    def write(self, positions, box, time_ps, frame) -> None:
        from openmm.app import PDBxFile

        if frame == 0:
            PDBxFile.writeHeader(with_box(self.topology, box), self.file, keepIds=True)
        PDBxFile.writeModel(self.topology, positions * 10, self.file, modelIndex=frame + 1, keepIds=True)


class _BinarySink:
    """A trajectory that mdtraj writes."""

    def __init__(self, part: Path):
        from mdtraj.formats import DCDTrajectoryFile, TRRTrajectoryFile, XTCTrajectoryFile

        self.is_dcd = part.suffix.lower() == ".dcd"
        kind = DCDTrajectoryFile if self.is_dcd else {".xtc": XTCTrajectoryFile}.get(part.suffix.lower(),
                                                                                     TRRTrajectoryFile)
        self.file = kind(str(part), "w")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, positions, box, time_ps, frame) -> None:
        xyz = positions[None].astype(np.float32)
        if self.is_dcd:
            lengths, angles = (np.zeros(3), np.zeros(3) + 90) if box is None else _cell(box)
            self.file.write(xyz * 10, (lengths[None] * 10).astype(np.float32), angles[None].astype(np.float32))
            return
        # Without a box mdtraj would write one of 1 nm.
        vectors = np.zeros((1, 3, 3), np.float32) if box is None else np.asarray(box, np.float32)[None]
        time = np.array([frame if time_ps is None else time_ps], dtype=np.float32)
        self.file.write(xyz, time=time, step=np.array([frame], dtype=np.int32), box=vectors)


def _cell(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (nm) and angles (degrees) of a box."""
    from mdtraj.utils.unitcell import box_vectors_to_lengths_and_angles

    cell = box_vectors_to_lengths_and_angles(*np.asarray(box, dtype=float))
    return np.array(cell[:3], dtype=float), np.array(cell[3:], dtype=float)


def _with_unique_ids(topology):
    """A copy whose chains and residues have distinct identifiers, so that bonds can refer to them."""
    from openmm import app

    copy = app.Topology()
    chains = list(topology.chains())
    chain_ids = [chain.id for chain in chains]
    unique = len(set(chain_ids)) == len(chains) and all(i.strip() and len(i.split()) == 1 for i in chain_ids)
    atoms = []
    for k, chain in enumerate(chains):
        new_chain = copy.addChain(chain.id if unique else str(k + 1))
        residues = list(chain.residues())
        keep = len({r.id for r in residues}) == len(residues) and all(r.id.lstrip("-").isdigit() for r in residues)
        for i, residue in enumerate(residues):
            new = copy.addResidue(residue.name, new_chain, residue.id if keep else str(i + 1))
            atoms.extend(copy.addAtom(atom.name, atom.element, new) for atom in residue.atoms())
    for bond in topology.bonds():
        copy.addBond(atoms[bond[0].index], atoms[bond[1].index])
    return copy


def _check_name(path: Path, name: str, width: int) -> None:
    if len(name) > width:
        raise InputError(f"{path}: the name {name} is longer than the {width} characters that this format has room "
                         "for; write a .cif file")


def _check_range(path: Path, positions: np.ndarray, low: float, high: float) -> None:
    if positions.min() <= low or positions.max() >= high:
        raise InputError(f"{path}: positions reach from {positions.min():.1f} to {positions.max():.1f} nm; this format "
                         f"has room for {low:g} to {high:g}: wrap them into the box or write a .cif file")


def write_system(path: str | Path, system, *, overwrite: bool = False) -> None:
    """Write an ``openmm.System`` as OpenMM XML."""
    _write_xml(path, system, overwrite)


def write_state(path: str | Path, context_or_state, *, overwrite: bool = False) -> None:
    """Write an ``openmm.State`` as OpenMM XML; of a ``Context``, all that a restart needs."""
    state = context_or_state
    if hasattr(state, "getState"):
        state = state.getState(positions=True, velocities=True, parameters=True, integratorParameters=True)
    _write_xml(path, state, overwrite)


def _write_xml(path: str | Path, value, overwrite: bool) -> None:
    from openmm import XmlSerializer

    with replacing(path, overwrite) as part:
        part.write_text(XmlSerializer.serialize(value))


def write_gromacs_topology(path: str | Path, topology, system, *, overwrite: bool = False,
                           title: str = "openmm_backmap") -> None:
    """Write a stand-alone GROMACS topology (.top) of ``system``, its atoms in the order of ``topology``.

    See :func:`openmm_backmap.io.gromacs.topology_text` for what it holds and refuses.
    """
    from openmm_backmap.io.gromacs import topology_text

    text = topology_text(topology, system, title)
    with replacing(path, overwrite) as part:
        part.write_text(text)
