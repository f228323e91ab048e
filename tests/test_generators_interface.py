"""What every generator family must do; a new family adds a line to ``TINY_MODELS``."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_systems import BOX, TRICLINIC, small_dataset, small_positions, small_target, tiny_training

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.errors import InputError
from openmm_backmap.generators.base import FAMILIES, find_model, load_generator
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.model_file import load_model, save_model
from openmm_backmap.sampling import SweepSettings


def tiny_flow(dataset):
    from openmm_backmap.training.flow import FlowTrainer

    trainer = FlowTrainer(dataset, dataset, tiny_training())
    return trainer.generator().to_model(dataset.chemistry, {"recipe": "test"})


def tiny_fragment(dataset):
    from openmm_backmap.training.fragment import FragmentTrainer, FragmentTraining

    trainer = FragmentTrainer(dataset, dataset, FragmentTraining())
    trainer.train()
    return trainer.generator().to_model(dataset.chemistry, {"recipe": "test"})


def tiny_dbm(dataset):
    from openmm_backmap.generators.dbm import DBMHyperparameters, DBMSampling
    from openmm_backmap.training.dbm import DBMTrainer
    from openmm_backmap.training.dbm_settings import DBMTraining

    settings = DBMTraining(prior="none", network=DBMHyperparameters(stem=4, width=8, blocks=1, noise=4),
                           sampling=DBMSampling(n_ensemble=2))
    return DBMTrainer(dataset, dataset, settings).generator().to_model(dataset.chemistry, {"recipe": "test"})


def untrained(family):
    return lambda dataset: replace(find_model(family, dataset.chemistry.name), provenance={"recipe": "test"})


def as_drawn(generator):
    """Redraws judge by thresholds, where rounding can tip the scales, and minimisers magnify rounding."""
    if hasattr(generator, "sweeps"):
        generator.sweeps = SweepSettings(gibbs=1, max_redraws=0)
    if hasattr(generator, "minimiser"):
        generator.minimiser.stages = ()
    return generator


TINY_MODELS = {"dbm": tiny_dbm, "flow": tiny_flow, "fragment": tiny_fragment, "geometric": untrained("geometric"),
               "random": untrained("random")}


@pytest.fixture(scope="module", params=sorted(TINY_MODELS))
def model(request):
    return TINY_MODELS[request.param](small_dataset(2))


@pytest.fixture(scope="module")
def generator(model):
    return as_drawn(load_generator(model, "cpu"))


@pytest.fixture(scope="module")
def target():
    return small_target(2, 3)


@pytest.fixture(scope="module")
def beads(target):
    return target.mapping @ small_positions(target, 9)


def draw(generator, target, beads, box=None, seed=1, n_samples=1):
    return generator.generate(target, beads, box, n_samples=n_samples, rng=np.random.default_rng(seed))


def test_every_family_that_ships_is_tested():
    """Those that follow trajectories are in test_generators_coherent_interface.py."""
    assert set(TINY_MODELS) == {name for name in FAMILIES.names() if name not in ("toy", "broken")
                                and not getattr(FAMILIES.get(name), "coherent", False)}


@pytest.mark.parametrize("box", [None, BOX, TRICLINIC])
def test_finite_atoms_near_their_beads(generator, target, beads, box):
    x = draw(generator, target, beads, box, n_samples=2)
    assert x.shape == (2, target.n_atoms, 3) and np.isfinite(x).all()
    assert np.abs(x - beads[target.bead_of_atom]).max() < 0.8
    assert np.abs(mapped(target, x) - beads).max() < 0.4


def test_samples_differ(generator, target, beads):
    one, two = draw(generator, target, beads, n_samples=2)
    assert np.abs(one - two).max() > 1e-3


def test_the_same_seed_gives_the_same_atoms(generator, target, beads):
    assert np.array_equal(draw(generator, target, beads, BOX), draw(generator, target, beads, BOX))


def test_other_seeds_give_other_atoms(generator, target, beads):
    assert np.abs(draw(generator, target, beads, seed=1) - draw(generator, target, beads, seed=2)).max() > 1e-3


def test_beads_are_left_as_they_are(generator, target, beads):
    given = beads.copy()
    draw(generator, target, given, BOX)
    assert np.array_equal(given, beads)


def test_atoms_turn_and_move_with_the_beads(generator, target, beads):
    turn, shift = Rotation.from_euler("xyz", [0.4, 1.2, -0.7]).as_matrix(), np.array([1.0, -2.0, 0.5])
    one, two = draw(generator, target, beads), draw(generator, target, beads @ turn.T + shift)
    assert two == pytest.approx(one @ turn.T + shift, abs=1e-4)


@pytest.mark.parametrize("box", [BOX, TRICLINIC])
def test_molecules_moved_by_box_vectors_take_their_atoms_along(generator, target, beads, box):
    shift = np.array([[1, -1, 0], [0, 2, -1]]) @ box
    one = draw(generator, target, beads, box)
    two = draw(generator, target, beads + shift[target.molecule_of_bead], box)
    assert two == pytest.approx(one + shift[target.molecule_of_atom], abs=1e-4)


def test_chains_of_other_lengths(generator):
    target = build_target(load_chemistry("sps"), [["STY"] * 2, ["STY"] * 5])
    x = draw(generator, target, target.mapping @ small_positions(target), BOX)
    assert x.shape == (1, target.n_atoms, 3) and np.isfinite(x).all()


def test_a_saved_model_draws_the_same_atoms(generator, model, target, beads, tmp_path):
    save_model(model, tmp_path / "model.pt")
    found = load_model(tmp_path / "model.pt")
    assert found.family == model.family and found.provenance == {"recipe": "test"}
    again = as_drawn(load_generator(found, "cpu"))
    assert np.array_equal(draw(again, target, beads), draw(generator, target, beads))


def test_another_chemistry_is_refused(generator):
    if type(generator).__name__ == "DBMGenerator":
        pytest.skip("may be applied to other molecules; test_generators_dbm.py has what it refuses")
    target = build_target(load_chemistry("octane"), [["OCT"]])
    with pytest.raises(InputError, match="another chemistry"):
        draw(generator, target, np.zeros((target.n_beads, 3)))


def test_weights_that_do_not_fit_are_refused(model):
    if not getattr(FAMILIES.get(model.family), "trained", True):
        pytest.skip("has no weights")
    with pytest.raises(InputError, match="do not fit together"):
        load_generator(replace(model, weights={}), "cpu")


def test_progress_is_told(generator, target, beads):
    told = []
    generator.generate(target, beads, None, rng=np.random.default_rng(0), progress=lambda *words: told.append(words))
    assert told and all(0 <= done <= total for _, done, total in told)
