"""What training takes from scipy, in numpy: a machine that trains on a compiled data set has torch and numpy alone.

Where scipy is installed it is used, being faster; values are the same. Nothing here is meant for large systems: a
search looks at all points of a slice of space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_backmap.geometry.tables import neighbour_table

_BLOCK = 4_000_000


def point_tree(points: np.ndarray, boxsize: np.ndarray | None = None):
    """A ``scipy.spatial.cKDTree`` of points (n, 3), or a :class:`PlainTree` where there is no scipy."""
    try:
        from scipy.spatial import cKDTree
    except ImportError:
        return PlainTree(points, boxsize)
    return cKDTree(points, boxsize=boxsize)


class PlainTree:
    """The searches of a ``cKDTree`` that this package makes, with their arguments and results."""

    def __init__(self, points: np.ndarray, boxsize: np.ndarray | None = None):
        self.points, self.boxsize = np.asarray(points, dtype=float), boxsize

    def query(self, points: np.ndarray, k: int, distance_upper_bound: float) -> tuple[np.ndarray, np.ndarray]:
        """Distances and indices (n, k) of the nearest; infinite and ``len(self.points)`` where there are fewer."""
        n = len(points)
        i, j, distance = PlainTree(points)._within(self, distance_upper_bound)
        order = np.lexsort((distance, i))
        i, j, distance = i[order], j[order], distance[order]
        rank = np.arange(len(i)) - np.searchsorted(i, i)
        found, far = np.full((n, k), len(self.points)), np.full((n, k), np.inf)
        kept = rank < k
        found[i[kept], rank[kept]], far[i[kept], rank[kept]] = j[kept], distance[kept]
        return far, found

    def query_pairs(self, r: float, output_type: str = "ndarray") -> np.ndarray:
        """Pairs i < j (n_pairs, 2) at most ``r`` apart."""
        i, j, _ = self._within(self, r)
        return np.stack([i[i < j], j[i < j]], axis=1)

    def sparse_distance_matrix(self, other: PlainTree, max_distance: float, output_type: str = "ndarray") -> np.ndarray:
        """Records ``i``, ``j``, ``v`` of the points of both trees at most ``max_distance`` apart."""
        records = np.rec.fromarrays(self._within(other, max_distance), names="i,j,v")
        return records.view(np.ndarray)

    def _within(self, other: PlainTree, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices into both, and distances, of all pairs at most ``cutoff`` apart."""
        a, b = np.argsort(self.points[:, 0]), np.argsort(other.points[:, 0])
        along = other.points[b, 0]
        found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        for block in np.array_split(a, max(1, len(a) * len(b) // _BLOCK)):
            x, near = self.points[block], b
            if self.boxsize is None and len(block):
                near = b[slice(*np.searchsorted(along, [x[0, 0] - cutoff, np.nextafter(x[-1, 0] + cutoff, np.inf)]))]
            vectors = x[:, None] - other.points[near]
            if self.boxsize is not None:
                vectors -= np.round(vectors / self.boxsize) * self.boxsize
            distance = np.sqrt((vectors**2).sum(-1))
            i, j = np.nonzero(distance <= cutoff)
            found.append((block[i], near[j], distance[i, j]))
        return tuple(np.concatenate(part) for part in zip(*found))


@dataclass(frozen=True)
class WeightedSums:
    """The matrix (n_rows, n_columns) of entries ``weights``; it can be applied to positions, and that is all.

    Attributes
    ----------
    rows, columns : (n_entries,) int
    weights : (n_entries,)
    shape : tuple of int
    """

    rows: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    shape: tuple[int, int]

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        """Rows (n_rows, k) of sums over ``x`` (n_columns, k)."""
        parts = self.weights[:, None] * x[self.columns]
        return np.stack([np.bincount(self.rows, part, minlength=self.shape[0]) for part in parts.T], axis=1)

    @classmethod
    def block_diagonal(cls, parts: list[WeightedSums]) -> WeightedSums:
        """One matrix with ``parts`` along its diagonal."""
        n = np.cumsum([(0, 0), *(part.shape for part in parts)], axis=0)
        return cls(np.concatenate([part.rows + first for part, (first, _) in zip(parts, n)]),
                   np.concatenate([part.columns + first for part, (_, first) in zip(parts, n)]),
                   np.concatenate([part.weights for part in parts]), tuple(map(int, n[-1])))


def bonds_apart(n: int, bonds: np.ndarray, max_distance: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of ``n`` atoms up to ``max_distance`` bonds apart: row, column, distance; sorted, self left out."""
    table = neighbour_table(n, bonds)
    before, front = np.empty(0, dtype=np.int64), np.arange(n) * (n + 1)
    keys, distances = [before], [np.empty(0, dtype=np.int8)]
    for step in range(1, max_distance + 1):
        near = table[front % n]
        reached = np.unique(((front // n * n)[:, None] + near)[near >= 0])
        # A neighbour of what is d bonds away is d - 1, d or d + 1 bonds away.
        before, front = front, np.setdiff1d(reached, np.concatenate([before, front]), assume_unique=True)
        keys.append(front)
        distances.append(np.full(len(front), step, dtype=np.int8))
    key, distance = np.concatenate(keys), np.concatenate(distances)
    order = np.argsort(key)
    return key[order] // n, key[order] % n, distance[order]
