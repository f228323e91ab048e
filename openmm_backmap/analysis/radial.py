"""Radial distribution functions by pairs of atom types, and the near pairs that they and the energies are made of.

Pairs within a molecule (beyond three bonds) and between molecules are kept apart. Both are measured against the same
ideal gas, that of all pairs of the two types at the density of the box, so that g(r) of a pair of types is their sum.
Without a box, the atoms' volume is taken to be a sphere whose radius is the range of the histogram.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.geometry.checks import bonded_keys, near_pairs, once_per_target
from openmm_backmap.geometry.periodic import minimum_image

RANGE_NM = 1.0
BIN_NM = 0.01
HEAVY = "heavy"
_BLOCK = 4096
_SLACK = 1e-9


def pair_blocks(positions: np.ndarray, box: np.ndarray | None, radius: float,
                size: int = _BLOCK) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All pairs i < j of atoms within ``radius``, some at a time, so that memory does not grow with the system.

    Parameters
    ----------
    positions : ndarray, shape (n, 3), nm
    box : ndarray, shape (3, 3), nm, or None
        In reduced form, every diagonal element at least twice the radius: a pair then has one near image.
    radius : float, nm
    size : int
        Most atoms in a block; memory goes with it.

    Yields
    ------
    i, j : ndarray of int, shape (n_pairs,)
    r : ndarray, shape (n_pairs,), nm
        Their distances.
    """
    inverse = np.eye(3) if box is None else np.linalg.inv(box)
    place, skin = positions @ inverse, radius * np.linalg.norm(inverse, axis=0) + _SLACK
    if box is not None:
        place = place - np.floor(place)
    for block in _compact_blocks(place, size):
        low, high = place[block].min(axis=0), place[block].max(axis=0)
        away = place - (low + high) / 2
        away = np.abs(away if box is None else away - np.round(away))
        near = np.flatnonzero((away <= (high - low) / 2 + skin).all(axis=1))
        i, j = near_pairs(positions[block], positions[near], box, radius)
        i, j = block[i], near[j]
        i, j = i[i < j], j[i < j]
        yield i, j, np.linalg.norm(minimum_image(positions[i] - positions[j], box), axis=-1)


def _compact_blocks(place: np.ndarray, size: int) -> list[np.ndarray]:
    """Indices of points (n, 3) in blocks of up to ``size`` that lie together."""
    cuts = int(np.ceil((len(place) / size) ** (1 / 3)))
    parts = [np.arange(len(place))]
    for k in range(3):
        parts = [piece for part in parts for piece in np.array_split(part[np.argsort(place[part, k])], cuts)]
    return [part for part in parts if len(part)]


def histogram_range(boxes: np.ndarray | None) -> float:
    """How far (nm) g(r) goes: ``RANGE_NM``, or as many whole bins as half the narrowest of ``boxes`` (n, 3, 3)."""
    if boxes is None or not len(boxes):
        return RANGE_NM
    narrowest = np.abs(np.diagonal(boxes, axis1=-2, axis2=-1)).min()
    return BIN_NM * min(round(RANGE_NM / BIN_NM), int(narrowest / 2 / BIN_NM + _SLACK))


def range_edges(range_nm: float) -> np.ndarray:
    """Edges (n_bins + 1,), nm, of the histograms."""
    return np.linspace(0.0, range_nm, round(range_nm / BIN_NM) + 1)


