"""Divergences, with errors and sampling floors, of counts in blocks of consecutive frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from openmm_backmap.statistics import jackknife_error


@dataclass(frozen=True)
class Value:
    """A number about a label, next to the same between halves of the reference.

    Attributes
    ----------
    value, error : float
        And its standard error, by the jackknife over blocks of the judged frames; NaN where it has none.
    floor, floor_sd : float
        Mean and spread over all ways to take half of the blocks of the reference.
    """

    value: float
    error: float
    floor: float
    floor_sd: float


def compared(reference: np.ndarray, judged: np.ndarray,
             measure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Value:
    """``measure`` of summed counts (..., *bins) of a label against the reference's; it takes leading dimensions.

    Parameters
    ----------
    reference, judged : ndarray, shape (n_blocks, *bins)
    measure : callable
        ``measure(reference, judged)``.
    """
    own = reference.sum(axis=0)
    left_out = judged.sum(axis=0) - judged
    floors = measure(*halves(reference))
    return Value(float(measure(own[None], judged.sum(axis=0)[None])[0]),
                 float(jackknife_error(measure(np.broadcast_to(own, left_out.shape), left_out))),
                 float(floors.mean()), float(floors.std()))


def halves(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of either half (n_splits, *bins) for all ways to halve the blocks of ``table`` (n_blocks, *bins)."""
    n = len(table)
    # The first block is always in the first half: otherwise every split would be there twice.
    chosen = np.zeros((0, n)) if n < 2 else np.array(
        [[k == 0 or k in rest for k in range(n)] for rest in combinations(range(1, n), n // 2 - 1)], dtype=float)
    return np.tensordot(chosen, table, axes=1), np.tensordot(1 - chosen, table, axes=1)
