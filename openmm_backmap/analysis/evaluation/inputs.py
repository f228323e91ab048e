"""What an evaluation starts from: reference structures, and the beads that are to be backmapped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.chemistry import CGTopology, Chemistry, Target, match_beads, whole_beads
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.periodic import minimum_image
from openmm_backmap.io.atomistic import AtomFrames, find_files, open_atoms
from openmm_backmap.io.frames import stacked_boxes
from openmm_backmap.io.readers import TRAJECTORIES, open_cg

# Labels that are not for models.
REFERENCE, HELD_OUT, PAIRED = "reference", "held out", "paired"
# Beads that agree with an atomistic structure to this are taken to be its own: files round to 0.001 nm, and the beads
# of two frames of a melt differ by far more.
_SAME_NM = 0.005


@dataclass(frozen=True)
class Frames:
    """Coarse-grained frames to backmap, in target order, whole molecules.

    Attributes
    ----------
    beads : ndarray, shape (n_frames, n_beads, 3), nm
    boxes : ndarray, shape (n_frames, 3, 3), nm, or None
    names : tuple of str, length n_frames
        File and, where it holds several, number of the frame.
    """

    beads: np.ndarray = field(repr=False)
    boxes: np.ndarray | None = field(repr=False)
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.beads)

    def box(self, k: int) -> np.ndarray | None:
        return None if self.boxes is None else self.boxes[k]

    def take(self, index: np.ndarray) -> Frames:
        return Frames(self.beads[index], None if self.boxes is None else self.boxes[index],
                      tuple(self.names[k] for k in index))


@dataclass(frozen=True)
class Inputs:
    """Everything that was read.

    Attributes
    ----------
    target : Target
    reference : Ensemble
        What is compared with. ``frame`` is the number of the coarse-grained frame that a structure is behind of, or,
        for structures behind none, a number of its own above those.
    held_out : Ensemble or None
    frames : Frames
    paired : Ensemble or None
        The atomistic structures behind coarse-grained frames, held out or of the reference; at most one a frame.
    hashes : dict of str to list of str
        SHA-256 of the files, by their role.
    """

    target: Target = field(repr=False)
    reference: Ensemble
    held_out: Ensemble | None
    frames: Frames
    paired: Ensemble | None
    hashes: dict[str, list[str]] = field(repr=False)


def read_inputs(chemistry: Chemistry, reference: Sequence, held_out: Sequence = (), cg: Sequence = (), *,
                topology: str | Path | None = None, cg_topology: str | Path | None = None, n_frames: int | None = None,
                aliases: Mapping[str, str] | None = None) -> Inputs:
    """Read the reference and find what is to be backmapped.

    These are the frames of ``cg``; without them the mapped frames of ``held_out``; without these the mapped frames of
    the reference itself.

    Parameters
    ----------
    chemistry : Chemistry
    reference, held_out : sequences of paths
        Atomistic files of one system (:func:`openmm_backmap.io.atomistic.find_files`).
    cg : sequence of paths
        Coarse-grained files of the same system.
    topology, cg_topology : path, optional
        Structures that name the atoms and beads of trajectories.
    n_frames : int, optional
        At most so many coarse-grained frames, evenly spread over all.
    aliases : mapping, optional
        Of residue, atom and bead names in files.

    Raises
    ------
    InputError
        Files hold different systems, or the same file is both reference and held out.
    """
    opened = open_atoms(reference, chemistry, topology=topology, aliases=aliases)
    held = open_atoms(held_out, chemistry, topology=topology, aliases=aliases) if held_out else None
    target = opened.target
    _check_apart(opened, held)
    if cg:
        frames = read_cg(chemistry, target, cg, cg_topology, aliases)
    else:
        frames = _mapped_frames(held or opened)
    if n_frames is not None and n_frames < len(frames):
        if n_frames < 1:
            raise InputError(f"the number of frames is {n_frames}; at least 1 is needed")
        frames = frames.take(np.unique(np.linspace(0, len(frames) - 1, n_frames).round().astype(int)))
    reference_of, held_of = _pairs(target, frames, opened, held)
    reference_ensemble = _ensemble(REFERENCE, opened, reference_of)
    held_ensemble = None if held is None else _ensemble(HELD_OUT, replace(held, target=target), held_of)
    hashes = {"reference": file_hashes(opened.files), "held_out": file_hashes(held.files) if held else [],
              "cg": file_hashes(find_files(cg)) if cg else []}
    return Inputs(target, reference_ensemble, held_ensemble, frames,
                  _paired(reference_ensemble, held_ensemble, len(frames)), hashes)


def read_structures(name: str, paths: Sequence, inputs: Inputs, *, topology: str | Path | None = None,
                    aliases: Mapping[str, str] | None = None) -> Ensemble:
    """Structures made elsewhere, one after the other of the frames that are backmapped; of several draws, those of the
    first frame come first.

    Raises
    ------
    InputError
        Another system, or a number of structures that is no multiple of the number of frames.
    """
    opened = open_atoms(paths, inputs.target.chemistry, topology=topology, aliases=aliases, strict=False)
    if opened.target.chains != inputs.target.chains:
        raise InputError(f"{name}: {opened.files[0]} holds another system than the reference")
    draws, rest = divmod(len(opened), len(inputs.frames))
    if rest:
        raise InputError(f"{name}: {len(opened)} structures for {len(inputs.frames)} coarse-grained frames; give as "
                         "many for each, in the order of the frames")
    frame = np.repeat(np.arange(len(inputs.frames)), draws)
    return Ensemble(name, inputs.target, opened.positions, opened.boxes, frame, inputs.frames.beads[frame])


def bead_topology(chemistry: Chemistry, chains: Sequence[Sequence[str]]) -> CGTopology:
    """The beads of ``chains`` (monomer names) under names that the chemistry reads, one residue a monomer."""
    beads = {name: _bead_names(chemistry, name) for name in dict.fromkeys(m for chain in chains for m in chain)}
    rows = [(bead, monomer, k + 1, c) for c, chain in enumerate(chains) for k, monomer in enumerate(chain)
            for bead in beads[monomer]]
    return CGTopology.from_beads(*zip(*rows))


def _bead_names(chemistry: Chemistry, monomer: str) -> list[str]:
    names = [bead.name for bead in chemistry.monomers[monomer].beads]
    naming = next((n for n in chemistry.cg.namings if set(names) <= set(n)), None)
    if naming is None:
        raise InputError(f"chemistry {chemistry.name}: no naming covers the beads of {monomer}")
    return [naming[name].replace("#", "") for name in names]


def read_cg(chemistry: Chemistry, target: Target, paths: Sequence, topology: str | Path | None,
            aliases: Mapping[str, str] | None) -> Frames:
    """All coarse-grained frames of ``paths``, which must be of the molecules of ``target``."""
    beads: list[np.ndarray] = []
    boxes: list[np.ndarray | None] = []
    names: list[str] = []
    for file in find_files(paths):
        source = open_cg(file, topology if file.suffix.lower() in TRAJECTORIES else None)
        match = None
        for k, frame in enumerate(source.frames()):
            match = match or match_beads(chemistry, source.topology, frame.positions, frame.box, aliases=aliases,
                                         where=str(file))
            if match.target.chains != target.chains:
                raise InputError(f"{file}: holds {len(match.target.chains)} molecules of {match.target.n_beads} beads "
                                 f"in all, the reference {len(target.chains)} of {target.n_beads}, or others: both "
                                 "must be of one system")
            beads.append(whole_beads(target, frame.positions[match.bead_index], frame.box))
            boxes.append(frame.box)
            names.append(file.name if source.n_frames == 1 else f"{file.name}, frame {k}")
    return Frames(np.array(beads), stacked_boxes(boxes, names), tuple(names))


def _mapped_frames(opened: AtomFrames) -> Frames:
    files = opened.files
    names = [file.name if files.count(file) == 1 else f"{file.name}, frame {files[:k].count(file)}"
             for k, file in enumerate(files)]
    return Frames(mapped(opened.target, opened.positions), opened.boxes, tuple(names))


def _check_apart(opened: AtomFrames, held: AtomFrames | None) -> None:
    if held is None:
        return
    if held.target.chains != opened.target.chains:
        raise InputError(f"{held.files[0]}: holds another system than the reference {opened.files[0]}")
    shared = set(file_hashes(opened.files)) & set(file_hashes(held.files))
    if shared:
        file = next(f for f in held.files if file_hashes([f])[0] in shared)
        raise InputError(f"{file}: both reference and held out; the held-out structures must be others")


def _pairs(target: Target, frames: Frames, opened: AtomFrames, held: AtomFrames | None):
    """For each structure of reference and held out, the frame that it is behind of, or a number above those."""
    parts = [part for part in (held, opened) if part is not None]
    apart = np.array([_distances(target, positions, None if part.boxes is None else part.boxes[k], frames)
                      for part in parts for k, positions in enumerate(part.positions)])
    frame = np.full(len(apart), -1)
    for f in range(len(frames)):
        nearest = int(np.argmin(apart[:, f]))
        if apart[nearest, f] < _SAME_NM:
            frame[nearest] = f
            apart[nearest] = np.inf
    frame[frame < 0] = len(frames) + np.arange((frame < 0).sum())
    return frame[-len(opened):], None if held is None else frame[:len(held)]


def _distances(target: Target, positions: np.ndarray, box: np.ndarray | None, frames: Frames) -> np.ndarray:
    """Root mean square distance (nm) of this structure's beads from those of each frame; infinite in another box."""
    if (box is None) != (frames.boxes is None):
        return np.full(len(frames), np.inf)
    apart = minimum_image(frames.beads - mapped(target, positions), box)
    rms = np.sqrt((apart ** 2).sum(-1).mean(-1))
    return rms if box is None else np.where((np.abs(frames.boxes - box) < _SAME_NM).all(axis=(1, 2)), rms, np.inf)


def _paired(reference: Ensemble, held: Ensemble | None, n_frames: int) -> Ensemble | None:
    parts = [e.take(np.flatnonzero(e.frame < n_frames)) for e in (reference, held) if e is not None]
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    order = np.argsort(np.concatenate([part.frame for part in parts]), kind="stable")
    joined = [np.concatenate([getattr(part, name) for part in parts])[order] for name in ("positions", "frame")]
    boxes = None if parts[0].boxes is None else np.concatenate([part.boxes for part in parts])[order]
    return Ensemble(PAIRED, parts[0].target, joined[0], boxes, joined[1])


def _ensemble(name: str, opened: AtomFrames, frame: np.ndarray) -> Ensemble:
    return Ensemble(name, opened.target, opened.positions, opened.boxes, frame)


def file_hashes(files: Iterable[Path]) -> list[str]:
    """SHA-256 of each file, once."""
    found = []
    for path in dict.fromkeys(files):
        with open(path, "rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return found
