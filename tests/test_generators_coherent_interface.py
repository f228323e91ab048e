"""What every family that follows trajectories must do; a new family adds a line to ``TINY_MODELS``."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_peptide import peptide, small_trajectories

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.errors import InputError
from openmm_backmap.generators.base import FAMILIES, load_generator
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.model_file import load_model, save_model


def tiny_flow(dataset):
    from openmm_backmap.generators.coherent.network import CoherentHyperparameters
    from openmm_backmap.training.coherent_flow import CoherentFlowTrainer, CoherentFlowTraining

    settings = CoherentFlowTraining(network=CoherentHyperparameters(width=16, blocks=1))
    return CoherentFlowTrainer(dataset, dataset, settings).generator()


def tiny_beads(dataset):
    from openmm_backmap.generators.flow import FlowHyperparameters
    from openmm_backmap.training.coherent_beads import CoherentBeadsTrainer, CoherentBeadsTraining

    network = FlowHyperparameters(width=16, heads=2, layers=1, context_atoms=20, context_beads=5)
    return CoherentBeadsTrainer(dataset, dataset, CoherentBeadsTraining(network=network)).generator()


def tiny_cvae(dataset):
    from openmm_backmap.generators.coherent.cvae_network import CVAEHyperparameters
    from openmm_backmap.training.cvae import CVAETrainer
    from openmm_backmap.training.cvae_settings import CVAETraining

    network = CVAEHyperparameters(width=8, latent=4, n_cells=6, edge_nm=1.6, sigma_nm=0.2, decoder_blocks=1)
    trainer = CVAETrainer(dataset, dataset, CVAETraining(steps=1, pairs=8, components=2, encoded=500, seeds=5,
                                                         network=network))
    trainer.train()
    return trainer.generator()


def tiny_library(dataset):
    from openmm_backmap.training.library import LibraryTrainer, LibraryTraining

    trainer = LibraryTrainer(dataset, dataset, LibraryTraining())
    trainer.train()
    return trainer.generator()


TINY_MODELS = {"coherent-beads": tiny_beads, "coherent-flow": tiny_flow, "cvae": tiny_cvae, "library": tiny_library}


@pytest.fixture(scope="module")
def dataset():
    return small_trajectories(2, 8)


@pytest.fixture(scope="module", params=sorted(TINY_MODELS))
def model(request, dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    save_model(TINY_MODELS[request.param](dataset).to_model(dataset.chemistry, {"recipe": "test"}), path)
    return load_model(path)


@pytest.fixture(scope="module")
def generator(model):
    return load_generator(model, "cpu")


@pytest.fixture(scope="module")
def atoms(dataset):
    return dataset.systems[0].positions[:4].astype(float)


def draw(generator, atoms, past=True, seed=1):
    beads = mapped(generator.molecule, atoms)
    return generator.step(beads, atoms if past else None, np.random.default_rng(seed))


def test_every_coherent_family_is_tested():
    assert set(TINY_MODELS) == {name for name in FAMILIES.names() if name != "broken"
                                and getattr(FAMILIES.get(name), "coherent", False)}


@pytest.mark.parametrize("past", [False, True])
def test_finite_atoms_near_their_beads(generator, atoms, past):
    x = draw(generator, atoms, past)
    assert x.shape == atoms.shape and np.isfinite(x).all()
    assert np.abs(mapped(generator.molecule, x) - mapped(generator.molecule, atoms)).max() < 0.15


@pytest.mark.parametrize("past", [False, True])
def test_the_seed_decides(generator, atoms, past):
    assert np.array_equal(draw(generator, atoms, past, 5), draw(generator, atoms, past, 5))


@pytest.mark.parametrize("past", [False, True])
def test_atoms_turn_and_move_with_their_beads(generator, atoms, past):
    turn, shift = Rotation.random(random_state=2).as_matrix(), np.array([30.0, -4.0, 9.0])
    assert draw(generator, atoms @ turn + shift, past) == pytest.approx(draw(generator, atoms, past) @ turn + shift,
                                                                        abs=2e-3)


def test_molecules_of_a_target_are_drawn_in_one_batch(generator, atoms):
    target = peptide(len(atoms))
    beads = mapped(generator.molecule, atoms).reshape(-1, 3)
    found = generator.generate(target, beads, None, rng=np.random.default_rng(1), previous=atoms.reshape(1, -1, 3))
    assert found.reshape(atoms.shape) == pytest.approx(draw(generator, atoms), abs=1e-9)


def test_other_molecules_are_refused(generator):
    octane = build_target(load_chemistry("octane"), [["OCT"]])
    with pytest.raises(InputError, match="the model is for another chemistry: adp, not octane"):
        generator.generate(octane, np.zeros((4, 3)), None, rng=np.random.default_rng(1))


def test_weights_that_do_not_fit_are_refused(model):
    with pytest.raises(InputError, match="do not fit together"):
        load_generator(replace(model, weights={}), "cpu")
