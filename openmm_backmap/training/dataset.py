"""Reference snapshots compiled to one file that training reads: torch and numpy are all that it needs from there on."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from openmm_backmap.chemistry import CGTopology, Chemistry, Target, build_target, parse_chemistry
from openmm_backmap.chemistry.text import read_mapping
from openmm_backmap.energy.bridge import TorchEnergy
from openmm_backmap.environments.local import bead_frames
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.periodic import make_whole
from openmm_backmap.io.writers import TRAJECTORIES, replacing
from openmm_backmap.training.energies import energies_from_arrays, energies_to_arrays
from openmm_backmap.training.symmetry import symmetric_copies

FORMAT = "openmm_backmap data set"
VERSION = 3
#: what names the atoms of the trajectories in its folder
TOPOLOGY = "topology.pdb"
_TOLD_EVERY = 1000


@dataclass(frozen=True)
class Frames:
    """Snapshots of one system.

    Attributes
    ----------
    target : Target
    positions : ndarray, shape (n_frames, n_atoms, 3), nm
        Whole molecules.
    boxes : ndarray, shape (n_frames, 3, 3), nm, or None
        None where the system has no box.
    energy : TorchEnergy, optional
        That of the system, where it has been made (:func:`openmm_backmap.training.dbm_data.system_energies`).
    starts : ndarray of int
        Frames, in ascending order, that do not follow the frame before them in time: the first of each trajectory.
        Where it is not given, every frame is one.
    """

    target: Target
    positions: np.ndarray
    boxes: np.ndarray | None
    energy: TorchEnergy | None = None
    starts: np.ndarray | None = None

    def __post_init__(self):
        if self.starts is None:
            object.__setattr__(self, "starts", np.arange(len(self.positions)))

    def snapshots(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Positions (n_atoms, 3) and box (3, 3) or None of each frame."""
        return zip(self.positions, repeat(None) if self.boxes is None else self.boxes)


@dataclass(frozen=True)
class Dataset:
    """Snapshots of any number of systems, each of a chemistry (``target.chemistry``); ``chemistry`` is the first."""

    chemistry: Chemistry
    systems: tuple[Frames, ...]

    @property
    def chemistries(self) -> tuple[Chemistry, ...]:
        """All of them, each once, ``chemistry`` first."""
        return _distinct([self.chemistry, *(system.target.chemistry for system in self.systems)])

    @property
    def n_frames(self) -> int:
        return sum(len(s.positions) for s in self.systems)

    @property
    def n_beads(self) -> int:
        return sum(len(s.positions) * s.target.n_beads for s in self.systems)


def _distinct(chemistries: Sequence[Chemistry]) -> tuple[Chemistry, ...]:
    found: dict[tuple[str, str], Chemistry] = {}
    for chemistry in chemistries:
        found.setdefault(_texts(chemistry), chemistry)
    return tuple(found.values())


def _texts(chemistry: Chemistry) -> tuple[str, str]:
    return chemistry.source, chemistry.force_field_xml


@dataclass(frozen=True)
class _Gathered:
    """Frames of one system as they are read, file by file."""

    target: Target
    positions: list[np.ndarray] = field(default_factory=list)
    boxes: list[np.ndarray | None] = field(default_factory=list)
    files: list = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def add(self, source, progress=None) -> None:
        """The frames of a file, which follow each other."""
        self.starts.append(len(self.positions))
        for k, frame in enumerate(source.frames()):
            if progress and k % _TOLD_EVERY == 0:
                progress(f"reading {source.path.name}", k, source.n_frames)
            self.positions.append(make_whole(frame.positions, frame.box, self.target.bonds).astype(np.float32))
            self.boxes.append(frame.box)
            self.files.append(source.path)

    def frames(self) -> Frames:
        """All of them, under every name that the symmetry of the molecules allows."""
        from openmm_backmap.io.frames import stacked_boxes

        copies = symmetric_copies(self.target, np.array(self.positions))
        starts = [np.array(self.starts) + k * len(self.positions) for k in range(len(copies))]
        return Frames(self.target, np.concatenate(copies), stacked_boxes(self.boxes * len(copies), self.files),
                      starts=np.concatenate(starts))


