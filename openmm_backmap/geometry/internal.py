"""Internal coordinates: bonds, angles, dihedrals and impropers of a bond graph, by type, and their values.

Lists are found from the bond graph alone, once for each target. Members come in the order in which they are named
(``a-b-c``), and a type's name is that of its atoms' type classes, read from the end that sorts first.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from openmm_backmap.chemistry.target import Target
from openmm_backmap.geometry.checks import once_per_target


@once_per_target
def angles_of(target: Target) -> np.ndarray:
    """Angles (n, 3), the centre in the middle."""
    rows = [(a, j, b) for j, near in enumerate(_neighbours(target)) for a, b in combinations(near, 2)]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


@once_per_target
def dihedrals_of(target: Target) -> np.ndarray:
    """Proper dihedrals (n, 4) along all bonds."""
    table = _neighbours(target)
    rows = [(a, i, j, b) for i, j in target.bonds.tolist() for a in table[i] if a != j for b in table[j]
            if b not in (i, a)]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


@once_per_target
def impropers_of(target: Target) -> np.ndarray:
    """Atoms with three bonds (n, 4), the centre first, its neighbours in order of index."""
    rows = [(i, *sorted(near)) for i, near in enumerate(_neighbours(target)) if len(near) == 3]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def by_type(target: Target, members: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of ``members`` (n, 2 to 4) by the names of their types, in the order of the names."""
    names = target.chemistry.type_classes
    kinds, kind_of_row = np.unique(target.atom_type[members], axis=0, return_inverse=True)
    label_of_kind = ["-".join(min(words, words[::-1])) for words in ([names[t] for t in kind] for kind in kinds)]
    labels = np.array(label_of_kind, dtype=object)[kind_of_row.ravel()] if len(members) else np.empty(0, dtype=object)
    return {name: members[labels == name] for name in sorted(set(label_of_kind))}


def bond_lengths(x: np.ndarray) -> np.ndarray:
    """Lengths (...), in the unit of ``x`` (..., 2, 3)."""
    return np.linalg.norm(x[..., 1, :] - x[..., 0, :], axis=-1)


def bond_angles(x: np.ndarray) -> np.ndarray:
    """Angles (...), degrees, at the middle of ``x`` (..., 3, 3)."""
    a, b = x[..., 0, :] - x[..., 1, :], x[..., 2, :] - x[..., 1, :]
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1)))


def dihedral_angles(x: np.ndarray) -> np.ndarray:
    """Dihedral angles (...), degrees, of ``x`` (..., 4, 3); 180 is trans."""
    a, b, c = np.moveaxis(np.diff(x, axis=-2), -2, 0)
    n, m = np.cross(a, b), np.cross(b, c)
    length = np.linalg.norm(b, axis=-1)
    return np.degrees(np.arctan2((np.cross(n, m) * b).sum(-1) / length, (n * m).sum(-1)))


def out_of_plane_angles(x: np.ndarray) -> np.ndarray:
    """Angles (...), degrees, between the first bond of a centre and the plane of its three neighbours: ``x``
    (..., 4, 3), centre first; 0 is planar."""
    centre, a, b, c = np.moveaxis(x, -2, 0)
    normal = np.cross(b - a, c - a)
    height = ((centre - a) * normal).sum(-1) / np.linalg.norm(normal, axis=-1)
    return np.degrees(np.arcsin(np.clip(height / np.linalg.norm(centre - a, axis=-1), -1, 1)))


def _neighbours(target: Target) -> list[list[int]]:
    table: list[list[int]] = [[] for _ in range(target.n_atoms)]
    for i, j in target.bonds.tolist():
        table[i].append(j)
        table[j].append(i)
    return table
