"""Defects are counted where they were put, and nowhere else."""

import numpy as np
import pytest

from openmm_backmap.analysis.defects import DEFECTS, count_defects, opportunities, wrong_sides
from openmm_backmap.analysis.defects import FOLDED_NM as BENT_NM
from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.geometry.checks import FOLDED_NM, rings
from openmm_backmap.geometry.internal import dihedral_angles, stiff_torsions
from tests.small_systems import BOX, TRICLINIC, small_positions, small_target


@pytest.fixture(scope="module")
def target():
    return small_target(2, 3)


@pytest.fixture
def positions(target):
    return small_positions(target, 4)   # the builder looks after neighbours only; these chains do not touch


def counted(target, x, box=BOX):
    return dict(zip(DEFECTS, count_defects(target, x, box).tolist(), strict=True))


def normal_of(x, ring):
    normal = np.cross(x[ring[1]] - x[ring[0]], x[ring[2]] - x[ring[0]])
    return normal / np.linalg.norm(normal)


@pytest.mark.parametrize("box", [None, BOX, TRICLINIC])
def test_a_built_structure_has_none(target, positions, box):
    assert counted(target, positions, box) == dict.fromkeys(DEFECTS, 0)


def test_opportunities(target):
    assert dict(zip(DEFECTS, opportunities(target).tolist())) == {
        "close contacts": 48, "inverted centres": 4, "pierced rings": 6, "cis/trans errors": 36, "bent rings": 6}
    octane = build_target(load_chemistry("octane"), [["OCT"]])
    assert opportunities(octane).tolist() == [8, 0, 0, 0, 0]
    assert count_defects(octane, np.random.default_rng(0).uniform(0, 5, (octane.n_atoms, 3)), None)[1:].sum() == 0


def test_a_mirror_image_has_the_wrong_hands_only(target, positions):
    assert counted(target, positions * [1, 1, -1], None) == {**dict.fromkeys(DEFECTS, 0), "inverted centres": 4}


def test_contacts_between_molecules(target, positions):
    i = next(k for k in range(target.n_atoms) if target.elements[k] == "C")
    second = target.molecule_of_atom == 1
    j = [k for k in np.flatnonzero(second) if target.elements[k] == "C"][-1]
    positions[second] += positions[i] - positions[j] + [0, 0.2, 0] + BOX[1]
    assert counted(target, positions)["close contacts"] >= 1


def test_a_ring_pierced_twice_is_one_pierced_ring(target, positions):
    ring = rings(target)[0]
    middle, normal = positions[ring].mean(0), normal_of(positions, ring)
    ends = [(a, b) for a, b in target.bonds.tolist() if target.molecule_of_atom[a] == 1
            and "H" in (target.elements[a], target.elements[b])][:2]
    ends = [pair if target.elements[pair[1]] == "H" else pair[::-1] for pair in ends]
    assert ends[0][0] == ends[1][0]
    positions[ends[0][0]] = middle + 0.05 * normal
    for k, (_, hydrogen) in enumerate(ends):
        positions[hydrogen] = middle - 0.05 * normal + 0.01 * k
    assert counted(target, positions)["pierced rings"] == 1


def test_a_substituent_that_points_into_its_ring(target, positions):
    """Both bonds at its carbon are wrong; one that bends out of plane by less than a right angle is not."""
    ring = rings(target)[1]
    at, hydrogen = next((i, b) for i in ring for pair in target.bonds.tolist() if i in pair
                        for b in pair if target.elements[b] == "H")
    middle = positions[ring].mean(0)
    inward = positions.copy()
    inward[hydrogen] = positions[at] + 0.5 * (middle - positions[at])
    assert counted(target, inward)["cis/trans errors"] == 2
    bond = stiff_torsions(target)[0][:, 1:3]
    wrong = np.flatnonzero(wrong_sides(target, inward))
    assert all(at in bond[np.flatnonzero(stiff_torsions(target)[2] == k)[0]] for k in wrong)
    bent = positions.copy()
    bent[hydrogen] += 0.08 * normal_of(positions, ring)
    assert counted(target, bent)["cis/trans errors"] == 0


def test_heat_that_bends_two_neighbours_apart_is_no_error(target, positions):
    """One of four dihedrals past a right angle: hydrogens 46 degrees up and down."""
    ring = rings(target)[1]
    light = {i: b for pair in target.bonds.tolist() for i, b in (pair, pair[::-1])
             if i in ring and target.elements[b] == "H"}
    a, b = next((i, j) for i, j in zip(ring.tolist(), np.roll(ring, -1).tolist()) if i in light and j in light)
    bent, normal, middle = positions.copy(), normal_of(positions, ring), positions[ring].mean(0)
    for i, side in ((a, 1), (b, -1)):
        out = (positions[i] - middle) / np.linalg.norm(positions[i] - middle)
        bent[light[i]] = positions[i] + 0.05 * out + 0.096 * side * normal
    members, cis, _ = stiff_torsions(target)
    assert ((np.abs(dihedral_angles(bent[members])) < 90) != cis).sum() == 1
    assert not wrong_sides(target, bent).any()


def test_a_folded_ring(target, positions):
    ring = rings(target)[2]
    positions[ring[0]] += 0.06 * normal_of(positions, ring)
    assert counted(target, positions)["bent rings"] == 1


def test_the_limit_is_that_of_sampling():
    assert BENT_NM == FOLDED_NM
