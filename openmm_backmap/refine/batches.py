"""Exact beads and exact bonds for many frames of a molecule at once."""

from __future__ import annotations

import numpy as np

from openmm_backmap.chemistry.system import create_flexible_system
from openmm_backmap.chemistry.target import Target
from openmm_backmap.refine.projection import project, satisfy_bonds
from openmm_backmap.refine.systems import constrained_bonds


class ExactBatch:
    """Moves atoms onto their beads and gives constrained bonds their lengths, frame by frame of a batch.

    Bonds to end atoms that no bead counts (the hydrogens of most mappings) are set by moving the end atom alone, for
    all frames together; others frame by frame, by :func:`openmm_backmap.refine.projection.satisfy_bonds`.

    Parameters
    ----------
    target : Target
    """

    def __init__(self, target: Target):
        self.target = target
        self.pairs, self.lengths = constrained_bonds(target, create_flexible_system(target, None))
        self._heavy, self._end = _ends(target, self.pairs)

    def __call__(self, positions: np.ndarray, beads: np.ndarray) -> np.ndarray:
        """Positions (B, n_atoms, 3), nm, near those given, on the beads (B, n_beads, 3), nm."""
        x = project(self.target, positions, beads)
        if self._heavy is None:
            return np.stack([satisfy_bonds(self.target, one, on, self.pairs, self.lengths)
                             for one, on in zip(x, beads, strict=True)])
        bond = x[:, self._end] - x[:, self._heavy]
        x[:, self._end] = x[:, self._heavy] + bond * (self.lengths / np.linalg.norm(bond, axis=-1))[..., None]
        return x


def _ends(target: Target, pairs: np.ndarray):
    """Of each pair the atom that stays and the one at its end; (None, None) where a pair has no free end."""
    bonds = np.bincount(target.bonds.ravel(), minlength=target.n_atoms)
    counted = np.bincount(target.mapping.tocoo().col, minlength=target.n_atoms)
    free = (bonds == 1) & (counted == 0)
    if not free[pairs].any(axis=1).all():
        return None, None
    second = free[pairs[:, 1]]
    return np.where(second, pairs[:, 0], pairs[:, 1]), np.where(second, pairs[:, 1], pairs[:, 0])
