"""Is a structure sound? Hands of stereocentres, close contacts, bonds through rings, flat rings, beads in place.

Neighbour searches cost O(N) and hold in rectangular and triclinic boxes; what depends on the bond graph alone is
found once for each target.
"""

from __future__ import annotations

import functools
import itertools
import weakref

import numpy as np

from openmm_backmap.chemistry.target import Target
from openmm_backmap.geometry.periodic import minimum_image
from openmm_backmap.geometry.plain import point_tree

CONTACT_NM = 0.25
#: thermal motion of polystyrene at 568 K takes ring atoms 0.016 nm out of plane at most; a folded ring is far beyond
FOLDED_NM = 0.025
_CONTACT_BONDS = 3
_LARGEST_RING = 10
_SLACK = 1e-9


def once_per_target(function):
    """Keep ``function(target)`` for as long as the target lives (its arrays have no hash to cache by)."""
    kept: dict = {}

    @functools.wraps(function)
    def keeping(target: Target):
        if id(target) not in kept:
            kept[id(target)] = function(target)
            weakref.finalize(target, kept.pop, id(target), None)
        return kept[id(target)]

    return keeping


def mapped(target: Target, positions: np.ndarray) -> np.ndarray:
    """Bead positions M(r), shape (..., n_beads, 3), of whole molecules at ``positions`` (..., n_atoms, 3)."""
    flat = np.moveaxis(positions, -2, 0).reshape(target.n_atoms, -1)
    return np.moveaxis((target.mapping @ flat).reshape(target.n_beads, *positions.shape[:-2], 3), 0, -2)