def compile_dataset(files, chemistries: Chemistry | Sequence[Chemistry], progress=None) -> Dataset:
    """Read all-atom snapshots and trajectories (files that :mod:`openmm_backmap.io` reads) and join broken molecules.

    Files of the same chains become one system, with a copy for each other way to name symmetric molecules
    (:mod:`openmm_backmap.training.symmetry`). Atoms must be named and ordered as the recipes write them; those of a
    trajectory are named by ``topology.pdb`` in its folder. Of several chemistries, a file is of that which has
    templates of all its residues. Frames of one file are taken to follow each other in time.

    Raises
    ------
    InputError
        No snapshots, a system with a box in some files only, a chemistry given twice, a trajectory without names, or a
        file of none or of more than one of the chemistries.
    ChemistryError
        A file that has other atoms than its chemistry.
    """
    from openmm_backmap.chemistry.match import match_atoms
    from openmm_backmap.io.readers import open_cg

    chemistries = (chemistries,) if isinstance(chemistries, Chemistry) else tuple(chemistries)
    if len(_distinct(chemistries)) < len(chemistries):
        raise InputError(f"chemistries {', '.join(c.name for c in chemistries)}: one is given twice")
    found: dict[tuple, _Gathered] = {}
    for k, file in enumerate(files):
        source = open_cg(file, _names_beside(Path(file)))
        chemistry = _chemistry_of(source.topology, chemistries, file)
        target = match_atoms(chemistry, source.topology, where=str(file))
        found.setdefault((_texts(chemistry), target.chains), _Gathered(target)).add(
            source, progress if source.n_frames > _TOLD_EVERY else None)
        if progress:
            progress("reading", k + 1, len(files))
    if not found:
        raise InputError("no snapshots to train on")
    systems = tuple(gathered.frames() for gathered in found.values())
    return Dataset(next(c for c in chemistries if any(s.target.chemistry is c for s in systems)), systems)


def _names_beside(file: Path) -> Path | None:
    """The structure that names the atoms of a trajectory; None for a structure, which names its own."""
    if file.suffix.lower() not in TRAJECTORIES:
        return None
    if not file.with_name(TOPOLOGY).is_file():
        raise InputError(f"{file}: a trajectory holds no names: put a structure of its atoms beside it, as {TOPOLOGY}")
    return file.with_name(TOPOLOGY)


def _chemistry_of(topology: CGTopology, chemistries: tuple[Chemistry, ...], file) -> Chemistry:
    """The one chemistry that has templates of all residues of a file."""
    if len(chemistries) == 1:
        return chemistries[0]
    residues = set(topology.residue_names)
    fitting = [c for c in chemistries if residues <= {*c.templates, *map(c.written, c.templates)}]
    if len(fitting) == 1:
        return fitting[0]
    words = ", ".join(sorted(residues)[:6]) + (", ..." if len(residues) > 6 else "")
    if fitting:
        raise InputError(f"{file}: its residues ({words}) are templates of {' and of '.join(c.name for c in fitting)}; "
                         "compile data sets one chemistry at a time, or give other names to the templates of one")
    raise InputError(f"{file}: none of the chemistries {', '.join(c.name for c in chemistries)} has templates of all "
                     f"its residues ({words}); give its chemistry too")


def save_dataset(dataset: Dataset, path: str | Path, overwrite: bool = True) -> None:
    """Write ``dataset`` as plain arrays (.npz), with the energies of its systems if all have them."""
    chemistries = dataset.chemistries
    number = {_texts(chemistry): k for k, chemistry in enumerate(chemistries)}
    arrays: dict[str, np.ndarray] = {}
    for k, system in enumerate(dataset.systems):
        arrays[f"positions_{k}"], arrays[f"starts_{k}"] = system.positions, system.starts
        if system.boxes is not None:
            arrays[f"boxes_{k}"] = system.boxes
    energies = [system.energy for system in dataset.systems]
    # What the text says too: who reads the file may have nothing that reads YAML.
    texts = [{"source": c.source, "force_field": c.force_field_xml, "content": read_mapping(c.source, c.name)}
             for c in chemistries]
    header: dict[str, Any] = {
        "format": FORMAT, "version": VERSION, "chemistries": texts,
        "systems": [{"chemistry": number[_texts(s.target.chemistry)], "chains": s.target.chains}
                    for s in dataset.systems]}
    if None not in energies:
        header["energies"], parts = energies_to_arrays(energies)
        arrays.update({f"energy_{name}": part for name, part in parts.items()})
    with replacing(path, overwrite) as part, part.open("wb") as file:
        np.savez_compressed(file, header=np.array(json.dumps(header, default=str)), **arrays)


