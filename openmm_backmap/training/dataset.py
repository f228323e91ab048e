"""Reference snapshots compiled to one file that training reads: no OpenMM needed from there on."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Chemistry, Target, build_target, parse_chemistry
from openmm_backmap.environments.local import bead_frames
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.periodic import make_whole


@dataclass(frozen=True)
class Frames:
    """Snapshots of one system: ``positions`` (n_frames, n_atoms, 3) nm, whole molecules; ``boxes`` (n_frames, 3, 3)."""

    target: Target
    positions: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Snapshots of any number of systems of one chemistry."""

    chemistry: Chemistry
    systems: tuple[Frames, ...]

    @property
    def n_frames(self) -> int:
        return sum(len(s.positions) for s in self.systems)

    @property
    def n_beads(self) -> int:
        return sum(len(s.positions) * s.target.n_beads for s in self.systems)


def compile_dataset(files, chemistry: Chemistry) -> Dataset:
    """Read all-atom snapshots (files that :mod:`openmm_backmap.io` reads) and join broken molecules.

    Snapshots of the same chains become one system. Atoms must be named and ordered as the recipes write them.
    """
    from openmm_backmap.chemistry.match import match_atoms
    from openmm_backmap.io.readers import open_cg

    found: dict[tuple, tuple[Target, list, list]] = {}
    for file in files:
        source = open_cg(file)
        target = match_atoms(chemistry, source.topology)
        target, positions, boxes = found.setdefault(target.chains, (target, [], []))
        for frame in source.frames():
            if frame.box is None:
                raise InputError(f"{file}: no periodic box; reference snapshots are periodic")
            positions.append(make_whole(frame.positions, frame.box, target.bonds))
            boxes.append(frame.box)
    if not found:
        raise InputError("no snapshots to train on")
    return Dataset(chemistry, tuple(Frames(t, np.array(x, np.float32), np.array(b)) for t, x, b in found.values()))


def save_dataset(dataset: Dataset, path: str | Path) -> None:
    """Write ``dataset`` as plain arrays (.npz)."""
    arrays: dict[str, np.ndarray] = {}
    for k, system in enumerate(dataset.systems):
        arrays[f"positions_{k}"], arrays[f"boxes_{k}"] = system.positions, system.boxes
    header = {"chemistry": dataset.chemistry.source, "force_field": dataset.chemistry.force_field_xml,
              "chains": [system.target.chains for system in dataset.systems]}
    part = Path(path).with_name(f".{Path(path).name}.part.npz")
    try:
        np.savez_compressed(part, header=np.array(json.dumps(header)), **arrays)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_dataset(path: str | Path) -> Dataset:
    """Read what :func:`save_dataset` wrote."""
    try:
        # Opened here: numpy would leave a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
            header = json.loads(str(data["header"]))
            chemistry = parse_chemistry(header["chemistry"], header["force_field"], where=f"{path}: chemistry")
            return Dataset(chemistry, tuple(
                Frames(build_target(chemistry, chains), data[f"positions_{k}"], data[f"boxes_{k}"])
                for k, chains in enumerate(header["chains"])))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a compiled data set, or damaged ({error})") from None


def with_settled_labels(dataset: Dataset) -> Dataset:
    """Swap equivalent labels (the two sides of a ring, the hydrogens of a CH2) so that each points one way.

    A ring turned by half a turn is the same structure under other names. Without this a network would have to learn
    both, and would mix them. In the frame of the bead, the line between two equivalent atoms is pointed along the
    direction in which it mostly lies.
    """
    return Dataset(dataset.chemistry, tuple(_settle(system) for system in dataset.systems))


def _settle(system: Frames) -> Frames:
    target = system.target
    if not target.swaps:
        return system
    kinds: dict[str, list[int]] = {}
    for k, (a, _) in enumerate(target.swaps):
        kinds.setdefault(f"{target.bead_type[target.bead_of_atom[a[0]]]}:{target.atom_names[a[0]]}", []).append(k)
    positions = system.positions.copy()
    beads = np.stack([target.mapping @ x.astype(float) for x in positions])
    frames = np.stack([bead_frames(target, r, box) for r, box in zip(beads, system.boxes)])
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
    return Frames(target, positions, system.boxes)
