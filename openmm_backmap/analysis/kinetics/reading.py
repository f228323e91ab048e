"""Atomistic trajectories of one molecule, read in pieces: memory does not grow with their length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Chemistry, Target
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.periodic import make_whole
from openmm_backmap.io.atomistic import LONG_SHARE, AtomMatcher, check_bonds, find_files
from openmm_backmap.io.frames import CGSource, cell_box, named_errors, vectors_box
from openmm_backmap.io.readers import TRAJECTORIES, open_cg, trajectory_file

_ATOMS_PER_PIECE = 200_000
_BROKEN_NM = 0.5  # a bond so long passes through the box's wall, or there is no saving the structure


@dataclass(frozen=True)
class Piece:
    """Consecutive frames.

    Attributes
    ----------
    positions : ndarray, shape (n_frames, n_atoms, 3), nm
        Whole molecules.
    boxes : ndarray, shape (n_frames, 3, 3), nm, or None
    times : ndarray, shape (n_frames,), ps, or None
    """

    positions: np.ndarray = field(repr=False)
    boxes: np.ndarray | None = field(repr=False)
    times: np.ndarray | None = field(repr=False)


@dataclass(frozen=True)
class Trajectories:
    """Independent trajectories of one molecule, a file each.

    Attributes
    ----------
    label : str
    target : Target
    sources : tuple of CGSource
    long_share : float or None
        So many of the bonds may be far too long; None where they are not looked at.
    """

    label: str
    target: Target = field(repr=False)
    sources: tuple[CGSource, ...] = field(repr=False)
    long_share: float | None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each."""
        return tuple(source.n_frames for source in self.sources)

    def pieces(self, k: int) -> Iterator[Piece]:
        """All frames of trajectory ``k``, in order."""
        source = self.sources[k]
        size = max(1, _ATOMS_PER_PIECE // self.target.n_atoms)
        read = _binary if source.path.suffix.lower() in TRAJECTORIES else _text
        for number, piece in enumerate(read(source, size)):
            yield self._whole(piece, source, first=number == 0)

    def _whole(self, piece: Piece, source: CGSource, first: bool) -> Piece:
        """Molecules made whole; looked at in the first frame of a file and wherever a bond is long."""
        x = piece.positions
        if not np.isfinite(x).all():
            raise InputError(f"{source.path}: has positions that are not finite")
        i, j = self.target.bonds.T
        long = np.flatnonzero((((x[:, i] - x[:, j]) ** 2).sum(-1) > _BROKEN_NM ** 2).any(axis=1))
        for k in long if piece.boxes is not None else ():
            x[k] = make_whole(x[k], piece.boxes[k], self.target.bonds)
        if self.long_share is not None:
            for k in {*([0] if first else []), *(long.tolist() if self.long_share == 0 else [])}:
                check_bonds(self.target, x[k], source.topology, str(source.path), self.long_share)
        return piece


def open_trajectories(label: str, paths: Sequence[str | Path], chemistry: Chemistry, *,
                      topology: str | Path | None = None, aliases: Mapping[str, str] | None = None,
                      strict: bool = False) -> Trajectories:
    """Open the trajectories of a label.

    Parameters
    ----------
    label : str
    paths : sequence of paths
        Files or patterns; trajectories (.xtc, .trr, .dcd), or structures of several frames.
    chemistry : Chemistry
    topology : path, optional
        A structure that names the atoms of trajectories.
    aliases : mapping, optional
        Names in the files to be read as others.
    strict : bool
        Refuse any bond that is far too long, as is right for a reference
        (:func:`openmm_backmap.io.atomistic.open_atoms`).

    Raises
    ------
    InputError
        A file is missing, damaged or of less than two frames, or holds more than one molecule, or another one.
    ChemistryError
        Residues or atoms are not the chemistry's.
    """
    matcher, target, sources = AtomMatcher(chemistry, aliases or {}), None, []
    by_order = False
    for file in find_files(paths):
        source = open_cg(file, topology if file.suffix.lower() in TRAJECTORIES else None)
        found, by_order = matcher.target(source.topology, str(file))
        if len(found.chains) != 1:
            raise InputError(f"{file}: holds {len(found.chains)} molecules; trajectories of one molecule are judged, "
                             "several of them as several files")
        if target is not None and found.chains != target.chains:
            raise InputError(f"{file}: holds another molecule ({_name(found)}) than {sources[0].path} "
                             f"({_name(target)})")
        if source.n_frames < 2:
            raise InputError(f"{file}: holds a single frame; a trajectory is needed")
        target = target or found
        sources.append(source)
    return Trajectories(label, target, tuple(sources), 0.0 if strict else LONG_SHARE if by_order else None)


def _name(target: Target) -> str:
    return "-".join(target.residue_names)


def _binary(source: CGSource, size: int) -> Iterator[Piece]:
    kind = source.path.suffix.lower()
    with named_errors(source.path), trajectory_file(source.path) as file:
        left = source.n_frames
        while left > 0:
            read = file.read(n_frames=min(size, left))
            if not len(read[0]):
                raise InputError(f"{source.path}: cut off: {left} of {source.n_frames} frames cannot be read")
            left -= len(read[0])
            yield _of_dcd(*read) if kind == ".dcd" else _of_gromacs(*read[:4])


def _of_dcd(xyz, lengths, angles) -> Piece:
    boxes = None if lengths is None else _boxes(np.concatenate([lengths / 10, angles], axis=1),
                                                lambda cell: cell_box(cell[:3], cell[3:]))
    return Piece(xyz.astype(float) / 10, boxes, None)


def _of_gromacs(xyz, times, _, vectors) -> Piece:
    boxes = None if vectors is None else _boxes(vectors, vectors_box)
    return Piece(xyz.astype(float), boxes, np.asarray(times, dtype=float))


def _boxes(cells: np.ndarray, read) -> np.ndarray | None:
    """Boxes (n_frames, 3, 3), each different cell read once; None where there are none."""
    different, which = np.unique(cells, axis=0, return_inverse=True)
    boxes = [read(cell) for cell in different]
    return None if any(box is None for box in boxes) else np.array(boxes)[which.ravel()]


def _text(source: CGSource, size: int) -> Iterator[Piece]:
    frames = source.frames()
    while batch := list(islice(frames, size)):
        boxes = None if any(f.box is None for f in batch) else np.array([f.box for f in batch])
        times = None if any(f.time_ps is None for f in batch) else np.array([f.time_ps for f in batch])
        yield Piece(np.array([f.positions for f in batch], dtype=float), boxes, times)
