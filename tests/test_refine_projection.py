"""Exact beads and exact bonds by the smallest, smoothest move."""

from dataclasses import replace

import numpy as np
import pytest

from openmm_backmap.chemistry import build_target, create_system, load_chemistry
from openmm_backmap.errors import ChemistryError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.refine.projection import bond_error, project, satisfy_bonds, thermal_velocities
from openmm_backmap.refine.systems import constrained_bonds


@pytest.fixture(scope="module")
def target():
    return build_target(load_chemistry("sps"), [["STY"] * 5, ["STY"] * 3])


@pytest.fixture(scope="module")
def positions(target):
    return build_coordinates(target, np.random.default_rng(5))


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture(scope="module")
def constraints(target):
    return constrained_bonds(target, create_system(flexible(target), None))


def flexible(target):
    return replace(target, chemistry=replace(target.chemistry, constraints="none"))


def test_constrained_bonds_are_those_that_openmm_constrains(target, constraints):
    system = create_system(target, None)
    pairs, lengths = constraints
    found = {tuple(sorted(pair)): length for pair, length in zip(pairs.tolist(), lengths, strict=True)}
    rows = [system.getConstraintParameters(k) for k in range(system.getNumConstraints())]
    assert found == pytest.approx({tuple(sorted(row[:2])): row[2]._value for row in rows})


def test_bonds_alone_leave_beads_where_the_atoms_take_them(target, positions, constraints, rng):
    pairs, lengths = constraints
    x = positions
    noisy = x + rng.normal(scale=0.004, size=x.shape)
    exact = satisfy_bonds(target, noisy, None, pairs, lengths)
    assert bond_error(exact, pairs, lengths) < 1e-6
    assert np.abs(mapped(target, exact) - mapped(target, noisy)).max() < 0.004


def test_thermal_velocities_stretch_no_bond_and_have_the_temperature(target, positions, constraints, rng):
    pairs, _ = constraints
    x = positions
    freedom = 3 * target.n_atoms - len(pairs)
    kinetic = []
    for _ in range(200):
        v = thermal_velocities(target, x, pairs, 568.0, rng)
        along = ((x[pairs[:, 0]] - x[pairs[:, 1]]) * (v[pairs[:, 0]] - v[pairs[:, 1]])).sum(1)
        assert np.abs(along).max() < 1e-9
        kinetic.append(0.5 * (target.masses[:, None] * v**2).sum())
    # The mean of 200 draws of a chi-squared with this many degrees of freedom is known to well under a per cent.
    assert np.mean(kinetic) == pytest.approx(0.5 * freedom * 8.314463e-3 * 568, rel=0.02)


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
