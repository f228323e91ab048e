"""One pass over the frames of a label: what judging needs of them, in memory that is a few numbers a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from openmm_backmap.analysis.kinetics.energies import FrameEnergies
from openmm_backmap.analysis.kinetics.moves import MoveCounts, Moves
from openmm_backmap.analysis.kinetics.observables import Observables
from openmm_backmap.analysis.kinetics.reading import Trajectories
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.periodic import lattice_shifts

Progress = Callable[[str, int, int], None]
#: Consecutive frames are alike: all errors and floors are of so many blocks of them.
BLOCKS = 10
_SAME_NM = 0.1


@dataclass(frozen=True)
class Measured:
    """All that is kept of the trajectories of a label.

    Attributes
    ----------
    label : str
    lengths : tuple of int
        Frames of each trajectory.
    energies : ndarray, shape (n_frames,), kJ/mol
        Infinite where atoms lie on each other.
    features : ndarray, shape (n_frames, n_features)
        See :meth:`Observables.features`.
    beads : ndarray, shape (n_frames, n_beads, 3), nm
    moves : dict of str to MoveCounts
    wrong : ndarray of int, shape (4,)
        Of :data:`openmm_backmap.analysis.kinetics.observables.CHECKS`, over all frames.
    bead_rmsd : float, nm
        Root mean square distance of the beads from the reference's; NaN where the frames are others.
    spacing_ps : float or None
        Time between frames; None where the files do not tell.
    """

    label: str
    lengths: tuple[int, ...]
    energies: np.ndarray = field(repr=False)
    features: np.ndarray = field(repr=False)
    beads: np.ndarray = field(repr=False)
    moves: dict[str, MoveCounts] = field(repr=False)
    wrong: np.ndarray
    bead_rmsd: float
    spacing_ps: float | None

    @property
    def n_frames(self) -> int:
        return sum(self.lengths)

    @property
    def block(self) -> np.ndarray:
        """The block of each frame, (n_frames,)."""
        return block_of(np.arange(self.n_frames), self.n_frames)

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """``values`` (n_frames, ...) of each trajectory."""
        return np.split(values, np.cumsum(self.lengths)[:-1])


def block_of(frame: np.ndarray, n_frames: int) -> np.ndarray:
    """The block of frames counted over all trajectories of a label."""
    return frame * BLOCKS // n_frames


def measure(runs: Trajectories, observables: Observables, energies: FrameEnergies, moves: Sequence[Moves],
            reference: Measured | None = None, progress: Progress | None = None) -> Measured:
    """Read the trajectories of a label once.

    Parameters
    ----------
    runs : Trajectories
    observables : Observables
    energies : FrameEnergies
    moves : sequence of Moves
    reference : Measured, optional
        Whose beads are those of the same frames, if numbers of frames agree and beads are near.
    progress : callable, optional
    """
    total, target = sum(runs.lengths), runs.target
    found = {"energies": [], "features": [], "beads": []}
    counts = {kind.name: MoveCounts.zeros(kind, BLOCKS) for kind in moves}
    wrong, distance, spacing, done = np.zeros(4, dtype=np.int64), _BeadDistance(reference, runs), None, 0
    for k in range(len(runs.sources)):
        last = None
        for piece in runs.pieces(k):
            x, beads = piece.positions, mapped(target, piece.positions)
            block = block_of(done + np.arange(len(x)), total)
            found["energies"].append(energies(x))
            found["features"].append(observables.features(x).astype(np.float32))
            found["beads"].append(beads.astype(np.float32))
            wrong += observables.checks(x).sum(axis=0)
            distance.add(done, beads, piece.boxes)
            joined, start = (x, 1) if last is None else (np.concatenate([last, x]), 0)
            boxes = None if piece.boxes is None else piece.boxes[start:]
            for kind in moves:
                counts[kind.name].add(kind.of(joined, boxes), block[start:])
            if spacing is None and piece.times is not None and len(x) > 1:
                spacing = float(piece.times[1] - piece.times[0])
            last, done = x[-1:], done + len(x)
            if progress:
                progress(f"reading {runs.label}", done, total)
    arrays = {name: np.concatenate(parts) for name, parts in found.items()}
    return Measured(runs.label, runs.lengths, **arrays, moves=counts, wrong=wrong, bead_rmsd=distance.rmsd,
                    spacing_ps=spacing if spacing and spacing > 0 else None)


class _BeadDistance:
    """Sums up how far beads are from the reference's, as long as the frames are the same."""

    def __init__(self, reference: Measured | None, runs: Trajectories):
        self._beads = reference.beads if reference is not None and reference.lengths == runs.lengths else None
        self._sum, self._n = 0.0, 0

    def add(self, first: int, beads: np.ndarray, boxes: np.ndarray | None) -> None:
        if self._beads is None:
            return
        apart = beads - self._beads[first:first + len(beads)]
        apart -= lattice_shifts(apart.mean(axis=1), boxes)[:, None]
        squares = (apart ** 2).sum(-1)
        if self._n == 0 and squares[0].mean() > _SAME_NM ** 2:
            self._beads = None
            return
        self._sum, self._n = self._sum + squares.sum(), self._n + squares.size

    @property
    def rmsd(self) -> float:
        return float(np.sqrt(self._sum / self._n)) if self._beads is not None and self._n else float("nan")
