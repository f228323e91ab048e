"""Forces on beads: projection, distributions, where the worst are, and what force matching gets."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from small_systems import BOX, small_positions, small_target

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.forces.bead_forces import BeadForces, bead_forces
from openmm_backmap.analysis.forces.distributions import (
    ALL,
    COMPONENT,
    MAGNITUDE,
    compare_forces,
    count,
    detection,
    edges_of,
    frame_scores,
)
from openmm_backmap.analysis.forces.matching import chi_squared, chi_squared_bm, mean_forces
from openmm_backmap.analysis.forces.projection import owned_atoms, projection
from openmm_backmap.analysis.forces.view import worst_view
from openmm_backmap.analysis.forces.worst import bead_name, find_worst, surroundings, write_worst
from openmm_backmap.chemistry.target import normalised_rows
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.io.atomistic import open_atoms


@pytest.fixture(scope="module")
def target():
    return small_target(2, 3)


def unshared(target):
    """The same beads at the centres of mass of the atoms that they own."""
    atoms = np.arange(target.n_atoms)
    mapping = normalised_rows(target.masses.tolist(), target.bead_of_atom.tolist(), atoms.tolist(),
                              target.mapping.shape)
    return replace(target, mapping=mapping)


def matrix(target):
    return projection(target)(np.eye(target.n_atoms))


def ensemble(target, positions):
    positions = np.array(positions)
    return Ensemble("test", target, positions, np.stack([BOX] * len(positions)), np.arange(len(positions)),
                    mapped(target, positions))


def gaussian_forces(rng, n_structures=8, scale=1000.0, name="test"):
    """Forces on four beads, two of type A and two, twice as large, of type B."""
    kinds = np.array([0, 0, 1, 1] * 50)
    forces = rng.normal(size=(n_structures, len(kinds), 3)) * scale * (1 + kinds)[:, None]
    return BeadForces(name, ("A", "B"), kinds, np.arange(n_structures), forces)


# --- projection -----------------------------------------------------------------------------------------------------

def test_beads_of_their_own_atoms_feel_the_sum(target):
    alone = unshared(target)
    assert projection(alone).masses is None
    assert np.array_equal(matrix(alone), owned_atoms(alone).toarray())
    mapping = alone.mapping.toarray()
    by_mass = mapping / alone.masses
    assert np.allclose(np.linalg.solve(by_mass @ mapping.T, by_mass), owned_atoms(alone).toarray(), atol=1e-9)
    plain = np.linalg.solve(mapping @ mapping.T, mapping)
    assert np.abs(plain - owned_atoms(alone).toarray()).max() > 0.5
    equal = replace(alone, mapping=sparse.csr_array(owned_atoms(alone) / owned_atoms(alone).sum(axis=1)[:, None]))
    mapping = equal.mapping.toarray()
    assert np.allclose(np.linalg.solve(mapping @ mapping.T, mapping), owned_atoms(alone).toarray())


def test_shared_atoms_are_set_right_and_no_force_is_lost(target):
    found, mapping = matrix(target), target.mapping.toarray()
    assert projection(target).masses is not None
    assert np.abs(owned_atoms(target) @ mapping.T - np.eye(target.n_beads)).max() > 0.1
    assert np.abs(found @ mapping.T - np.eye(target.n_beads)).max() < 1e-9
    assert np.allclose(found.sum(axis=0), 1)


def test_the_mean_force_of_a_harmonic_system(target):
    """U = x K x / 2: the potential of mean force of R = M x has the stiffness (M K^-1 M^T)^-1, and the mean atom
    positions at R are K^-1 M^T times that times R."""
    rng = np.random.default_rng(1)
    root = rng.normal(size=(target.n_atoms, target.n_atoms))
    stiffness, mapping = root @ root.T + 10 * np.eye(target.n_atoms), target.mapping.toarray()
    beads = rng.normal(size=(target.n_beads, 3))
    soft = np.linalg.solve(stiffness, mapping.T)
    of_mean_force = -np.linalg.solve(mapping @ soft, beads)
    forces = -stiffness @ (soft @ -of_mean_force)
    assert np.allclose(projection(target)(forces), of_mean_force)
    assert np.abs(owned_atoms(target) @ forces - of_mean_force).max() > 0.1 * np.abs(of_mean_force).max()


# --- forces of structures -------------------------------------------------------------------------------------------

def test_rounded_files_have_the_forces_of_exact_ones(target):
    exact = small_positions(target, 4)
    found = [bead_forces(ensemble(target, [x]), "CPU").forces[0] for x in (exact, exact.round(4))]
    assert np.abs(found[0] - found[1]).max() < 0.05 * np.abs(found[0]).max()
    assert np.abs(found[0]).max() < 1e5


def test_atoms_on_top_of_each_other_are_large_forces_and_nothing_worse(target):
    x = small_positions(target, 1)
    own, other = (np.flatnonzero(target.molecule_of_atom == m) for m in (0, 1))
    x[other] = x[own]
    found = bead_forces(ensemble(target, [x]), "CPU")
    assert np.isfinite(found.magnitudes).all() and found.magnitudes.max() > 1e8
    x[0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        bead_forces(ensemble(target, [x]), "CPU")


# --- distributions --------------------------------------------------------------------------------------------------

def test_equal_distributions_are_at_the_floor_and_tails_are_above():
    rng = np.random.default_rng(1)
    reference = gaussian_forces(rng, 12)
    rows = {(r.bead, r.quantity): r for r in compare_forces(reference, gaussian_forces(rng), rng)}
    assert set(rows) == {(bead, q) for bead in (ALL, "A", "B") for q in (MAGNITUDE, COMPONENT)}
    for row in rows.values():
        assert row.divergence < 2.5 * row.floor and 0 < row.error < row.floor
    tail = gaussian_forces(rng)
    tail.forces[:, ::10] *= 1e6
    row = next(r for r in compare_forces(reference, tail, rng) if (r.bead, r.quantity) == (ALL, MAGNITUDE))
    assert row.divergence > 4 * row.floor and row.beyond == pytest.approx(0.1, abs=0.01) and row.high > 1e8
    assert np.isfinite([row.divergence, row.error, row.median]).all()


def test_every_force_is_counted_once():
    rng = np.random.default_rng(1)
    forces = gaussian_forces(rng, 3)
    forces.forces[1, 5] = 1e15
    forces = replace(forces, frame=np.array([0, 0, 1]))
    found = count(forces, edges_of(gaussian_forces(rng, 5)))
    assert found.counts[ALL, MAGNITUDE].sum(axis=1).tolist() == [400, 200]
    assert found.counts["A", COMPONENT].sum(axis=1).tolist() == [600, 300]
    assert found.counts[ALL, MAGNITUDE][0, -1] >= 1


def test_a_bad_model_is_detected_by_single_frames():
    rng = np.random.default_rng(2)
    reference, right = gaussian_forces(rng, 10), gaussian_forces(rng, 6)
    other, bad = gaussian_forces(rng, 6), gaussian_forces(rng, 6, scale=1400.0)
    scores = [frame_scores(reference, forces) for forces in (right, other, bad)]
    assert detection(scores[0], scores[2]) > 0.95 and 0.05 < detection(scores[0], scores[1]) < 0.95
    assert np.mean(scores[0]) == pytest.approx(0.05, abs=0.02)
    few = gaussian_forces(rng, 6)
    few.forces[:, :20] *= 5.0
    assert detection(scores[0], frame_scores(reference, few)) == 1
    drawn_twice = replace(bad, frame=np.array([0, 0, 1, 1, 2, 2]))
    assert frame_scores(reference, drawn_twice) == pytest.approx(scores[2].reshape(3, 2).mean(axis=1))


# --- force matching -------------------------------------------------------------------------------------------------

def test_force_matching_is_by_degree_of_freedom_and_by_frame():
    forces = replace(gaussian_forces(np.random.default_rng(1), 4), frame=np.array([0, 0, 3, 3]))
    mean = mean_forces(forces)
    assert mean.shape == (2, 200, 3) and np.allclose(mean[1], forces.forces[2:].mean(axis=0))
    assert chi_squared(mean, mean) == 0 and chi_squared(mean + 2.0, mean) == pytest.approx(4.0)
    assert chi_squared_bm(mean + 2.0, mean, mean - 3.0, mean) == pytest.approx(13.0)


def test_force_matching_is_a_target_for_torch():
    import torch

    wanted = torch.as_tensor(gaussian_forces(np.random.default_rng(1), 2).forces)
    scale = torch.tensor(0.5, requires_grad=True)
    chi_squared_bm(scale * wanted, wanted, scale * wanted, 2 * wanted).backward()
    assert scale.grad < 0
    with torch.no_grad():
        best = chi_squared_bm(1.5 * wanted, wanted, 1.5 * wanted, 2 * wanted)
        assert all(best < chi_squared_bm(s * wanted, wanted, s * wanted, 2 * wanted) for s in (1.4, 1.6))


# --- the worst ------------------------------------------------------------------------------------------------------

def test_the_worst_place_is_where_molecules_were_pushed_together(tmp_path):
    target = small_target(3, 3)
    sound, bad = small_positions(target, 7), small_positions(target, 7)
    first, last = (np.flatnonzero(target.molecule_of_atom == m) for m in (0, 2))
    # Through the periodic boundary: the third chain comes to the first one's other side.
    bad[last] += bad[first].mean(0) - bad[last].mean(0) + np.array([0.25, 0, 0]) + BOX[0]
    both = ensemble(target, [sound, bad])
    found = find_worst(both, bead_forces(both, "CPU"), ("one", "two"))
    assert found[0].frame == "two" and {found[0].molecule, found[0].neighbour} == {0, 2}
    assert f"molecule {found[0].neighbour + 1}" in found[0].nearest and found[0].name == bead_name(
        target, found[0].bead)
    assert sum(w.structure == 1 and w.molecule in (0, 2) for w in found) == 1
    assert [w.force for w in found] == sorted((w.force for w in found), reverse=True)
    near = surroundings(both, found[0])
    assert near.pressed == found[0].neighbour and near.pair == pytest.approx(np.array(
        [near.positions[np.argmin(np.linalg.norm(near.positions - end, axis=1))] for end in near.pair]))
    assert f"{np.linalg.norm(near.pair[0] - near.pair[1]):.3f} nm" in found[0].nearest
    view = worst_view(near, "pushed together")
    assert all(word in view for word in ("molecule of the bead", f"molecule {near.pressed + 1}, nearest", "the bead"))
    assert len(near.target.chains) >= 2 and np.abs(mapped(near.target, near.positions) - near.beads).max() < 1e-9
    atoms = [near.positions[near.target.molecule_of_atom == m] for m in (0, 1)]
    assert np.linalg.norm(atoms[0][:, None] - atoms[1], axis=-1).min() < 0.2
    read = open_atoms([write_worst(tmp_path / "worst", "bad", near)], target.chemistry)
    assert read.target.chains == near.target.chains


def test_names_of_beads(target):
    assert [bead_name(target, b) for b in (0, 1, 5, 6)] == ["A of STY 1", "B of STY 1", "B of STY 3", "A of STY 1"]
