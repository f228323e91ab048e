"""Internal coordinates: bonds, angles, dihedrals and impropers of a bond graph, by type, and their values.

Lists are found from the bond graph alone, once for each target. Members come in the order in which they are named
(``a-b-c``), and a type's name is that of its atoms' type classes: a chain is read from the end that sorts first, an
improper from its centre, the neighbours sorted. Values are finite for any finite positions, coinciding atoms included:
an angle that is not defined is 0.
"""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from openmm_backmap.chemistry.target import Target
from openmm_backmap.geometry.checks import once_per_target
from openmm_backmap.geometry.tables import neighbour_lists

_LARGEST_STIFF_RING = 7
#: Bonds of an atom that is flat in a ring, and its mass (dalton) without hydrogens of a united atom.
_FLAT = {"C": ((3,), 12.011), "N": ((2, 3), 14.007), "O": ((2,), 15.999), "S": ((2,), 32.06)}
_HALF_HYDROGEN = 0.5


@once_per_target
def angles_of(target: Target) -> np.ndarray:
    """Angles (n, 3), the centre in the middle."""
    lists = neighbour_lists(target.n_atoms, target.bonds)
    rows = [(a, j, b) for j, near in enumerate(lists) for a, b in combinations(near, 2)]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


@once_per_target
def dihedrals_of(target: Target) -> np.ndarray:
    """Proper dihedrals (n, 4) along all bonds."""
    table = neighbour_lists(target.n_atoms, target.bonds)
    rows = [(a, i, j, b) for i, j in target.bonds.tolist() for a in table[i] if a != j for b in table[j]
            if b not in (i, a)]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


@once_per_target
def impropers_of(target: Target) -> np.ndarray:
    """Atoms with three bonds (n, 4): the centre, then its neighbours in the order of their types and indices."""
    kind = target.atom_type.tolist()
    rows = [(i, *sorted(near, key=lambda a: (kind[a], a)))
            for i, near in enumerate(neighbour_lists(target.n_atoms, target.bonds)) if len(near) == 3]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


@once_per_target
def stiff_torsions(target: Target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dihedrals whose side, cis or trans, the rings of the bond graph decide.

    A bond of a ring of up to seven atoms cannot rotate. Where both its atoms are flat as well, one of them carbon, a
    dihedral along it is cis if its ends are both in the ring or both out of it, and trans if one is in and one is out.
    Flat are carbon with three bonds, nitrogen with two or three, oxygen and sulfur with two, if no united atom hides a
    hydrogen there. Double bonds outside of rings, and rings of eight atoms and more, can have either side; the bond
    graph does not say which.

    Returns
    -------
    members : ndarray of int, shape (n, 4)
    cis : ndarray of bool, shape (n,)
        What each must be: true below 90 degrees, false above.
    bond : ndarray of int, shape (n,)
        Numbers the bonds from 0: each has up to four dihedrals.
    """
    table, flat = neighbour_lists(target.n_atoms, target.bonds), _flat_atoms(target)
    members, cis, bond = [], [], []
    number = 0
    for i, j in target.bonds[flat[target.bonds].all(axis=1)].tolist():
        if "C" not in (target.elements[i], target.elements[j]):
            continue
        ends = [(a, b) for a, b in product(table[i], table[j]) if a != j and b != i]
        inside = next((pair for pair in ends if _joined(table, pair, (i, j))), None)
        if inside is None:
            continue
        members += [(a, i, j, b) for a, b in ends if a != b]
        cis += [(a == inside[0]) == (b == inside[1]) for a, b in ends if a != b]
        bond += [number for a, b in ends if a != b]
        number += 1
    return (np.array(members, dtype=np.int64).reshape(-1, 4), np.array(cis, dtype=bool),
            np.array(bond, dtype=np.int64))


def _flat_atoms(target: Target) -> np.ndarray:
    """Atoms (n_atoms,) that are flat in a ring; a united atom weighs more than its element and is none."""
    n_bonds = np.bincount(target.bonds.ravel(), minlength=target.n_atoms).tolist()
    return np.array([element in _FLAT and n in _FLAT[element][0] and mass < _FLAT[element][1] + _HALF_HYDROGEN
                     for element, n, mass in zip(target.elements, n_bonds, target.masses.tolist())], dtype=bool)


def _joined(table: list[list[int]], ends: tuple[int, int], bond: tuple[int, int]) -> bool:
    """Whether ``ends`` and ``bond`` lie on one small ring: a short way between the ends that avoids the bond."""
    seen, front = {ends[0], *bond}, {ends[0]}
    for _ in range(_LARGEST_STIFF_RING - 3):
        front = {b for a in front for b in table[a]} - seen
        seen |= front
        if ends[1] in front:
            return True
    return False


def by_type(target: Target, members: np.ndarray, *, centred: bool = False) -> dict[str, np.ndarray]:
    """Rows of ``members`` (n, 2 to 4) by the names of their types, in the order of the names.

    ``centred`` names a row from its first atom on, as impropers are; otherwise ``a-b-c`` and ``c-b-a`` are one.
    """
    names = target.chemistry.type_classes
    kinds, kind_of_row = np.unique(target.atom_type[members], axis=0, return_inverse=True)
    words = [[names[t] for t in kind] for kind in kinds]
    label_of_kind = ["-".join([w[0], *sorted(w[1:])] if centred else min(w, w[::-1])) for w in words]
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
    return np.degrees(np.arctan2(np.linalg.norm(b, axis=-1) * (a * m).sum(-1), (n * m).sum(-1)))


def out_of_plane_angles(x: np.ndarray) -> np.ndarray:
    """Angles (...), degrees in -90..90, between the first bond of a centre and the plane of its three neighbours:
    ``x`` (..., 4, 3), centre first; 0 is planar."""
    centre, a, b, c = np.moveaxis(x, -2, 0)
    normal, bond = np.cross(b - a, c - a), centre - a
    return np.degrees(np.arctan2((bond * normal).sum(-1), np.linalg.norm(np.cross(bond, normal), axis=-1)))
