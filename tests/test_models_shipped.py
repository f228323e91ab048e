"""What comes with the package: every model loads, and has its card and the settings that make it again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_peptide import peptide, walk
from small_systems import small_target

from openmm_backmap.backmapper import Backmapper
from openmm_backmap.chemistry import create_system, load_chemistry
from openmm_backmap.chemistry.match import match_beads, whole_beads
from openmm_backmap.coarse.graph import bead_app_topology
from openmm_backmap.energy.bridge import TorchEnergy
from openmm_backmap.generators.base import load_generator
from openmm_backmap.geometry.checks import inverted_centres, mapped
from openmm_backmap.io.readers import open_cg
from openmm_backmap.model_file import load_model, shipped_models
from openmm_backmap.refine.batches import ExactBatch
from openmm_backmap.training.train import TRAINERS

MODELS = shipped_models()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_its_card_and_its_settings(name):
    card, settings = (MODELS[name].with_suffix(ending) for ending in (".md", ".yaml"))
    text = card.read_text()
    assert text.startswith(f"# {name}\n") and "backmap-openmm reference" in text and "backmap-openmm train" in text
    content = yaml.safe_load(settings.read_text())
    family = content.pop("family", "flow")
    assert family == load_model(name).family
    TRAINERS.get(family).settings_type.from_dict(content, where=str(settings))
    assert MODELS[name].stat().st_size < 20e6


def first_chain_of_the_example():
    """Ten monomers as they lie in a melt: target, beads (nm) and box."""
    source = open_cg(Path(__file__).parents[1] / "examples" / "sps_melt.gro")
    frame = next(iter(source.frames(0, None, 1)))
    match = match_beads(load_chemistry("sps"), source.topology, frame.positions, frame.box)
    target = small_target(1, 10)
    whole = whole_beads(match.target, frame.positions[match.bead_index], frame.box)
    return target, whole[:target.n_beads], frame.box


def test_the_voxel_model_draws_atoms_near_their_beads():
    target, beads, box = first_chain_of_the_example()
    generator = load_generator(load_model("dbm-sps"), "cpu")
    generator.sampling = replace(generator.sampling, n_ensemble=1, selection="first")
    generator.sweeps = replace(generator.sweeps, gibbs=0, max_redraws=0)
    x = generator.generate(target, beads, box, rng=np.random.default_rng(1))[0]
    lengths = np.linalg.norm(x[target.bonds[:, 0]] - x[target.bonds[:, 1]], axis=1)
    # A network that has learned nothing leaves its atoms in the middle of the grid.
    assert 0.09 < np.quantile(lengths, 0.1) and np.quantile(lengths, 0.9) < 0.17
    assert np.linalg.norm(target.mapping @ x - beads, axis=1).max() < 0.05


def test_the_peptide_model_draws_sound_atoms():
    """Angles of molecular dynamics at 300 K have 37 kJ/mol."""
    target = peptide()
    beads = mapped(target, walk(20))
    generator, rng = load_generator(load_model("adp"), "cpu"), np.random.default_rng(1)
    energy = TorchEnergy.from_system(create_system(target, None))
    first = generator.step(beads, None, rng)
    for x in (first, generator.step(beads, first, rng)):
        exact = ExactBatch(target)(x, beads)
        assert mapped(target, exact) == pytest.approx(beads, abs=1e-9) and not inverted_centres(target, exact).any()
        terms = energy.terms(torch.as_tensor(exact))
        assert 20 < float(terms["angle"].mean()) < 60 and float(terms["bond"].mean()) < 60


def test_a_simulation_of_a_peptide_has_its_solvent():
    target = peptide()
    for box, wanted in ((None, 1), (np.eye(3) * 3.0, 0)):
        simulation = Backmapper("adp", platform="Reference", device="cpu").simulation(
            bead_app_topology(target), mapped(target, walk(1))[0], box, equilibrate=0.1, seed=1)
        names = [force.getName() for force in simulation.system.getForces()]
        assert names.count("GBSAOBCForce") == wanted
        simulation.step(10)


def test_the_fragment_library_of_polystyrene_is_found_by_family_and_chemistry():
    assert Backmapper("fragment", chemistry="sps", platform="CPU", device="cpu").model.sha256 == load_model(
        "fragment-sps").sha256
