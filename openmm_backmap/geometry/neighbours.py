"""Nearest neighbours under periodic boundaries, any box, cost linear in the number of points."""

from __future__ import annotations

import itertools

import numpy as np

from openmm_backmap.errors import InputError
from openmm_backmap.geometry.plain import point_tree

#: in a direction, to either side: a bound on time and memory
_MOST_IMAGES = 10


def nearest(positions: np.ndarray, box: np.ndarray | None, cutoff: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest other points within ``cutoff`` of each point.

    Parameters
    ----------
    positions : ndarray, shape (n, 3), nm
        May lie outside the box.
    box : ndarray, shape (3, 3), nm, or None
        At least ``cutoff`` across in every direction.
    cutoff : float, nm
    k : int

    Returns
    -------
    index : ndarray of int, shape (n, k)
        Sorted by distance; -1 where there are fewer.
    shift : ndarray, shape (n, k, 3), nm
        ``positions[index] + shift`` is the image that is near.
    """
    positions = np.asarray(positions, dtype=float)
    n = len(positions)
    wrapped, images, source = _images(positions, box, cutoff)
    distance, found = point_tree(images).query(wrapped, k=k + 1, distance_upper_bound=cutoff)
    # The point itself comes first, except where another lies exactly on it.
    own = found == np.arange(n)[:, None]
    order = np.argsort(np.where(own, -1.0, distance), axis=1, kind="stable")[:, 1:]
    found, distance = np.take_along_axis(found, order, 1), np.take_along_axis(distance, order, 1)
    there = np.isfinite(distance)
    found = np.where(there, found, 0)
    index = np.where(there, source[found], -1)
    shift = (images[found] - wrapped[:, None]) - (positions[source[found]] - positions[:, None])
    return index, np.where(there[..., None], shift, 0.0)


class Within:
    """All other points, and images of them, within a cutoff of points that are asked for.

    All pairs of a large system together would fill the memory.

    Parameters
    ----------
    positions, box, cutoff
        See :func:`nearest`; the box may be narrower than the cutoff, down to a tenth of it.

    Raises
    ------
    InputError
        Where it is narrower still.
    """

    def __init__(self, positions: np.ndarray, box: np.ndarray | None, cutoff: float):
        self.positions, self.cutoff = np.asarray(positions, dtype=float), cutoff
        self._wrapped, self._images, self._source = _images(self.positions, box, cutoff)
        self._tree = point_tree(self._images)

    def of(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Neighbours of ``points`` (m,), indices.

        Returns
        -------
        row : ndarray of int, shape (n_pairs,)
            Whose of ``points``, ascending.
        index : ndarray of int, shape (n_pairs,)
        shift : ndarray, shape (n_pairs, 3), nm
            ``positions[index] + shift`` is the image that is near.
        """
        found = point_tree(self._wrapped[points]).sparse_distance_matrix(self._tree, self.cutoff, output_type="ndarray")
        other = self._source[found["j"]] != points[found["i"]]
        row, image = found["i"][other], found["j"][other]
        order = np.lexsort((image, row))
        row, image = row[order], image[order]
        point, index = points[row], self._source[image]
        shift = (self._images[image] - self._wrapped[point]) - (self.positions[index] - self.positions[point])
        return row, index, shift


def _images(positions: np.ndarray, box: np.ndarray | None, cutoff: float) -> tuple[np.ndarray, ...]:
    """Points in the cell; those, then their images within ``cutoff`` of the cell; and whose image each is."""
    if box is None:
        return positions, positions, np.arange(len(positions))
    # The cell that the vectors span, not the brick of the same volume: of a brick, more than 26 images can be near.
    inverse = np.linalg.inv(box)
    fractional = (positions @ inverse) % 1.0
    wrapped = fractional @ box
    margin = cutoff * np.linalg.norm(inverse, axis=0)
    if not margin.max() <= _MOST_IMAGES:
        raise InputError(f"the box is {cutoff / margin.max():.3g} nm across: too small for neighbours within "
                         f"{cutoff:g} nm")
    points, source = [wrapped], [np.arange(len(positions))]
    for cell in itertools.product(*(range(-n, n + 1) for n in np.maximum(np.ceil(margin), 1).astype(int))):
        if cell == (0, 0, 0):
            continue
        moved = fractional + cell
        near = np.flatnonzero(((moved > -margin) & (moved < 1 + margin)).all(axis=1))
        points.append(wrapped[near] + np.array(cell) @ box)
        source.append(near)
    return wrapped, np.concatenate(points), np.concatenate(source)