def load_dataset(path: str | Path) -> Dataset:
    """Read what :func:`save_dataset` wrote; torch and numpy are enough for that."""
    try:
        # Opened here: numpy would leave a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
            header = _current(json.loads(str(data["header"])), path)
            chemistries = [parse_chemistry(c["source"], c["force_field"], f"{path}: chemistry", c["content"])
                           for c in header["chemistries"]]
            targets = [build_target(chemistries[s["chemistry"]], s["chains"]) for s in header["systems"]]
            energies = [None] * len(targets) if "energies" not in header else energies_from_arrays(
                header["energies"], {name[7:]: data[name] for name in data.files if name.startswith("energy_")})
            return Dataset(chemistries[0], tuple(
                Frames(target, data[f"positions_{k}"], _optional(data, f"boxes_{k}"), energy,
                       _optional(data, f"starts_{k}"))
                for k, (target, energy) in enumerate(zip(targets, energies, strict=True))))
    except _Version:
        raise
    except (OSError, EOFError, ValueError, LookupError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a compiled data set, or damaged ({error})") from None


def _optional(data, name: str) -> np.ndarray | None:
    return data[name] if name in data.files else None


class _Version(InputError):
    """A data set of another version; not to be taken for a damaged one."""


def _current(header: Mapping, path: str | Path) -> Mapping:
    """A header of this version; the second had a box in every system and no ``starts``, the first also one chemistry
    and no number."""
    if isinstance(header, Mapping) and "version" not in header and "chemistry" in header:
        chemistry = {"source": header["chemistry"], "force_field": header["force_field"], "content": None}
        return {"chemistries": [chemistry], "systems": [{"chemistry": 0, "chains": c} for c in header["chains"]]}
    if header["format"] != FORMAT:
        raise ValueError("it holds something else")
    if header["version"] not in (2, VERSION):
        raise _Version(f"{path}: format version {header['version']}, this package reads {VERSION}; upgrade "
                         "openmm_backmap or compile the data again")
    return header


def with_settled_labels(dataset: Dataset) -> Dataset:
    """Swap equivalent labels (the two sides of a ring, the hydrogens of a CH2) so that each points one way.

    A ring turned by half a turn is the same structure under other names. Without this a network would have to learn
    both, and would mix them. In the frame of the bead, the line between two equivalent atoms is pointed along the
    direction in which it mostly lies.
    """
    return replace(dataset, systems=tuple(_settle(system) for system in dataset.systems))


def _settle(system: Frames) -> Frames:
    target = system.target
    if not target.swaps:
        return system
    kinds: dict[str, list[int]] = {}
    for k, (a, _) in enumerate(target.swaps):
        kinds.setdefault(f"{target.bead_type[target.bead_of_atom[a[0]]]}:{target.atom_names[a[0]]}", []).append(k)
    positions = system.positions.copy()
    beads = np.stack([target.mapping @ x.astype(float) for x in positions])
    frames = np.stack([bead_frames(target, r, box) for r, (_, box) in zip(beads, system.snapshots())])
    for members in kinds.values():
        a = np.array([target.swaps[k][0] for k in members])
        b = np.array([target.swaps[k][1] for k in members])
        line = positions[:, a[:, 0]] - positions[:, b[:, 0]]
        line = np.einsum("fmi,fmki->fmk", line, frames[:, target.bead_of_atom[a[:, 0]]])
        axis = np.linalg.eigh(np.einsum("fmi,fmj->ij", line, line))[1][:, -1]
        # An eigenvector has no sign of its own; fix it, so that every data set is settled alike.
        axis = axis * np.sign(axis[np.argmax(np.abs(axis))])
        frame, which = np.nonzero(line @ axis < 0)
        i, j = a[which], b[which]
        rows = frame[:, None]
        positions[rows, i], positions[rows, j] = positions[rows, j], positions[rows, i].copy()
    return replace(system, positions=positions)
