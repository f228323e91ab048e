"""Colours of beads: those of one colour do not see each other and are drawn at once."""

from __future__ import annotations

import numpy as np


def colour_beads(neighbour: np.ndarray, distance: np.ndarray, reach_nm: float, rng: np.random.Generator) -> np.ndarray:
    """Greedy colouring in random order; beads closer than ``reach_nm`` get different colours.

    Parameters
    ----------
    neighbour : ndarray of int, shape (n_beads, k)
        Nearest neighbours, -1 where there are fewer.
    distance : ndarray, shape (n_beads, k), nm
    reach_nm : float
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int, shape (n_beads,)
        Colours from 0.
    """
    n = len(neighbour)
    close = (neighbour >= 0) & (distance < reach_nm)
    rows = np.repeat(np.arange(n), close.sum(1))
    cols = neighbour[close]
    # Neighbour lists are cut at k: make the relation symmetric.
    edges = np.unique(np.concatenate([rows * n + cols, cols * n + rows]))
    rows, cols = edges // n, edges % n
    colour = np.full(n, -1)
    rank = rng.permutation(n)
    # Jones-Plassmann: of all uncoloured beads, those with the highest rank around take the lowest free colour.
    while (colour < 0).any():
        open_edge = (colour[rows] < 0) & (colour[cols] < 0)
        beaten = np.zeros(n, bool)
        beaten[rows[open_edge][rank[rows[open_edge]] < rank[cols[open_edge]]]] = True
        chosen = np.flatnonzero((colour < 0) & ~beaten)
        taken = np.zeros((n, colour.max() + 2), bool)
        known = colour[cols] >= 0
        taken[rows[known], colour[cols[known]]] = True
        colour[chosen] = np.argmin(taken[chosen], axis=1)
    return colour
