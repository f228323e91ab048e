"""How far atoms move from one frame to the next: what tells frames that follow from each other from those that do not.

Two kinds. ``laboratory`` is the plain displacement, as the root-mean-square velocities of Shmilovich et al., J. Phys.
Chem. A 126, 9124 (2022), figs. 6 and 10, times the time between frames: a molecule's drift and tumbling, which the
beads have already, are the larger part of it. ``internal`` is what is left after the beads of the later frame have been
laid on those of the earlier: it tells of the atoms alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.periodic import lattice_shifts
from openmm_backmap.geometry.superposition import rotations

LABORATORY, INTERNAL = "laboratory", "internal"
ALL, FRAME = "all atoms", "root mean square of a frame"
BINS = 50
_FINE = 4000
_REACH = 2.0         # of the fine bins, in units of what one in a thousand exceeds
_BEYOND = 1e-3


@dataclass(frozen=True)
class Moves:
    """A kind of displacement of the atoms of a molecule.

    Attributes
    ----------
    name : str
        :data:`LABORATORY` or :data:`INTERNAL`.
    target : Target
    reach_nm : float
        Of the fine bins.
    """

    name: str
    target: Target = field(repr=False)
    reach_nm: float

    def of(self, positions: np.ndarray, boxes: np.ndarray | None) -> np.ndarray:
        """Displacements (n_frames - 1, n_atoms), nm, between consecutive frames (n_frames, n_atoms, 3), nm; ``boxes``
        (n_frames - 1, 3, 3) are those of the later ones."""
        before, after = positions[:-1], positions[1:]
        if self.name == INTERNAL:
            first, second = (mapped(self.target, x) for x in (before, after))
            origins = first.mean(axis=1, keepdims=True), second.mean(axis=1, keepdims=True)
            turn = rotations(second - origins[1], first - origins[0])
            return np.linalg.norm((after - origins[1]) @ turn - (before - origins[0]), axis=-1)
        step = after - before
        step -= lattice_shifts(step.mean(axis=1), boxes)[:, None]
        return np.linalg.norm(step, axis=-1)


def kinds_of_moves(target: Target, positions: np.ndarray, boxes: np.ndarray | None) -> list[Moves]:
    """The kinds there are for a molecule, with bins that suit the frames (n_frames, n_atoms, 3), nm, of a reference;
    beads can be laid on beads where there are three."""
    names = (LABORATORY, INTERNAL) if target.n_beads >= 3 else (LABORATORY,)
    found = []
    for name in names:
        values = Moves(name, target, 0.0).of(positions, None if boxes is None else boxes[1:])
        found.append(Moves(name, target, max(_REACH * float(np.quantile(values, 1 - _BEYOND)), 1e-6)))
    return found


def classes_of(target: Target) -> dict[str, np.ndarray]:
    """Atoms by the type class of the force field, in the order of the names."""
    names = np.array(target.chemistry.type_classes)[target.atom_type]
    return {str(name): np.flatnonzero(names == name) for name in sorted(set(names.tolist()))}


@dataclass(frozen=True)
class MoveCounts:
    """Histograms of displacements.

    Attributes
    ----------
    reach_nm : float
    classes : dict of str to ndarray
        See :func:`classes_of`.
    tables : dict of str to ndarray of int, shape (n_blocks, _FINE + 1)
        By class, :data:`ALL` and :data:`FRAME`; the last bin is beyond.
    sums : dict of str to float
        Sums of the displacements, nm.
    """

    reach_nm: float
    classes: dict[str, np.ndarray] = field(repr=False)
    tables: dict[str, np.ndarray] = field(repr=False)
    sums: dict[str, float] = field(repr=False)

    @classmethod
    def zeros(cls, kind: Moves, n_blocks: int) -> MoveCounts:
        """Nothing counted so far."""
        classes = classes_of(kind.target)
        names = (ALL, FRAME, *classes)
        return cls(kind.reach_nm, classes, {n: np.zeros((n_blocks, _FINE + 1), dtype=np.int64) for n in names},
                   dict.fromkeys(names, 0.0))

    def add(self, moves: np.ndarray, block: np.ndarray) -> None:
        """Count displacements (n, n_atoms), nm, of frames in blocks (n,)."""
        values = {FRAME: np.sqrt((moves ** 2).mean(axis=1, keepdims=True)), ALL: moves,
                  **{name: moves[:, atoms] for name, atoms in self.classes.items()}}
        for name, value in values.items():
            bins = np.minimum(value * (_FINE / self.reach_nm), _FINE).astype(np.int64)
            keys = block[:, None] * (_FINE + 1) + bins
            self.tables[name] += np.bincount(keys.ravel(), minlength=self.tables[name].size).reshape(
                self.tables[name].shape)
            self.sums[name] += float(value.sum())

    def mean(self, name: str) -> float:
        """Mean displacement, nm."""
        return self.sums[name] / max(int(self.tables[name].sum()), 1)

    def coarse(self, name: str, edges: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """Histograms (n_blocks, n_bins + 1) in other bins, the last beyond, of displacements times ``scale``."""
        centres = (np.arange(_FINE) + 0.5) * (self.reach_nm / _FINE) * scale
        place = np.r_[np.searchsorted(edges, centres, side="right") - 1, len(edges) - 1]
        table = np.zeros((len(self.tables[name]), len(edges)), dtype=np.int64)
        np.add.at(table.T, place, self.tables[name].T)
        return table

    def edges(self, name: str) -> np.ndarray:
        """Bins of equal width, (BINS + 1,), nm, up to what one in a thousand of these displacements exceeds."""
        total = self.tables[name].sum(axis=0)
        last = int(np.searchsorted(np.cumsum(total), (1 - _BEYOND) * total.sum()))
        return np.linspace(0.0, (min(last, _FINE - 1) + 1) * self.reach_nm / _FINE, BINS + 1)
