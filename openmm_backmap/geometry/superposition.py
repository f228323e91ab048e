"""Conformations laid upon each other, many pairs at once."""

from __future__ import annotations

import numpy as np


def rotations(moved: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Proper rotations of least mean squared distance (W. Kabsch, Acta Cryst. A 32, 922 (1976)).

    Parameters
    ----------
    moved, onto : ndarray, shape (..., n_points, 3)
        Both centred.

    Returns
    -------
    ndarray, shape (..., 3, 3)
        ``moved @ rotation`` lies on ``onto``.
    """
    u, _, vt = np.linalg.svd(np.swapaxes(moved, -1, -2) @ onto)
    u[..., 2] *= np.linalg.det(u @ vt)[..., None]   # a mirror image is no rotation
    return u @ vt
