"""Pairs of atoms within a cutoff, O(N), for any reduced box; and minimum images of tensors."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from openmm_backmap.errors import InputError
from openmm_backmap.geometry.plain import point_tree

# One of each pair s, -s of the 26 neighbouring cells: a pair of atoms is then found from one side only.
_HALF_SHELL = np.array([s for s in itertools.product((-1, 0, 1), repeat=3) if s > (0, 0, 0)])


def minimum_image(vectors: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
    """Shift difference vectors (..., 3), nm, to their nearest image (exact for distances under half the box)."""
    if box is None:
        return vectors
    for k in (2, 1, 0):
        vectors = vectors - torch.round(vectors[..., k:k + 1] / box[k, k]) * box[k]
    return vectors


def pairs_within(positions: np.ndarray, box: np.ndarray | None, cutoff: float | None) -> np.ndarray:
    """Pairs i < j of atoms whose nearest images are at most ``cutoff`` apart.

    Parameters
    ----------
    positions : ndarray, shape (n_atoms, 3), nm
    box : ndarray, shape (3, 3), nm, or None
        In reduced form, every diagonal element at least twice the cutoff.
    cutoff : float, nm, or None
        None gives all pairs.

    Returns
    -------
    ndarray of int, shape (n_pairs, 2)

    Raises
    ------
    InputError
        Where a position is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=-1))
    if len(bad):
        raise InputError(f"the position of atom {bad[0]} (counted from 0) is not finite ({len(bad)} such atoms); "
                         "give every atom a place before asking for energies")
    if cutoff is None:
        return np.stack(np.triu_indices(len(positions), 1), axis=1)
    if box is None:
        return point_tree(positions).query_pairs(cutoff, output_type="ndarray")
    if not np.any(box - np.diag(np.diag(box))):
        return _pairs_rectangular(positions, np.diag(box), cutoff)
    return _pairs_triclinic(positions, box, cutoff)


def _pairs_rectangular(positions: np.ndarray, edges: np.ndarray, cutoff: float) -> np.ndarray:
    inside = np.mod(positions, edges)
    inside = np.where(inside >= edges, 0.0, inside)   # rounding may land on the far face, which the tree refuses
    return point_tree(inside, boxsize=edges).query_pairs(cutoff, output_type="ndarray")


def _pairs_triclinic(positions: np.ndarray, box: np.ndarray, cutoff: float) -> np.ndarray:
    """Pairs in the cell, and pairs between the cell and those images of its atoms that lie near its faces."""
    inverse = np.linalg.inv(box)
    fractional = positions @ inverse
    fractional -= np.floor(fractional)
    inside = fractional @ box
    margin = cutoff * np.linalg.norm(inverse, axis=0)   # the cutoff as a fraction of the distance between faces
    moved = fractional + _HALF_SHELL[:, None]
    shift, atom = np.nonzero(((moved > -margin - 1e-9) & (moved < 1 + margin + 1e-9)).all(axis=-1))
    tree = point_tree(inside)
    pairs = tree.query_pairs(cutoff, output_type="ndarray")
    if not len(atom):
        return pairs
    images = point_tree(inside[atom] + _HALF_SHELL[shift] @ box)
    found = tree.sparse_distance_matrix(images, cutoff, output_type="ndarray")
    across = np.stack([found["i"], atom[found["j"]]], axis=1)
    return np.concatenate([pairs, np.sort(across, axis=1)])
