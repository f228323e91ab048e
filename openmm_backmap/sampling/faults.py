"""Beads that came out wrong, in a whole melt or near the beads that have just been drawn again."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from openmm_backmap.chemistry.parts import part_of
from openmm_backmap.chemistry.target import NONE, Target
from openmm_backmap.geometry.checks import (
    FOLDED_NM,
    close_contacts,
    inverted_centres,
    near_pairs,
    pierced_rings,
    ring_planarity,
    rings,
)

#: more than an environment reaches; a fault whose atoms lie within 0.5 nm of their beads is seen whole
HALO_NM = 1.3
#: bonds along which an environment, or half a ring, reaches
_PATH_BONDS = 5
#: about as many beads lie around one, twice as far as the halo
_AROUND = 300


def faulty_beads(target: Target, x: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Beads that own an atom of an inverted centre, a pierced or folded ring or a close contact.

    ``x`` (n_atoms, 3), nm, whole molecules; ``box`` (3, 3) or None.
    """
    ring, bond = pierced_rings(target, x, box).T
    folded = np.flatnonzero(ring_planarity(target, x) > FOLDED_NM)
    atoms = [target.stereo[inverted_centres(target, x)].ravel(), close_contacts(target, x, box).ravel(),
             target.bonds[bond].ravel(), *(rings(target)[k] for k in (*ring, *folded))]
    return np.unique(target.bead_of_atom[np.concatenate(atoms).astype(int)])


class Nearby:
    """What lies around some beads of a melt: ``beads`` (n_beads, 3), nm, whole molecules."""

    def __init__(self, target: Target, beads: np.ndarray, box: np.ndarray | None):
        self.target, self.beads, self.box = target, beads, box

    @cached_property
    def _joined(self) -> tuple[np.ndarray, np.ndarray]:
        """Beads that a bond joins, each pair both ways."""
        i, j = np.unique(self.target.bead_of_atom[self.target.bonds], axis=0).T
        return np.r_[i, j], np.r_[j, i]

    def of(self, own: np.ndarray) -> np.ndarray:
        """Beads, ascending: ``own``, those within :data:`HALO_NM`, along bonds, and those that frames lean on."""
        seen = np.zeros(self.target.n_beads, dtype=bool)
        seen[own] = True
        i, j = self._joined
        for _ in range(_PATH_BONDS):
            seen[j[seen[i]]] = True
        seen[near_pairs(self.beads[own], self.beads, self.box, HALO_NM)[1]] = True
        frame = self.target.bead_frame[own]
        seen[frame[frame != NONE]] = True
        return np.flatnonzero(seen)

    def few(self, moved: np.ndarray | None) -> bool:
        """Whether a look around ``moved`` beads is less than one at everything."""
        return moved is not None and len(moved) * _AROUND < self.target.n_beads

    def faulty(self, x: np.ndarray, moved: np.ndarray | None = None) -> np.ndarray:
        """:func:`faulty_beads`; where none but ``moved`` beads may be wrong, by a look at what is near them alone."""
        if not self.few(moved):
            return faulty_beads(self.target, x, self.box)
        own = self.of(moved)
        near = self.of(own)
        part, atoms = part_of(self.target, near)
        return np.intersect1d(near[faulty_beads(part, x[atoms], self.box)], own)
