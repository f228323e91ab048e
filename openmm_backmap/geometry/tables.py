"""Lists of different lengths as tables: rows are padded with -1."""

from __future__ import annotations

import numpy as np


def padded_table(row: np.ndarray, value: np.ndarray, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The table (n_rows, widest, at least 1) of ``value`` (n,) by ``row`` (n,), and the column (n,) of each value.

    Values of a row keep their order.
    """
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=n_rows)
    column = np.empty(len(row), dtype=np.int64)
    column[order] = np.arange(len(row)) - (np.cumsum(counts) - counts)[row[order]]
    table = np.full((n_rows, counts.max(initial=1)), -1, dtype=np.int64)
    table[row, column] = value
    return table, column


def neighbour_table(n: int, bonds: np.ndarray) -> np.ndarray:
    """For each of ``n`` nodes those that ``bonds`` (n_bonds, 2) tie it to, as a table (n, most, at least 1)."""
    i, j = np.concatenate([bonds, bonds[:, ::-1]]).T
    return padded_table(i, j, n)[0]


def neighbour_lists(n: int, bonds: np.ndarray) -> list[list[int]]:
    """For each of ``n`` nodes those that ``bonds`` (n_bonds, 2) tie it to."""
    lists: list[list[int]] = [[] for _ in range(n)]
    for i, j in bonds.tolist():
        lists[i].append(j)
        lists[j].append(i)
    return lists
