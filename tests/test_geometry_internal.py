"""Internal coordinates: lists, names, values, and the dihedrals that rings fix."""

import warnings
from collections import Counter

import numpy as np
import pytest

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.internal import (
    angles_of,
    bond_angles,
    bond_lengths,
    by_type,
    dihedral_angles,
    dihedrals_of,
    impropers_of,
    out_of_plane_angles,
    stiff_torsions,
)


@pytest.fixture(scope="module")
def target():
    return build_target(load_chemistry("sps"), [["STY"] * 3])


class Graph:
    """Just what the lists of a bond graph ask for."""

    def __init__(self, n_atoms, bonds, elements=None, extra_mass=0.0):
        self.n_atoms, self.bonds = n_atoms, np.array(bonds)
        self.elements = elements or ("C",) * n_atoms
        self.masses = np.array([{"C": 12.011, "H": 1.008, "N": 14.007}[e] for e in self.elements]) + extra_mass
        self.atom_type = np.zeros(n_atoms, dtype=int)


def ring(n, start=0):
    return [(start + k, start + (k + 1) % n) for k in range(n)]


def naphthalene():
    """Ten carbons, 0 and 5 where the rings meet, with a hydrogen on each of the others."""
    carbons = [*ring(10), (0, 5)]
    outer = [k for k in range(10) if k not in (0, 5)]
    return Graph(18, carbons + [(k, 10 + n) for n, k in enumerate(outer)], ("C",) * 10 + ("H",) * 8)


def test_lists_are_complete(target):
    """Sums over the bond graph: pairs of bonds at an atom, and pairs of further bonds at the ends of a bond."""
    n_bonds = np.bincount(target.bonds.ravel())
    assert len(angles_of(target)) == (n_bonds * (n_bonds - 1) // 2).sum()
    assert len(dihedrals_of(target)) == ((n_bonds - 1)[target.bonds].prod(axis=1)).sum()
    assert len(impropers_of(target)) == (n_bonds == 3).sum() == 18
    assert len({(min(d, d[::-1])) for d in map(tuple, dihedrals_of(target).tolist())}) == len(dihedrals_of(target))


def test_chains_are_named_from_the_end_that_sorts_first(target):
    kinds = by_type(target, dihedrals_of(target))
    assert "C-C_AR-C_AR-H_AR" in kinds and "H_AR-C_AR-C_AR-C" not in kinds
    names = target.chemistry.type_classes
    for name, rows in kinds.items():
        for row in rows:
            words = [names[t] for t in target.atom_type[row]]
            assert name == "-".join(min(words, words[::-1]))
    assert sum(map(len, kinds.values())) == len(dihedrals_of(target))


def test_impropers_are_named_from_their_centre_and_start_with_the_same_neighbour(target):
    kinds = by_type(target, impropers_of(target), centred=True)
    assert {name: len(rows) for name, rows in kinds.items()} == {"C_AR-C-C_AR-C_AR": 3, "C_AR-C_AR-C_AR-H_AR": 15}
    # A row in the order of its name: the angle of a type is always that of the same bond.
    names = np.array(target.chemistry.type_classes)
    for name, rows in kinds.items():
        assert {"-".join(words) for words in names[target.atom_type[rows]]} == {name}


def test_no_rows_have_no_types(target):
    assert by_type(target, np.empty((0, 4), dtype=int)) == {}


def test_values_of_known_places():
    turn = np.radians(50)
    x = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 2.0], [np.cos(turn), np.sin(turn), 2.0]])
    assert bond_lengths(x[1:3]) == pytest.approx(2)
    assert bond_angles(x[:3]) == pytest.approx(90)
    # IUPAC: positive where the far bond is turned clockwise, seen from the near end.
    assert dihedral_angles(x) == pytest.approx(50)
    assert dihedral_angles(x * [1, -1, 1]) == pytest.approx(-50)
    assert dihedral_angles(x[::-1]) == pytest.approx(50)
    tripod = np.array([[0, 0, 0.3], [0.4, 0, 0], [-0.2, 0.35, 0], [-0.2, -0.35, 0]])
    assert abs(out_of_plane_angles(tripod)) == pytest.approx(np.degrees(np.arctan2(0.3, 0.4)))
    assert out_of_plane_angles(tripod * [1, 1, 0]) == pytest.approx(0)
    assert out_of_plane_angles(tripod * [1, 1, -1]) == pytest.approx(-out_of_plane_angles(tripod))


@pytest.mark.parametrize("measure, width", [(bond_lengths, 2), (bond_angles, 3), (dihedral_angles, 4),
                                            (out_of_plane_angles, 4)])
def test_coinciding_and_collinear_atoms_have_finite_values(measure, width):
    on_a_line = np.arange(width)[:, None] * [0.1, 0.0, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = measure(np.stack([np.zeros((width, 3)), on_a_line]))
    assert np.isfinite(values).all() and values[0] == 0


def test_stiff_torsions_of_polystyrene_are_right_as_built(target):
    members, cis, bond = stiff_torsions(target)
    assert len(members) == 3 * 6 * 4 and Counter(bond.tolist()) == dict.fromkeys(range(18), 4)
    assert cis.sum() == len(cis) / 2
    x = build_coordinates(target, np.random.default_rng(0))
    np.testing.assert_array_equal(np.abs(dihedral_angles(x[members])) < 90, cis)


def test_the_outline_of_two_fused_rings_is_no_ring():
    """Where two rings meet, the outline bends the other way: trans, though a ring of ten holds all four atoms."""
    members, cis, _ = stiff_torsions(naphthalene())
    sides = {frozenset((row, row[::-1])): side for row, side in zip(map(tuple, members.tolist()), cis.tolist())}
    side = lambda *row: sides[frozenset((row, row[::-1]))]  # noqa: E731
    assert side(1, 2, 3, 4) and side(0, 1, 2, 3) and side(5, 0, 1, 2) and side(1, 0, 5, 4)
    assert not side(9, 0, 1, 2) and not side(1, 0, 5, 6)
    assert side(9, 0, 5, 6)
    assert len(np.unique(stiff_torsions(naphthalene())[2])) == 11


@pytest.mark.parametrize("graph", [
    Graph(8, [*ring(6), (0, 6), (1, 7)], extra_mass=1.008), Graph(16, [*ring(8), *((k, 8 + k) for k in range(8))]),
    Graph(6, [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)]), Graph(6, ring(6)),
    Graph(8, [*ring(6), (0, 6), (1, 7)], ("N",) * 8)],
    ids=["united atoms", "ring of eight", "double bond", "aliphatic", "no carbon"])
def test_the_bond_graph_does_not_decide(graph):
    assert len(stiff_torsions(graph)[0]) == 0
