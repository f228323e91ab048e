"""SOAP vectors of local environments: images, symmetry, and which atoms are taken."""

import itertools

import numpy as np
import pytest
from ase import Atoms
from dscribe.descriptors import SOAP
from small_systems import TRICLINIC, small_positions, small_target

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.local_features import (
    PRECISION_NM,
    Sites,
    SoapSettings,
    frames_apart,
    heavy_atoms,
    kinds,
    monomer_centres,
    soap,
)
from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.periodic import wrap

SETTINGS = SoapSettings(0.4, 0.05, 4, 3)


def ensemble(positions, box, target):
    return Ensemble("some", target, np.array(positions), None if box is None else np.array([box] * len(positions)),
                    np.arange(len(positions)))


@pytest.fixture(scope="module")
def target():
    return small_target(2, 3)


@pytest.mark.parametrize("box", [0.6 * TRICLINIC, 0.35 * TRICLINIC], ids=["large", "smaller than twice the cutoff"])
def test_neighbours_are_found_across_the_faces_of_a_triclinic_box(target, box):
    # Molecules are whole: many atoms lie outside of the cell.
    x = np.round(small_positions(target) - 0.7, 3)
    atoms = heavy_atoms(target)
    found = soap(ensemble([x], box, target), Sites(np.zeros(len(atoms), int), atoms), SETTINGS)
    shifts = np.array(list(itertools.product(range(-3, 4), repeat=3))) @ box
    images = (wrap(x, box) + shifts[:, None]).reshape(-1, 3)
    centres = wrap(x, box)[atoms]
    apart = np.linalg.norm(images[:, None] - centres, axis=-1).min(1)
    near = apart < 0.9
    plain = SOAP(species=["C", "H"], r_cut=4.0, sigma=0.5, n_max=4, l_max=3)
    expected = plain.create(Atoms(np.tile(target.elements, 7 ** 3)[near], positions=10 * images[near]),
                            centers=10 * centres)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_equivalent_labels_shifts_and_turns_do_not_matter(target):
    x = np.round(small_positions(target), 3)
    swapped = x.copy()
    a, b = target.swaps[-1]
    swapped[a], swapped[b] = x[b], x[a]
    # A quarter turn keeps positions on the grid to which they are rounded.
    turned = x @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + 0.25
    centres = monomer_centres(target)
    sites = Sites(np.repeat(np.arange(3), len(centres)), np.tile(centres, 3))
    vectors = soap(ensemble([x, swapped, turned], None, target), sites, SETTINGS).reshape(3, len(centres), -1)
    assert vectors[1] == pytest.approx(vectors[0], rel=1e-4, abs=1e-4)
    assert vectors[2] == pytest.approx(vectors[0], rel=1e-3, abs=1e-3)


def test_digits_beyond_those_of_files_are_not_seen(target):
    x = np.round(small_positions(target), 3)
    sites = Sites(np.zeros(6, int), heavy_atoms(target)[:6])
    one, other = (soap(ensemble([y], TRICLINIC, target), sites, SETTINGS) for y in (x, x + 0.4 * PRECISION_NM))
    assert np.array_equal(one, other)


def test_overlapping_atoms_are_described(target):
    x = np.zeros((target.n_atoms, 3))
    sites = Sites(np.zeros(2, int), heavy_atoms(target)[:2])
    assert np.isfinite(soap(ensemble([x], TRICLINIC, target), sites, SETTINGS)).all()


def test_positions_that_are_no_numbers_are_refused(target):
    x = np.full((target.n_atoms, 3), np.nan)
    with pytest.raises(InputError, match="structure 1"):
        soap(ensemble([x], None, target), Sites(np.zeros(1, int), heavy_atoms(target)[:1]), SETTINGS)


def test_hydrogens_are_seen_only_where_wanted(target):
    x = small_positions(target)
    moved = x.copy()
    moved[np.array(target.elements) == "H"] += 0.03
    sites = Sites(np.array([0, 1]), heavy_atoms(target)[[3, 3]])
    for hydrogens in (True, False):
        one, other = soap(ensemble([x, moved], None, target), sites, SoapSettings(0.4, 0.05, 4, 3, hydrogens))
        assert np.allclose(one, other) is not hydrogens


def test_kinds_are_places_in_the_monomer_and_either_side_of_a_ring_is_one(target):
    names = np.array(target.atom_names)
    groups = {frozenset(names[(kinds(target) == k) & (np.array(target.elements) != "H")])
              for k in np.unique(kinds(target)[heavy_atoms(target)])}
    assert groups == {frozenset(g) for g in (("CA",), ("CB",), ("CG",), ("CD1", "CD2"), ("CE1", "CE2"), ("CZ",))}


def test_the_centre_of_a_monomer_inside_of_a_chain_is_the_carbon_that_carries_its_side_group(target):
    assert [target.atom_names[i] for i in monomer_centres(target)] == ["CA"] * 2
    ends = small_target(2, 2)
    assert [ends.atom_names[i] for i in monomer_centres(ends)] == ["CA"] * 4
    octane = build_target(load_chemistry("octane"), [["OCT"]] * 4)
    assert len(monomer_centres(octane)) == 4


def test_parts_of_a_reference_share_no_frame_or_no_molecule():
    frames, molecule = np.repeat(np.arange(5), 12), np.tile(np.arange(12), 5)
    rng = np.random.default_rng(1)
    first = frames_apart(frames, 1, molecule, rng)
    assert len(set(frames[first])) == 1 and not set(frames[first]) & set(frames[~first])
    assert len(set(frames[frames_apart(frames, 9, molecule, rng)])) == 2
    half = frames_apart(np.zeros(60, int), 1, molecule, rng)
    assert len(set(molecule[half])) == 6 and not set(molecule[half]) & set(molecule[~half])
