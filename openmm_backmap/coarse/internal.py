"""Internal coordinates of the beads of one molecule, differentiable: what a learned force field sees.

Distances of all pairs, and the dihedrals and impropers of the bead graph as cosines and sines, so that the two hands of
a molecule differ and no value jumps (J. Wang et al., ACS Cent. Sci. 5, 755 (2019)). Angles follow from the distances.
Tensors have the molecules last: what is done to each of them then lies in one piece, and a step of a hundred molecules
takes half as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from openmm_backmap.chemistry import Target
from openmm_backmap.coarse.graph import bonded_terms
from openmm_backmap.geometry.plain import bonds_apart

# Dihedrals of beads on a line have no direction; this keeps their derivatives finite, nm^4.
_LEAST = 1e-12


@dataclass(frozen=True)
class Coordinates:
    """Which beads make which coordinate of a molecule.

    Attributes
    ----------
    pairs : ndarray of int, shape (n_pairs, 2)
        All that there are.
    apart : ndarray of int, shape (n_pairs,)
        Bonds between them: 1, 2, or 3 for any more.
    torsions : ndarray of int, shape (n_torsions, 4)
        Dihedrals, then impropers, their centre first.
    n_dihedrals : int
    """

    pairs: np.ndarray
    apart: np.ndarray
    torsions: np.ndarray
    n_dihedrals: int

    def differences(self, n_beads: int) -> np.ndarray:
        """Matrix (n_pairs + 3 n_torsions, n_beads) that takes positions to the vectors of pairs, then to those from
        the first to the second bead of each torsion, from the second to the third, and from the third to the last."""
        ends = np.concatenate([self.pairs, *(self.torsions[:, k:k + 2] for k in range(3))])
        matrix = np.zeros((len(ends), n_beads), dtype=np.float32)
        matrix[np.arange(len(ends)), ends[:, 0]] = -1.0
        matrix[np.arange(len(ends)), ends[:, 1]] = 1.0
        return matrix


def coordinates_of(target: Target) -> Coordinates:
    """Coordinates of ``target``, which is one molecule."""
    rows: dict[str, list[np.ndarray]] = {"dihedral": [], "improper": []}
    for name, members in bonded_terms(target).items():
        rows.get(name.split()[0], []).append(members)
    dihedrals, impropers = (np.concatenate([np.empty((0, 4), np.int64), *found]) for found in rows.values())
    pairs = np.stack(np.triu_indices(target.n_beads, 1), axis=1)
    near = np.full((target.n_beads, target.n_beads), 3)
    i, j, bonds = bonds_apart(target.n_beads, target.bead_bonds, 2)
    near[i, j] = near[j, i] = bonds
    return Coordinates(pairs, near[tuple(pairs.T)], np.concatenate([dihedrals, impropers]), len(dihedrals))


def values(x: torch.Tensor, differences: torch.Tensor, n_torsions: int) -> tuple[torch.Tensor, ...]:
    """Distances (n_pairs, n_molecules), nm, cosines and sines (n_torsions, n_molecules) of beads ``x``
    (3, n_beads, n_molecules), nm; ``differences`` is the matrix of :class:`Coordinates`."""
    n = n_torsions
    pairs, u, v, w = torch.matmul(differences, x).split([len(differences) - 3 * n, n, n, n], dim=1)
    a, b = torch.linalg.cross(u, v, dim=0), torch.linalg.cross(v, w, dim=0)
    size = ((a * a).sum(0) * (b * b).sum(0) + _LEAST ** 2).rsqrt()
    distance, axis = (pairs * pairs).sum(0).sqrt(), (v * v).sum(0).sqrt()
    return distance, (a * b).sum(0) * size, axis * (u * b).sum(0) * size