@dataclass(frozen=True)
class PairTypes:
    """Which pairs of atoms count together.

    Attributes
    ----------
    names : tuple of str
        ``A-B intra``, ``A-B inter`` for all pairs of types, then ``heavy intra``, ``heavy inter`` for all pairs of
        atoms that are not hydrogen.
    types : ndarray of int, shape (n_atoms,)
        Types present, numbered from 0.
    label : ndarray of int, shape (n_types, n_types)
        Number of the pair of types; its intra- and intermolecular names are at 2 * label and the next.
    heavy : ndarray of int
        Names between heavy types, intra and inter in turn.
    molecule : ndarray of int, shape (n_atoms,)
    bonded : ndarray of int
        Sorted keys ``i * n_atoms + j`` of pairs up to three bonds apart.
    """

    names: tuple[str, ...]
    types: np.ndarray
    label: np.ndarray
    heavy: np.ndarray
    molecule: np.ndarray
    bonded: np.ndarray

    def counts(self, i: np.ndarray, j: np.ndarray, r: np.ndarray, edges: np.ndarray, group: np.ndarray,
               n_groups: int) -> np.ndarray:
        """Pairs by distance, seen from both ends: (n_groups, n_names, n_bins), each end in the group of its molecule.

        Parameters
        ----------
        i, j, r
            As from :func:`pair_blocks`.
        edges : ndarray, shape (n_bins + 1,), nm
        group : ndarray of int, shape (n_molecules,)
        """
        n_bins, n_labels = len(edges) - 1, len(self.names) - 2
        inside = r < edges[-1]
        i, j, r = i[inside], j[inside], r[inside]
        same = self.molecule[i] == self.molecule[j]
        same_at = np.flatnonzero(same)
        keep = np.ones(len(i), dtype=bool)
        keep[same_at] = ~_contains(self.bonded, i[same_at] * len(self.types) + j[same_at])
        i, j, r, same = i[keep], j[keep], r[keep], same[keep]
        key = 2 * self.label[self.types[i], self.types[j]] + ~same
        key = key * n_bins + np.minimum(np.searchsorted(edges, r, side="right") - 1, n_bins - 1)
        found = sum(np.bincount(group[self.molecule[end]] * (n_labels * n_bins) + key,
                                minlength=n_groups * n_labels * n_bins) for end in (i, j))
        return self._with_heavy(found.reshape(n_groups, n_labels, n_bins))

    def ends(self, group: np.ndarray, n_groups: int) -> np.ndarray:
        """How many pairs there are at any distance, from both ends: (n_groups, n_names)."""
        n_types = len(self.label)
        group_of_atom = group[self.molecule]
        own = np.bincount(group_of_atom * n_types + self.types, minlength=n_groups * n_types)
        own = own.reshape(n_groups, n_types).astype(float)
        everything = own.sum(axis=0)
        pairs = np.zeros((n_groups, len(self.names) - 2))
        for a, b in combinations_with_replacement(range(n_types), 2):
            ends = own[:, a] * (everything[a] - 1) if a == b else own[:, a] * everything[b] + own[:, b] * everything[a]
            pairs[:, 2 * self.label[a, b]:2 * self.label[a, b] + 2] = ends[:, None]
        return self._with_heavy(pairs)

    def _with_heavy(self, table: np.ndarray) -> np.ndarray:
        totals = [table[:, self.heavy[k::2]].sum(axis=1, keepdims=True) for k in (0, 1)]
        return np.concatenate([table, *totals], axis=1)


def _contains(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if not len(keys):
        return np.zeros(len(wanted), dtype=bool)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return keys[at] == wanted


@once_per_target
def pair_types(target: Target) -> PairTypes:
    """The pairs of types of a target."""
    kinds, types = np.unique(target.atom_type, return_inverse=True)
    light = np.bincount(types, np.array(target.elements) == "H") > 0
    label = np.zeros((len(kinds), len(kinds)), dtype=np.int64)
    names, heavy = [], []
    for n, (a, b) in enumerate(combinations_with_replacement(range(len(kinds)), 2)):
        label[a, b] = label[b, a] = n
        words = "-".join(target.chemistry.type_classes[kinds[k]] for k in (a, b))
        names += [f"{words} intra", f"{words} inter"]
        if not light[[a, b]].any():
            heavy += [2 * n, 2 * n + 1]
    return PairTypes((*names, f"{HEAVY} intra", f"{HEAVY} inter"), types.ravel(), label, np.array(heavy, dtype=int),
                     target.molecule_of_atom, bonded_keys(target))


def volume(box: np.ndarray | None, range_nm: float) -> float:
    """Volume (nm3) over which an ideal gas would be spread."""
    return 4 / 3 * np.pi * range_nm ** 3 if box is None else float(abs(np.linalg.det(box)))


def radial_distribution(counts: np.ndarray, density: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """g(r), shape (..., n_bins), of all structures together.

    Parameters
    ----------
    counts : ndarray, shape (..., n_structures, n_bins)
        Pairs by distance.
    density : ndarray, shape (..., n_structures)
        Pairs at any distance over the volume, 1/nm3.
    edges : ndarray, shape (n_bins + 1,), nm
    """
    ideal = density.sum(axis=-1)[..., None] * 4 / 3 * np.pi * np.diff(edges ** 3)
    return counts.sum(axis=-2) / np.where(ideal > 0, ideal, np.inf)
