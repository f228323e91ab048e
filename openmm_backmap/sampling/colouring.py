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
    # Neighbour lists are cut at k: make the relation symmetric. Pairs that are there twice do no harm.
    rows, cols = np.concatenate([rows, cols]), np.concatenate([cols, rows])
    colour, rank = np.full(n, -1), rng.permutation(n)
    taken = np.zeros((n, np.bincount(rows, minlength=1).max() + 1), bool)
    # Jones-Plassmann: of all uncoloured beads, those with the highest rank around take the lowest free colour.
    uncoloured = np.arange(n)
    while len(uncoloured):
        beaten = np.zeros(n, bool)
        beaten[rows[rank[rows] < rank[cols]]] = True
        chosen = uncoloured[~beaten[uncoloured]]
        colour[chosen] = np.argmin(taken[chosen], axis=1)
        done = colour >= 0
        taken[cols[done[rows]], colour[rows[done[rows]]]] = True
        is_open = ~(done[rows] | done[cols])
        rows, cols, uncoloured = rows[is_open], cols[is_open], uncoloured[beaten[uncoloured]]
    return colour
