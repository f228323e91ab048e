"""Coarse-grained models: files, the OpenMM System, the pressure, and copies that are spoiled on purpose."""

from dataclasses import replace

import numpy as np
import openmm as mm
import pytest
from coarse_systems import BOX, beads_of, molecules, simple_model

from openmm_backmap.coarse import Constraint, create_cg_system, load_cg_model, save_cg_model, time_step
from openmm_backmap.coarse.dynamics import Dynamics, State
from openmm_backmap.coarse.graph import bead_pairs, bonded_terms
from openmm_backmap.coarse.pressure import BAR, pressures
from openmm_backmap.coarse.system import pair_energy
from openmm_backmap.errors import ChemistryError, InputError, UnknownNameError
from openmm_backmap.geometry.internal import bond_angles, bond_lengths, dihedral_angles
from openmm_backmap.units import GAS_CONSTANT

TMBT_BOX = np.eye(3) * 4.0


@pytest.fixture(scope="module")
def tmbt():
    target = molecules("tmbt", 4)
    rng = np.random.default_rng(3)
    beads = beads_of(target, 1) + 0.02 * rng.normal(size=(target.n_beads, 3))
    return target, beads, simple_model(target)


def energies(system, positions, box=BOX):
    """By the name of the force, kJ/mol."""
    for k, force in enumerate(system.getForces()):
        force.setForceGroup(k)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPeriodicBoxVectors(*box)
    context.setPositions(positions)
    return {force.getName(): context.getState(energy=True, groups={k}).getPotentialEnergy()._value
            for k, force in enumerate(system.getForces())}


def test_energies_are_those_of_the_tables(tmbt):
    target, beads, model = tmbt
    found = energies(create_cg_system(model, target, TMBT_BOX), beads, TMBT_BOX)
    rows = bonded_terms(target)
    x = lambda name: beads[rows[name]]  # noqa: E731
    assert found["bond A-B"] == pytest.approx((5000 * (bond_lengths(x("bond A-B")) - 0.25) ** 2).sum(), rel=1e-6)
    assert found["angle A-B-B"] == pytest.approx((0.004 * (bond_angles(x("angle A-B-B")) - 140) ** 2).sum(), rel=1e-4)
    improper = dihedral_angles(x("improper A-B-B-B"))
    assert found["improper A-B-B-B"] == pytest.approx((0.002 * improper ** 2).sum(), rel=1e-3)
    pairs = bead_pairs(target, 3)
    i, j = np.triu_indices(target.n_beads, 1)
    free = ~np.isin(i * target.n_beads + j, pairs.bonded)
    vectors = beads[i[free]] - beads[j[free]]
    r = np.linalg.norm(vectors - 4.0 * np.round(vectors / 4.0), axis=1)
    strength = 8.0 + 3 * pairs.label[pairs.types[i[free]], pairs.types[j[free]]]
    assert found["pairs A-A, A-B, B-B"] == pytest.approx((strength * (1 - r) ** 2)[r < 1].sum(), rel=1e-5)


def test_a_torsion_fades_where_beads_lie_on_a_line():
    target = molecules("octane", 1)
    model = simple_model(target)
    line = np.array([[0.0, 0, 0], [0.25, 0, 0], [0.5, 0, 0], [0.75, 0.02, 0]]) + 1.0
    system = create_cg_system(model, target, BOX)
    assert energies(system, line)["dihedral A-A-A-A"] < 1e-6
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(line + 1e-5 * np.random.default_rng(0).normal(size=(4, 3)))
    forces = context.getState(forces=True).getForces(asNumpy=True)._value
    assert np.abs(forces).max() < 1000


def test_a_file_says_it_all(tmbt, tmp_path):
    _, _, model = tmbt
    model = replace(model, constraints=(Constraint(("A", "B"), 0.28),), provenance={"frames": 3}).without("bond A-B")
    save_cg_model(tmp_path / "model.yaml", model)
    again = load_cg_model(tmp_path)
    assert again.constraints == model.constraints and again.provenance == {"frames": 3}
    assert again.chemistry.sha256 == model.chemistry.sha256
    assert [t.name for t in again.terms] == [t.name for t in model.terms]
    for a, b in zip(again.terms, model.terms):
        np.testing.assert_allclose(a.x, b.x, rtol=1e-9)
        np.testing.assert_allclose(a.energy, b.energy, rtol=1e-7, atol=1e-12)
    text = (tmp_path / "model.yaml").read_text()
    assert "# nm, kJ/mol" in text and "!!" not in text


