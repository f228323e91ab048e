"""Workflow plug-ins: GROMACS input files, and atoms from a running coarse-grained simulation."""

import mdtraj
import numpy as np
import openmm as mm
import pytest
from openmm import app
from toy_generator import BOX_NM, toy_beads, toy_target, write_gro

from openmm_backmap import Backmapper
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.plugins import gromacs
from openmm_backmap.plugins.openmm_workflow import BackmapReporter


@pytest.fixture(scope="module")
def backmapper(toy_model):
    return Backmapper(toy_model, platform="CPU", device="cpu")


def test_gromacs_files_belong_together(backmapper, tmp_path):
    gromacs.prepare(write_gro(tmp_path / "cg.gro"), tmp_path / "aa", model=backmapper, seed=1, temperature=400)
    assert mdtraj.load(tmp_path / "aa.gro").n_atoms == 100
    assert "[ molecules ]" in (tmp_path / "aa.top").read_text()
    lines = dict(line.split("=") for line in (tmp_path / "aa.mdp").read_text().splitlines() if "=" in line)
    settings = {key.strip(): value.strip() for key, value in lines.items()}
    assert settings["ref-t"] == "400" and settings["rvdw"] == "1" and settings["nsteps"] == "50000"


def test_gromacs_files_of_others_are_left_alone(toy_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_gro(tmp_path / "cg.gro")
    (tmp_path / "aa.mdp").write_text("mine")
    with pytest.raises(SystemExit, match="aa.mdp exists"):
        gromacs.main(["cg.gro", "--model", str(toy_model)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["aa.mdp", "cg.gro"]
    assert (tmp_path / "aa.mdp").read_text() == "mine"


@pytest.fixture
def simulation():
    """Toy beads that drift along x without forces, a step of 1 ps each."""
    target, topology, system = toy_target(), app.Topology(), mm.System()
    for chain in target.chains:
        residue = topology.addResidue("PS1", topology.addChain())
        for k in range(len(chain)):
            for name in "BS":
                topology.addAtom(f"{name}{k + 1}", None, residue)
                system.addParticle(50.0)
    system.setDefaultPeriodicBoxVectors(*np.eye(3) * BOX_NM)
    free = mm.NonbondedForce()
    free.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
    for _ in range(target.n_beads):
        free.addParticle(0.0, 0.1, 0.0)
    system.addForce(free)
    simulation = app.Simulation(topology, system, mm.VerletIntegrator(1.0), mm.Platform.getPlatformByName("Reference"))
    simulation.context.setPositions(toy_beads(target))
    simulation.context.setVelocities(np.tile([0.01, 0, 0], (target.n_beads, 1)))
    return simulation


def test_reporter_follows_the_simulation(simulation, backmapper, tmp_path):
    target, file = toy_target(), tmp_path / "aa.xtc"
    with BackmapReporter(file, 10, backmapper, refine="none", seed=1) as reporter:
        simulation.reporters.append(reporter)
        simulation.step(25)
        assert not file.exists()
    positions = mdtraj.load(file, top=mdtraj.Topology.from_openmm(target.topology))
    np.testing.assert_allclose(positions.time, [10, 20])
    drift = mapped(target, positions.xyz[1].astype(float)) - mapped(target, positions.xyz[0].astype(float))
    np.testing.assert_allclose(drift - BOX_NM * np.round(drift / BOX_NM), [[0.1, 0, 0]] * target.n_beads, atol=3e-3)


def test_reporter_checks_its_file_at_once(backmapper, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        BackmapReporter(tmp_path / "nowhere" / "aa.xtc", 10, backmapper)