def mapping_rmsd(target: Target, positions: np.ndarray, beads: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Root mean square distance, nm, of M(r) from ``beads`` (n_beads, 3); one for each leading index of positions."""
    distance2 = (minimum_image(mapped(target, positions) - beads, box) ** 2).sum(-1)
    return np.sqrt(distance2.mean(-1))


def inverted_centres(target: Target, positions: np.ndarray) -> np.ndarray:
    """Which stereocentres have the wrong hand.

    Parameters
    ----------
    target : Target
    positions : ndarray, shape (..., n_atoms, 3), nm
        Whole molecules.

    Returns
    -------
    ndarray of bool, shape (..., n_centres)
        In the order of ``target.stereo``.
    """
    centre, a, b, c = np.moveaxis(positions[..., target.stereo, :], -2, 0)
    volume = (np.cross(a - centre, b - centre) * (c - centre)).sum(-1)
    return np.sign(volume) != target.stereo_sign


def close_contacts(target: Target, positions: np.ndarray, box: np.ndarray | None,
                   heavy_nm: float = CONTACT_NM) -> np.ndarray:
    """Pairs of heavy atoms, more than three bonds apart, that are closer than ``heavy_nm``.

    Returns
    -------
    ndarray of int, shape (n_contacts, 2)
        Atom indices, the smaller first.
    """
    heavy, bonded = heavy_atoms(target), bonded_keys(target)
    i, j = near_pairs(positions[heavy], positions[heavy], box, heavy_nm)
    pairs = np.stack([heavy[i], heavy[j]], axis=1)[i < j]
    keys = np.unique(pairs[:, 0] * target.n_atoms + pairs[:, 1])
    # bonded keys are many and sorted, close ones few
    at = np.searchsorted(bonded, keys)
    keys = keys[np.append(bonded, -1)[at] != keys]
    return np.stack([keys // target.n_atoms, keys % target.n_atoms], axis=1)


@once_per_target
def heavy_atoms(target: Target) -> np.ndarray:
    """Indices of all atoms that are no hydrogen."""
    return np.flatnonzero(np.array(target.elements) != "H")


@once_per_target
def bonded_keys(target: Target) -> np.ndarray:
    """Keys ``i * n_atoms + j``, sorted, of pairs up to three bonds apart."""
    near = target.graph_distances(_CONTACT_BONDS).tocoo()
    return np.sort(near.row.astype(np.int64) * target.n_atoms + near.col)


@once_per_target
def rings(target: Target) -> tuple[np.ndarray, ...]:
    """Rings of the bond graph, up to ten atoms: for each its atoms in order around it, smallest first of all."""
    owner = target.molecule_of_atom[target.bonds[:, 0]]
    order = np.argsort(owner, kind="stable")
    found, known = [], {}
    for bonds in np.split(target.bonds[order], np.flatnonzero(np.diff(owner[order])) + 1):
        # A melt has few distinct molecules and many copies: each is looked at once.
        first = bonds.min(initial=target.n_atoms)
        shape = (bonds - first).tobytes()
        if shape not in known:
            known[shape] = _cycles(bonds - first)
        found.extend(first + ring for ring in known[shape])
    return tuple(sorted(found, key=lambda ring: ring[0]))


def _cycles(bonds: np.ndarray) -> list[np.ndarray]:
    import networkx as nx

    found = [np.array(ring) for ring in nx.cycle_basis(nx.Graph(bonds.tolist())) if len(ring) <= _LARGEST_RING]
    return [np.roll(ring, -np.argmin(ring)) for ring in found]


@once_per_target
def _rings_by_size(target: Target) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rings of one size together: their indices (n,), their atoms (n, size)."""
    sizes = np.array([len(ring) for ring in rings(target)], dtype=np.int64)
    groups = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    return [(group, np.array([rings(target)[k] for k in group])) for group in groups]


def ring_planarity(target: Target, positions: np.ndarray) -> np.ndarray:
    """Largest distance, nm, of an atom from the mean plane of its ring; shape (n_rings,), order of :func:`rings`."""
    worst = np.zeros(len(rings(target)))
    for index, atoms in _rings_by_size(target):
        corners = positions[atoms]
        corners = corners - corners.mean(axis=1, keepdims=True)
        normals = np.linalg.svd(corners, full_matrices=False)[2][:, 2]
        worst[index] = np.abs(np.einsum("rak,rk->ra", corners, normals)).max(axis=1)
    return worst


def pierced_rings(target: Target, positions: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Bonds that pass through a ring: no minimiser undoes that.

    Returns
    -------
    ndarray of int, shape (n_pierced, 2)
        Index of the ring (:func:`rings`) and of the bond (``target.bonds``).
    """
    start, vector = positions[target.bonds[:, 0]], positions[target.bonds[:, 1]] - positions[target.bonds[:, 0]]
    vector = minimum_image(vector, box)
    middle = start + vector / 2
    found = [np.empty((0, 2), dtype=np.int64)]
    for index, atoms in _rings_by_size(target):
        corners = positions[atoms[:, :1]] + minimum_image(positions[atoms] - positions[atoms[:, :1]], box)
        centres = corners.mean(axis=1)
        corners = corners - centres[:, None]
        reach = np.linalg.norm(corners, axis=-1).max() + np.linalg.norm(vector, axis=-1).max() / 2
        ring, bond = near_pairs(centres, middle, box, reach)
        own = (atoms[ring][:, None] == target.bonds[bond][:, :, None]).any(axis=(1, 2))
        ring, bond = ring[~own], bond[~own]
        at = minimum_image(middle[bond] - centres[ring], box) - vector[bond] / 2
        hit = _crosses_fan(at, vector[bond], corners[ring])
        found.append(np.stack([index[ring[hit]], bond[hit]], axis=1))
    return np.concatenate(found)


def _crosses_fan(start: np.ndarray, vector: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Whether segments ``start + s * vector`` (n, 3) cross one of the triangles (0, corner, next corner).

    The Moeller-Trumbore test, with the centre of the fan (n, size, 3) at the origin.
    """
    a, b = corners, np.roll(corners, -1, axis=1)
    s, v = start[:, None], np.broadcast_to(vector[:, None], corners.shape)
    p = np.cross(v, b)
    determinant = (a * p).sum(-1)
    safe = np.where(np.abs(determinant) > 1e-15, determinant, np.inf)
    along_a = (s * p).sum(-1) / safe
    q = np.cross(np.broadcast_to(s, a.shape), a)
    along_b = (v * q).sum(-1) / safe
    along_v = (b * q).sum(-1) / safe
    # With no slack, rounding lets a bond slip through the seam of two triangles.
    inside = (along_a >= -_SLACK) & (along_b >= -_SLACK) & (along_a + along_b <= 1 + _SLACK)
    inside &= (along_v >= 0) & (along_v <= 1)
    return (inside & np.isfinite(safe)).any(axis=1)


def near_pairs(a: np.ndarray, b: np.ndarray, box: np.ndarray | None, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (i, j) of all points of ``a`` (n, 3) and ``b`` (m, 3) within ``radius`` (nm), images included.

    Points of ``b`` are copied into a skin around the box, which is right for any box and costs O(N).
    """
    if not len(a) or not len(b):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    if box is None:
        images, origin = b, np.arange(len(b))
    else:
        inverse = np.linalg.inv(box)
        a, b = ((points @ inverse) % 1.0 @ box for points in (a, b))
        images, origin = _with_skin(b, box, radius)
    pairs = point_tree(a).sparse_distance_matrix(point_tree(images), radius, output_type="ndarray")
    return pairs["i"].astype(np.int64), origin[pairs["j"]]


def _with_skin(points: np.ndarray, box: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """``points`` in the box and their images within ``radius`` of it; and the index of the point behind each."""
    inverse = np.linalg.inv(box)
    fractions = points @ inverse
    skin = radius * np.linalg.norm(inverse, axis=0)  # heights of the box are 1 / norm of the columns
    reach = [range(-n, n + 1) for n in np.ceil(skin).astype(int)]
    copies, origin = [], []
    for shift in itertools.product(*reach):
        moved = fractions + shift
        inside = np.flatnonzero(((moved >= -skin) & (moved <= 1 + skin)).all(axis=1))
        copies.append(points[inside] + np.array(shift) @ box)
        origin.append(inside)
    return np.concatenate(copies), np.concatenate(origin)
