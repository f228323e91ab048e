"""Periodic boxes (rectangular or triclinic) and molecules that are broken across them.

A box is an array of shape (3, 3), nm, whose rows are the vectors a, b, c in OpenMM's reduced form
(a = (ax, 0, 0), b = (bx, by, 0), ...), or None for no box at all.
"""

from __future__ import annotations

import numpy as np

from openmm_backmap.errors import InputError


def reduce_box(box: np.ndarray) -> np.ndarray:
    """The same lattice in the reduced form that OpenMM asks for (lower triangular, small off-diagonals)."""
    box = np.asarray(box, dtype=float)
    if box.shape != (3, 3) or not np.isfinite(box).all():
        raise InputError("the periodic box must be three finite vectors")
    if abs(np.linalg.det(box)) < 1e-9:
        raise InputError("the periodic box has no volume")
    if np.abs(np.triu(box, 1)).max() > 1e-6:
        # Rotating box and positions together keeps the physics, but moves the user's atoms: refuse instead.
        raise InputError("the box vectors are not in the usual form (a along x, b in the xy plane); "
                         "rotate the system, for instance with gmx editconf")
    a, b, c = box
    c = c - b * np.round(c[1] / b[1])
    c = c - a * np.round(c[0] / a[0])
    b = b - a * np.round(b[0] / a[0])
    return np.array([a, b, c])


def minimum_image(vectors: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Shift difference vectors (..., 3), nm, to their nearest image (exact for distances under half the box)."""
    if box is None:
        return vectors
    shifted = vectors - np.round(vectors[..., 2:] / box[2, 2]) * box[2]
    shifted = shifted - np.round(shifted[..., 1:2] / box[1, 1]) * box[1]
    return shifted - np.round(shifted[..., 0:1] / box[0, 0]) * box[0]


def wrap(positions: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Positions (..., 3), nm, moved into the box, each for itself."""
    if box is None:
        return positions
    wrapped = positions - np.floor(positions[..., 2:] / box[2, 2]) * box[2]
    wrapped = wrapped - np.floor(wrapped[..., 1:2] / box[1, 1]) * box[1]
    return wrapped - np.floor(wrapped[..., 0:1] / box[0, 0]) * box[0]


def spanning_order(n: int, bonds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Breadth-first order of ``n`` bonded particles and each one's predecessor (-1 for the first of a molecule)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(bonds)), (bonds[:, 0], bonds[:, 1])), shape=(n, n)).tocsr()
    # A virtual root bonded to one particle of every molecule makes one search do for all.
    _, molecule = connected_components(graph, directed=False)
    roots = np.unique(molecule, return_index=True)[1]
    rows = np.r_[bonds[:, 0], np.full(len(roots), n)]
    cols = np.r_[bonds[:, 1], roots]
    joined = coo_array((np.ones(len(rows)), (rows, cols)), shape=(n + 1, n + 1)).tocsr()
    order, before = breadth_first_order(joined, n, directed=False)
    before = before[:n].copy()
    before[before == n] = -1
    return order[1:], before


def make_whole(positions: np.ndarray, box: np.ndarray | None, bonds: np.ndarray) -> np.ndarray:
    """Join molecules that are broken across the box.

    Parameters
    ----------
    positions : ndarray, shape (n, 3), nm
    box : ndarray, shape (3, 3), nm, or None
    bonds : ndarray of int, shape (n_bonds, 2)

    Returns
    -------
    ndarray, shape (n, 3), nm
        Every bonded pair lies within its nearest image; the first particle of each molecule stays where it is.
    """
    if box is None:
        return np.array(positions, dtype=float)
    x = np.array(positions, dtype=float)
    order, before = spanning_order(len(x), bonds)
    inner = order[before[order] >= 0]
    shift = np.zeros_like(x)
    shift[inner] = minimum_image(x[inner] - x[before[inner]], box) - (x[inner] - x[before[inner]])
    # Accumulate shifts along the tree; depth by depth keeps it vectorised.
    depth = _depths(order, before)
    for level in range(1, depth.max(initial=0) + 1):
        at = np.flatnonzero(depth == level)
        shift[at] += shift[before[at]]
    return x + shift


def _depths(order: np.ndarray, before: np.ndarray) -> np.ndarray:
    depth = np.zeros(len(order), dtype=np.int64)
    for i in order.tolist():
        if before[i] >= 0:
            depth[i] = depth[before[i]] + 1
    return depth


def molecules_into_box(positions: np.ndarray, box: np.ndarray | None, molecule: np.ndarray) -> np.ndarray:
    """Shift whole molecules so that each one's centre lies in the box; ``molecule`` numbers them from 0."""
    if box is None:
        return positions
    counts = np.bincount(molecule)[:, None]
    centres = np.stack([np.bincount(molecule, positions[:, k]) for k in range(3)], axis=1) / counts
    return positions + (wrap(centres, box) - centres)[molecule]


def lattice_shifts(vectors: np.ndarray, boxes: np.ndarray | None) -> np.ndarray:
    """Vectors of the lattice (n, 3) to take from ``vectors`` (n, 3), nm, to bring each near the origin of its own box
    (n, 3, 3), nm, in reduced form: exact where what is left is less than half the narrowest side."""
    if boxes is None:
        return np.zeros_like(vectors)
    fractions = np.linalg.solve(np.swapaxes(boxes, -1, -2), vectors[..., None])[..., 0]
    return np.einsum("ni,nij->nj", np.round(fractions), boxes)
