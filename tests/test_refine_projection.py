"""Exact beads and exact bonds by the smallest, smoothest move."""

from dataclasses import replace

import numpy as np
import pytest

from openmm_backmap.chemistry import build_target, create_system, load_chemistry
from openmm_backmap.errors import ChemistryError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.reference.builder import build_coordinates
from openmm_backmap.refine.projection import bond_error, project, satisfy_bonds
from openmm_backmap.refine.systems import constraints_of


@pytest.fixture(scope="module")
def target():
    return build_target(load_chemistry("sps"), [["STY"] * 5, ["STY"] * 3])


@pytest.fixture(scope="module")
def positions(target):
    return build_coordinates(target, np.random.default_rng(5))


@pytest.fixture(scope="module")
def constraints(target):
    return constraints_of(create_system(target, None))


def bond_lengths(target, x):
    return np.linalg.norm(x[target.bonds[:, 0]] - x[target.bonds[:, 1]], axis=-1)


def test_projection_of_a_batch_equals_projection_one_by_one(target, positions):
    samples = positions + np.random.default_rng(0).normal(scale=0.02, size=(2, 3, *positions.shape))
    beads = mapped(target, positions)
    batch = project(target, samples, beads)
    assert np.abs(mapped(target, batch) - beads).max() < 1e-9
    assert batch[1, 2] == pytest.approx(project(target, samples[1, 2], beads), abs=1e-12)


def test_whole_molecules_that_are_off_are_moved_rigidly(target, positions):
    shift = np.array([[0.3, -0.1, 0.2], [-0.2, 0.1, 0.0]])
    moved = project(target, positions, mapped(target, positions) + shift[target.molecule_of_bead])
    assert moved == pytest.approx(positions + shift[target.molecule_of_atom], abs=1e-9)


def least_motion(target, positions, beads):
    m = target.mapping.toarray()
    return positions + m.T @ np.linalg.solve(m @ m.T, beads - m @ positions)


def damage(target, before, after):
    return np.abs(bond_lengths(target, after) - bond_lengths(target, before))


def test_a_bead_on_one_atom_takes_its_neighbours_along(target, positions):
    """The first bead of a chain is its CB alone, which least motion would tear off its hydrogens."""
    beads = mapped(target, positions)
    beads[0] += [0.03, 0.0, 0.0]
    smooth, least = project(target, positions, beads), least_motion(target, positions, beads)
    hydrogens = [k for k, (i, j) in enumerate(target.bonds.tolist()) if 0 in target.bead_of_atom[[i, j]]
                 and "H" in (target.elements[i], target.elements[j]) and target.molecule_of_atom[i] == 0
                 and "CB" in (target.atom_names[i], target.atom_names[j])]
    assert damage(target, positions, smooth)[hydrogens].max() < 1e-9
    assert damage(target, positions, least)[hydrogens].max() > 0.01
    assert damage(target, positions, smooth).max() < damage(target, positions, least).max()


def test_smooth_projection_spares_bonds_more_than_least_motion(target, positions):
    rng = np.random.default_rng(3)
    noisy, beads = positions + rng.normal(scale=0.02, size=positions.shape), mapped(target, positions)
    least = least_motion(target, noisy, beads)
    assert mapped(target, least) == pytest.approx(beads)
    rms = [np.sqrt((damage(target, noisy, x) ** 2).mean()) for x in (project(target, noisy, beads), least)]
    assert rms[0] < 0.7 * rms[1]


@pytest.mark.parametrize("noise_nm", [0.005, 0.02])
def test_bonds_and_beads_are_exact_together(target, positions, constraints, noise_nm):
    noisy = positions + np.random.default_rng(4).normal(scale=noise_nm, size=positions.shape)
    beads = mapped(target, positions)
    exact = satisfy_bonds(target, noisy, beads, *constraints)
    assert bond_error(noisy, *constraints) > noise_nm
    assert bond_error(exact, *constraints) < 1e-6
    assert np.abs(mapped(target, exact) - beads).max() < 1e-6
    assert np.linalg.norm(exact - noisy, axis=1).max() < 8 * noise_nm


def test_without_constraints_bonds_are_left_to_the_projection(target, positions):
    none = np.empty((0, 2), dtype=int), np.empty(0)
    beads = mapped(target, positions) + 0.01
    assert satisfy_bonds(target, positions, beads, *none) == pytest.approx(project(target, positions, beads))
    assert bond_error(positions, *none) == 0.0


def test_beads_that_repeat_each_other_are_refused(target, positions):
    twice = target.mapping.copy().tolil()
    twice[1] = twice[0]
    broken = replace(target, mapping=twice.tocsr())
    with pytest.raises(ChemistryError, match="not independent"):
        project(broken, positions, mapped(target, positions))
