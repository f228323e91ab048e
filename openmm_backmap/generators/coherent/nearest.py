"""The nearest of many conformations, by root mean square distance after superposition, without trying all of them.

With the same distances between its points, a conformation can be laid on another. More precisely, for n points and
their displacements d_i, |Delta d_ij| <= |d_i| + |d_j| gives sum_{i<j} (Delta d_ij)^2 <= 2 (n - 1) sum_i |d_i|^2: what
differs more in its distances than that cannot be nearer than one that is known already. The rest is compared by the
largest root of the characteristic polynomial (D. L. Theobald, Acta Cryst. A 61, 478 (2005)). The result is exact.
"""

from __future__ import annotations

import torch

_BATCH = 32
_FIRST = 8          # nearest in distances, of which the best is the bound
_SLACK = 1e-4       # nm^2, of sums of squares in single precision
_ITERATIONS = 8


class NearestConformation:
    """Conformations (n, n_points, 3), nm, ready to be searched.

    Parameters
    ----------
    points : Tensor, shape (n, n_points, 3), nm
    """

    def __init__(self, points: torch.Tensor):
        self.points = points - points.mean(1, keepdim=True)
        self._size = self.points.square().sum((1, 2))
        self._distances = _distances(self.points)
        self._squares = self._distances.square().sum(1)

    def of(self, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Index of the nearest to each of ``wanted`` (B, n_points, 3), and the distance, nm, each (B,)."""
        found = [self._of(part) for part in (wanted - wanted.mean(1, keepdim=True)).split(_BATCH)]
        index, squared = (torch.cat(parts) for parts in zip(*found))
        return index, (squared / wanted.shape[1]).sqrt()

    def _of(self, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        distances = _distances(wanted)
        apart = torch.addmm(self._squares, distances, self._distances.T, alpha=-2) + distances.square().sum(1)[:, None]
        first = apart.topk(min(_FIRST, len(self.points)), dim=1, largest=False).indices
        row = torch.arange(len(wanted), device=wanted.device).repeat_interleave(first.shape[1])
        bound = self._squared(wanted, row, first.flatten()).view(first.shape).amin(1)
        reach = 2 * (wanted.shape[1] - 1) * bound + _SLACK
        row, index = torch.nonzero(apart <= reach[:, None], as_tuple=True)
        squared = self._squared(wanted, row, index)
        best = torch.full_like(bound, torch.inf).scatter_reduce(0, row, squared, "amin")
        # Of equals the first, so that the order of a batch does not matter.
        nearest = torch.where(squared <= best[row], index, len(self.points))
        return torch.full_like(first[:, 0], len(self.points)).scatter_reduce(0, row, nearest, "amin"), best

    def _squared(self, wanted: torch.Tensor, row: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Sums of squared distances (n_pairs,), nm^2, after superposition, of pairs of a wanted and an own one."""
        covariance = wanted[row].mT @ self.points[index]
        size = wanted.square().sum((1, 2))[row] + self._size[index]
        return (size - 2 * _largest_root(covariance.flatten(1).T.contiguous(), size / 2)).clamp(min=0)


def _distances(points: torch.Tensor) -> torch.Tensor:
    """Distances (n, n_pairs) between the points of each."""
    i, j = torch.triu_indices(points.shape[1], points.shape[1], 1)
    return (points[:, i] - points[:, j]).norm(dim=-1)


def _largest_root(covariance: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Sum of the singular values (n,) of matrices (9, n), the last negative where the determinant is, by Newton steps
    from above."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz = covariance
    minors = torch.stack([yy * zz - yz * zy, yx * zz - yz * zx, yx * zy - yy * zx, xy * zz - xz * zy,
                          xx * zz - xz * zx, xx * zy - xy * zx, xy * yz - xz * yy, xx * yz - xz * yx,
                          xx * yy - xy * yx])
    determinant = xx * minors[0] - xy * minors[1] + xz * minors[2]
    square = covariance.square().sum(0)
    constant = square * square - 4 * minors.square().sum(0)
    root = start
    for _ in range(_ITERATIONS):
        root2 = root * root
        value = (root2 - 2 * square) * root2 - 8 * determinant * root + constant
        slope = 4 * root * (root2 - square) - 8 * determinant
        root = root - torch.where(slope > 0, value / slope, 0.0)
    return root
