"""How far distributions are from each other, and how certain a number is."""

from __future__ import annotations

import numpy as np


def jensen_shannon(p_counts: np.ndarray, q_counts: np.ndarray) -> float | np.ndarray:
    """Jensen-Shannon divergence (J. Lin, IEEE Trans. Inf. Theory 37, 145 (1991)) of two histograms, in bits: 0 for
    equal ones, 1 where they do not overlap.

    Parameters
    ----------
    p_counts, q_counts : ndarray, shape (..., n_bins)
        Not normalised.

    Returns
    -------
    float or ndarray, shape (...)
        NaN where a histogram is empty.
    """
    p, q = normalised(p_counts), normalised(q_counts)
    m = (p + q) / 2
    divergence = (_entropy_terms(p, m) + _entropy_terms(q, m)) / 2
    return float(divergence) if divergence.ndim == 0 else divergence


def normalised(counts: np.ndarray) -> np.ndarray:
    """Histograms (..., n_bins) that sum to one; NaN where one is empty."""
    counts = np.asarray(counts, dtype=float)
    total = counts.sum(axis=-1, keepdims=True)
    return counts / np.where(total > 0, total, np.nan)


def _entropy_terms(p: np.ndarray, m: np.ndarray) -> np.ndarray:
    safe = np.where(p > 0, p / np.where(m > 0, m, 1), 1)
    return (p * np.log2(safe)).sum(axis=-1)


def jackknife_error(left_out: np.ndarray) -> np.ndarray:
    """Standard errors (...) from the values (n, ...) without one of ``n`` groups each; NaN where there is one group."""
    return np.sqrt((len(left_out) - 1) * np.nanvar(left_out, axis=0))