@pytest.mark.parametrize("old, new, word", [
    ("format: openmm_backmap CG model", "format: other", "not a CG model"),
    ("version: 1", "version: 7", "version 7"),
    ("temperature_K: 350.0", "temperature_K: .nan", "temperature_K"),
    ("cutoff_nm: 1.0", "cutoff_nm: -1", "cutoff_nm"),
    ("kind: angle", "kind: twist", "twist"),
    ("    0.25 0\n", "    0.25 .inf\n", "bond A-A"),
    ("    0.25 0\n", "    0.25 nan\n", "bond A-A"),
    ("    0.25 0\n", "    0.15 0\n", "ascend"),
    ("    0.25 0\n", "    0.25\n", "two numbers"),
    ("excluded_bonds: 3", "excluded_bonds: 3\nextra: 1", "extra"),
    ("constraints: []", "constraints: {A: &a [*a]}", "CG model"),
    ("provenance: {}", "provenance: !!python/object/apply:os.getcwd []", "YAML"),
])
def test_bad_files_are_one_line(tmp_path, old, new, word):
    file = tmp_path / "model.yaml"
    save_cg_model(file, simple_model(molecules("octane", 1)))
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=word) as error:
        load_cg_model(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_spoiled_copies(tmbt):
    target, beads, model = tmbt
    pair = model.term("pair B-B")
    small = model.with_term(replace(pair, x=0.9 * pair.x))
    r = np.linspace(0.3, 0.85, 40)
    np.testing.assert_allclose(pair_energy(small.term("pair B-B"), 0.9 * r), pair_energy(pair, r), rtol=1e-9)
    loose = model.without("dihedral B-A-B-B")
    whole, smaller, free = (energies(create_cg_system(m, target, TMBT_BOX), beads, TMBT_BOX)
                            for m in (model, small, loose))
    assert "dihedral B-A-B-B" in whole and "dihedral B-A-B-B" not in free
    assert smaller["pairs A-A, A-B, B-B"] < 0.95 * whole["pairs A-A, A-B, B-B"]
    assert len(model.terms) == len(loose.terms) + 1 and model.term("pair B-B") is pair
    with pytest.raises(UnknownNameError, match="pair A-B"):
        model.without("pair A-C")


def test_what_cannot_be_run(tmbt):
    target, _, model = tmbt
    with pytest.raises(ChemistryError, match="bond A-B"):
        create_cg_system(model.without("bond A-B"), target, TMBT_BOX)
    with pytest.raises(InputError, match="1.5"):
        create_cg_system(model, target, np.eye(3) * 1.5)
    with pytest.raises(InputError, match="periodic box"):
        create_cg_system(model, target, None)


def test_constrained_bonds_keep_their_length():
    target = molecules("octane")
    model = simple_model(target, constraints=(Constraint(("A", "A"), 0.26),)).without("bond A-A")
    dynamics = Dynamics(model, target, BOX, every_ps=0.2, platform="Reference")
    dynamics.start(State(beads_of(target, 1), BOX), np.random.default_rng(1))
    for state in dynamics.frames(3):
        np.testing.assert_allclose(bond_lengths(state.positions[target.bead_bonds]), 0.26, atol=1e-4)


def test_the_time_step_follows_the_stiffest_bond():
    target = molecules("octane", 1)
    model = simple_model(target)
    stiff = model.with_term(replace(model.term("bond A-A"), energy=16 * model.term("bond A-A").energy))
    assert time_step(stiff, target) < 0.4 * time_step(model, target)
    assert time_step(stiff, target) == pytest.approx(2 * np.pi / np.sqrt(160000 * 2 / 28.05) / 25, rel=0.1)


def test_pressure_is_the_change_of_energy_with_volume(tmbt):
    target, beads, model = tmbt
    found = pressures(model, target, [(beads, TMBT_BOX)], 350.0)[0]
    centres = np.stack([np.bincount(target.molecule_of_bead, beads[:, k]) for k in range(3)], 1) / 7

    def scaled(factor):
        moved = beads + ((factor - 1) * centres)[target.molecule_of_bead]
        system = create_cg_system(model, target, factor * TMBT_BOX)
        return energies(system, moved, factor * TMBT_BOX)["pairs A-A, A-B, B-B"]

    step = 1e-4
    slope = (scaled((1 + step) ** (1 / 3)) - scaled((1 - step) ** (1 / 3))) / (2 * step * 64.0)
    assert slope < 0
    assert found == pytest.approx((4 * GAS_CONSTANT * 350.0 / 64.0 - slope) / BAR, rel=1e-3)
