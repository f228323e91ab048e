"""Atomistic forces on beads with as little noise as a linear map leaves: F = B f, B fitted to forces.

The mean of B f at fixed beads is the mean force, and so what a coarse-grained force field should exert, for any B with
B M^T = 1 (see :mod:`openmm_backmap.analysis.forces.projection`) whose rows are the same for all atoms that constraints
tie together: only then does a bead's row move atoms in a way that constraints allow, so that the forces that hold them
(which no force field knows of) do no work along it (G. Ciccotti, R. Kapral, E. Vanden-Eijnden, ChemPhysChem 6, 1809
(2005); W. G. Noid et al., J. Chem. Phys. 128, 244114 (2008)). A bead that is a heavy atom takes the forces on its
hydrogens, for one.

What this leaves free decides how noisy the forces are. Here B has the least mean square |B f|^2 over given frames (A.
Kraemer et al., J. Phys. Chem. Lett. 14, 3970 (2023)): a linear problem, for the mean force is the same for all B.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from openmm_backmap.chemistry import Target
from openmm_backmap.errors import ChemistryError
from openmm_backmap.refine.systems import constrained_pairs

_EXACT = 1e-6


def least_noise_map(target: Target, moments: np.ndarray) -> np.ndarray:
    """B, shape (n_beads, n_atoms).

    Parameters
    ----------
    target : Target
    moments : ndarray, shape (n_atoms, n_atoms), (kJ/mol/nm)^2
        Means of f_i . f_j over frames (:func:`force_moments`).

    Raises
    ------
    ChemistryError
        No B moves a bead by itself at fixed constraints: they tie beads to each other.
    """
    groups = tied_atoms(target)
    n_groups, n_beads = groups.max() + 1, target.n_beads
    spread = np.zeros((target.n_atoms, n_groups))
    spread[np.arange(target.n_atoms), groups] = 1.0
    # One unknown g a group: minimise g^T C g with M g = 1, C and M summed over the atoms of groups.
    noise, mapping = spread.T @ moments @ spread, target.mapping @ spread
    scale = max(np.trace(noise) / n_groups, 1e-300)
    system = np.block([[noise / scale, mapping.T], [mapping, np.zeros((n_beads, n_beads))]])
    right = np.concatenate([np.zeros((n_groups, n_beads)), np.eye(n_beads)])
    # Least squares, for forces that add up to zero leave the sum of all rows open.
    found = np.linalg.lstsq(system, right, rcond=1e-12)[0][:n_groups]
    if np.abs(mapping @ found - np.eye(n_beads)).max() > _EXACT:
        raise ChemistryError(f"chemistry {target.chemistry.name}: constraints tie beads to each other, and their mean "
                             "forces are not defined; use a chemistry with constraints: h-bonds or none")
    return (spread @ found).T


def tied_atoms(target: Target) -> np.ndarray:
    """A number (n_atoms,) that atoms share which constraints tie together, directly or by way of others."""
    i, j = constrained_pairs(target).T
    n = target.n_atoms
    return connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]


def force_moments(forces: np.ndarray) -> np.ndarray:
    """Sums of f_i . f_j (n_atoms, n_atoms) over frames (n_frames, n_atoms, 3) of forces, kJ/mol/nm."""
    flat = np.moveaxis(np.asarray(forces, dtype=float), 1, 0).reshape(forces.shape[1], -1)
    return flat @ flat.T
