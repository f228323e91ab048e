"""The façade: inputs of every kind, seeds, streaming, and a simulation that is ready to step."""

import subprocess
import sys

import mdtraj
import numpy as np
import pytest
from openmm import MonteCarloBarostat, app, unit
from toy_generator import BOX_NM, toy_beads, toy_target, write_gro, write_pdb

from openmm_backmap import Backmapper
from openmm_backmap.chemistry import create_system
from openmm_backmap.errors import InputError, UnknownNameError
from openmm_backmap.geometry.checks import mapped, mapping_rmsd

BOX = np.eye(3) * BOX_NM


@pytest.fixture(scope="module")
def backmapper(toy_model):
    return Backmapper(toy_model, platform="CPU", device="cpu")


@pytest.fixture(scope="module")
def cg_topology():
    """The beads of the toy target as an openmm.app.Topology."""
    topology, target = app.Topology(), toy_target()
    for chain in target.chains:
        residue = topology.addResidue("PS1", topology.addChain())
        for k in range(len(chain)):
            topology.addAtom(f"B{k + 1}", None, residue)
            topology.addAtom(f"S{k + 1}", None, residue)
    return topology


def test_import_is_light():
    code = "import sys, openmm_backmap; print([m for m in ('torch', 'openmm', 'numpy', 'scipy') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_public_names():
    import openmm_backmap

    for name in openmm_backmap.__all__:
        assert getattr(openmm_backmap, name)
    with pytest.raises(AttributeError, match="no_such"):
        _ = openmm_backmap.no_such


def test_beads_are_met(backmapper, tmp_path):
    target = toy_target()
    atoms = backmapper.backmap(write_gro(tmp_path / "cg.gro"), n_samples=3, seed=1, refine="none")
    assert atoms.positions.shape == (3, target.n_atoms, 3)
    np.testing.assert_allclose(mapping_rmsd(target, atoms.positions, toy_beads(target), BOX), 0, atol=1e-6)
    assert np.abs(atoms.positions[0] - atoms.positions[1]).max() > 1e-4
    np.testing.assert_allclose(atoms.box, BOX)
    assert atoms.topology.getNumAtoms() == target.n_atoms
    assert len(atoms.diagnostics) == 3 and atoms.velocities is None


def test_one_seed_decides_all(backmapper, tmp_path):
    cg = write_gro(tmp_path / "cg.gro")
    first, again, other = (backmapper.backmap(cg, seed=seed, refine="none").positions for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4
    fresh = backmapper.backmap(cg, refine="none")
    again = backmapper.backmap(cg, refine="none", seed=fresh.provenance["seed"])
    np.testing.assert_array_equal(fresh.positions, again.positions)


def test_inputs_in_memory_agree_with_the_file(backmapper, cg_topology):
    beads = toy_beads(toy_target())
    settings = {"seed": 1, "refine": "none"}
    plain = backmapper.backmap(cg_topology, beads, BOX, **settings)
    quantity = backmapper.backmap(cg_topology, beads * 10 * unit.angstrom, BOX * 10 * unit.angstrom, **settings)
    np.testing.assert_allclose(quantity.positions, plain.positions, atol=1e-9)
    topology = mdtraj.Topology.from_openmm(cg_topology)
    trajectory = mdtraj.Trajectory(beads, topology)
    trajectory.unitcell_vectors = BOX[None]
    for other in (backmapper.backmap(trajectory, **settings), backmapper.backmap(topology, beads, BOX, **settings)):
        np.testing.assert_allclose(other.positions, plain.positions, atol=1e-5)
        np.testing.assert_allclose(other.box, BOX, atol=1e-6)


def test_a_topologys_own_box_counts(backmapper, cg_topology):
    boxed = mdtraj.Topology.from_openmm(cg_topology).to_openmm()
    boxed.setPeriodicBoxVectors(BOX * unit.nanometer)
    atoms = backmapper.backmap(boxed, toy_beads(toy_target()), seed=1, refine="none")
    np.testing.assert_allclose(atoms.box, BOX)
    assert backmapper.backmap(cg_topology, toy_beads(toy_target()), seed=1, refine="none").box is None


def test_positions_are_needed(backmapper, cg_topology):
    with pytest.raises(InputError, match="second argument"):
        backmapper.backmap(cg_topology)


@pytest.mark.parametrize(("settings", "said"), [
    ({"n_samples": 0}, "n_samples"), ({"refine": "melt"}, "melt"), ({"temperature": -1}, "temperature"),
    ({"project": False}, "refine must be none"), ({"temperature": "hot"}, "kelvin")])
def test_bad_settings(backmapper, tmp_path, settings, said):
    with pytest.raises(InputError, match=said):
        backmapper.backmap(write_gro(tmp_path / "cg.gro"), **settings)


def test_without_projection_atoms_are_left_as_drawn(backmapper, tmp_path):
    target = toy_target()
    atoms = backmapper.backmap(write_gro(tmp_path / "cg.gro"), seed=1, refine="none", project=False)
    assert 1e-4 < mapping_rmsd(target, atoms.positions[0], toy_beads(target), BOX) < 0.01
    assert atoms.diagnostics == ()


def test_frames_are_streamed(backmapper, tmp_path):
    cg = write_gro(tmp_path / "cg.gro", n_frames=4)
    frames = backmapper.frames(cg, first=1, last=3, stride=2, seed=1, refine="none")
    assert [frame.time_ps for frame in frames] == [10.0, 30.0]
    a, b = backmapper.frames(cg, first=0, last=1, seed=1, refine="none")
    moved = mapped(a.target, b.positions[0]) - mapped(a.target, a.positions[0])
    moved -= BOX_NM * np.round(moved / BOX_NM)
    np.testing.assert_allclose(moved, np.broadcast_to([0, 0, 0.4], moved.shape), atol=1e-5)


def test_simulation_is_ready_to_step(backmapper, tmp_path):
    simulation = backmapper.simulation(write_gro(tmp_path / "cg.gro"), seed=1, equilibrate=0.05)
    plain = create_system(toy_target(), BOX)
    assert [f.getName() for f in simulation.system.getForces()] == [f.getName() for f in plain.getForces()]
    state = simulation.context.getState(velocities=True, energy=True)
    assert state.getKineticEnergy() > 50 * unit.kilojoule_per_mole
    before = state.getPotentialEnergy()
    simulation.step(50)
    after = simulation.context.getState(energy=True).getPotentialEnergy()
    assert abs(after - before) < 500 * unit.kilojoule_per_mole
    assert not any(isinstance(f, MonteCarloBarostat) for f in simulation.system.getForces())


def test_save(backmapper, tmp_path):
    atoms = backmapper.backmap(write_pdb(tmp_path / "cg.pdb"), n_samples=2, seed=1, refine="none")
    atoms.save(tmp_path / "aa.pdb")
    found = mdtraj.load(tmp_path / "aa.pdb")
    np.testing.assert_allclose(found.xyz, atoms.positions, atol=1.1e-4)
    with pytest.raises(InputError, match="exists"):
        atoms.save(tmp_path / "aa.pdb")
    atoms.save(tmp_path / "aa.pdb", overwrite=True)


def test_names_that_do_not_exist(toy_model):
    with pytest.raises(UnknownNameError, match="unknown model"):
        Backmapper("spss")
    with pytest.raises(UnknownNameError, match="unknown platform"):
        Backmapper(toy_model, platform="CUDAA")
    with pytest.raises(InputError, match="device"):
        Backmapper(toy_model, device="tpu")
