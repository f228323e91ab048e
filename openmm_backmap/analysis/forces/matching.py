"""Force matching that also sees what a coarse-grained model makes of itself (thesis, eqs. 6.4 and 6.5).

Each works on NumPy arrays and on torch tensors: with forces that depend on parameters, it is a loss to minimise. One
draw for a frame gives the mean force at these beads and the noise of the atoms; several, averaged by
:func:`mean_forces`, have less of the noise, which adds a constant that no force field can lower.
"""

from __future__ import annotations

import numpy as np

from openmm_backmap.analysis.forces.bead_forces import BeadForces


def mean_forces(forces: BeadForces) -> np.ndarray:
    """Forces (n_frames, n_beads, 3), kJ/mol/nm, averaged over the draws for each frame."""
    frames, row = np.unique(forces.frame, return_inverse=True)
    total = np.zeros((len(frames), *forces.forces.shape[1:]))
    np.add.at(total, row, forces.forces)
    return total / np.bincount(row)[:, None, None]


def chi_squared(predicted, projected):
    """Mean square difference of forces by degree of freedom, (kJ/mol/nm)^2 (eq. 6.4).

    Parameters
    ----------
    predicted : array, shape (n_frames, n_beads, 3), kJ/mol/nm
        Of the coarse-grained force field, at the beads of the frames.
    projected : array, shape (n_frames, n_beads, 3), kJ/mol/nm
        Of the atomistic force field, on the same beads.
    """
    return ((predicted - projected) ** 2).mean()


def chi_squared_bm(predicted_atomistic, projected, predicted_coarse, backmapped):
    """chi^2 over atomistic frames plus the same over backmapped frames of the coarse-grained ensemble (eq. 6.5).

    Parameters
    ----------
    predicted_atomistic, projected
        As for :func:`chi_squared`, of mapped atomistic frames.
    predicted_coarse : array, shape (n_frames, n_beads, 3), kJ/mol/nm
        Of the coarse-grained force field, at the beads of frames of its own dynamics.
    backmapped : array, shape (n_frames, n_beads, 3), kJ/mol/nm
        Of the atomistic force field, projected, on atoms that were backmapped for the same beads
        (:func:`mean_forces`).
    """
    return chi_squared(predicted_atomistic, projected) + chi_squared(predicted_coarse, backmapped)
