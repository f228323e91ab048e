"""Generators that follow a trajectory: frames given the frame before, molecules by themselves, exact beads."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from small_peptide import small_trajectories

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.errors import InputError
from openmm_backmap.generators.base import load_generator
from openmm_backmap.generators.coherent.frames import BeadShape
from openmm_backmap.generators.coherent.network import CoherentHyperparameters
from openmm_backmap.generators.coherent.placing import choose_placing
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.internal import dihedral_angles
from openmm_backmap.model_file import load_model, save_model
from openmm_backmap.training.coherent_flow import CoherentFlowTrainer, CoherentFlowTraining
from openmm_backmap.training.pairs import Pairs

TINY = CoherentFlowTraining(steps=4, molecules=8, network=CoherentHyperparameters(width=16, blocks=1))


@pytest.fixture(scope="module")
def dataset():
    return small_trajectories(2, 6)


@pytest.fixture(scope="module")
def model(dataset, tmp_path_factory):
    trainer = CoherentFlowTrainer(dataset, dataset, TINY)
    trainer.train()
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    save_model(trainer.generator().to_model(dataset.chemistry, {}), path)
    return load_model(path)


@pytest.fixture(scope="module")
def generator(model):
    return load_generator(model, "cpu")


def frames(dataset, n=5):
    atoms = dataset.systems[0].positions[:n].astype(float)
    return atoms, mapped(dataset.systems[0].target, atoms)


def test_pairs_never_reach_over_the_end_of_a_trajectory(dataset):
    pairs = Pairs.of(dataset)
    starts = set(dataset.systems[0].starts.tolist())
    assert set(pairs.later.tolist()) == set(range(len(pairs.positions))) - starts
    before, after = pairs.draw(200, torch.Generator().manual_seed(1))
    assert (after - before == 1).all()


def test_pairs_of_several_molecules_are_of_the_same_molecule():
    double = small_trajectories(1, 4, n_molecules=3)
    pairs = Pairs.of(double)
    assert pairs.positions.shape == (12, 22, 3) and len(pairs.later) == 9
    found = pairs.positions[pairs.later[4] - pairs.step[4]], pairs.positions[pairs.later[4]]
    # The second pair of frames, the second molecule.
    wanted = double.systems[0].positions[1:3, 22:44]
    for one, other in zip(found, wanted):
        assert one.numpy() == pytest.approx(other - other.mean(0), abs=1e-6)


def test_single_snapshots_cannot_train_a_coherent_model(dataset):
    lone = small_trajectories(3, 1)
    with pytest.raises(InputError, match="no two frames of the snapshots follow each other"):
        CoherentFlowTrainer(lone, dataset, TINY)


def test_a_shape_does_not_mind_how_molecules_lie(dataset):
    _, beads = frames(dataset)
    beads = torch.as_tensor(beads)
    shape = BeadShape.of(beads)
    turned = beads @ torch.as_tensor(Rotation.random(random_state=1).as_matrix()) + 3.0
    laid = [(x - centre) @ turn for x in (beads, turned) for centre, turn in [shape.frames(x)]]
    assert torch.allclose(*laid, atol=1e-9)
    assert torch.allclose(torch.linalg.det(shape.frames(beads)[1]), torch.ones(5, dtype=beads.dtype))


@pytest.mark.parametrize("past", [False, True])
def test_atoms_turn_with_their_beads(generator, dataset, past):
    atoms, beads = frames(dataset)
    turn, shift = Rotation.random(random_state=2).as_matrix(), np.array([40.0, -3.0, 7.0])
    one = generator.step(beads, atoms if past else None, np.random.default_rng(3))
    two = generator.step(beads @ turn + shift, atoms @ turn + shift if past else None, np.random.default_rng(3))
    assert two == pytest.approx(one @ turn + shift, abs=5e-4)


def test_atoms_that_are_beads_stay_on_them(generator, dataset):
    atoms, beads = frames(dataset)
    for previous in (None, atoms):
        drawn = generator.step(beads, previous, np.random.default_rng(1))
        assert np.isfinite(drawn).all()
        assert mapped(generator.molecule, drawn) == pytest.approx(beads, abs=1e-6)


def test_the_frame_before_matters_and_the_seed_decides(generator, dataset):
    atoms, beads = frames(dataset)
    draw = lambda previous, seed: generator.step(beads, previous, np.random.default_rng(seed))  # noqa: E731
    assert np.array_equal(draw(atoms, 1), draw(atoms, 1))
    assert not np.allclose(draw(atoms, 1), draw(atoms, 2), atol=1e-4)
    assert not np.allclose(draw(atoms, 1), draw(None, 1), atol=1e-4)


def test_a_torsion_that_turns_freely_begins_where_it_was(generator, dataset):
    """A network of four updates moves it little."""
    atoms, beads = frames(dataset)
    placing, k = generator.model.placing, int(generator.model.coordinates.rotor[:, 2].nonzero()[0, 0])
    x = torch.as_tensor(atoms)
    values = placing.measure(x)
    values[:, k, 2] += 0.8
    turned = placing.place(x[:, placing.beads], values).numpy()
    drawn = [generator.step(beads, previous, np.random.default_rng(1)) for previous in (turned, atoms)]
    one, other = (placing.measure(torch.as_tensor(found))[:, k, 2].numpy() for found in drawn)
    assert np.angle(np.exp(1j * (one - other))) == pytest.approx(0.8, abs=0.25)


def test_placing_is_undone_by_measuring(generator, dataset):
    placing = generator.model.placing
    x = torch.as_tensor(dataset.systems[0].positions.astype(float))
    assert placing.place(x[:, placing.beads], placing.measure(x)).numpy() == pytest.approx(x.numpy(), abs=1e-9)
    values = placing.measure(x)
    # The convention of everybody else: a torsion of 180 degrees is trans.
    wanted = np.radians(dihedral_angles(x.numpy()[:, placing.rows.numpy()[:, [0, 1, 2, 3]]]))
    proper = [k for k, row in enumerate(placing.rows.tolist()) if row[3] != row[1] and tuple(sorted(row[2:])) in {
        tuple(sorted(bond)) for bond in generator.molecule.bonds.tolist()}]
    assert len(proper) > 3
    assert values[:, proper, 2].numpy() == pytest.approx(wanted[:, proper], abs=1e-9)


def test_scaled_coordinates_come_back(generator, dataset):
    values = generator.model.placing.measure(torch.as_tensor(dataset.systems[0].positions.astype(float)) * 10)
    coordinates = generator.model.coordinates
    back = coordinates.values(coordinates.scaled(values.float()))
    assert back[..., 1].numpy() == pytest.approx(values[..., 1].numpy(), abs=1e-4)
    assert np.cos(back[..., 2].numpy()) == pytest.approx(np.cos(values[..., 2].numpy()), abs=1e-4)
    fixed = coordinates.spread[:, 0] == 0
    assert fixed.sum() == 12


def test_molecules_whose_beads_are_no_atoms_are_refused():
    target = build_target(load_chemistry("octane"), [["OCT"]])
    with pytest.raises(InputError, match="octane: its beads are not single atoms"):
        choose_placing(target, np.zeros((2, target.n_atoms, 3)))


def test_molecules_of_a_target_are_drawn_by_themselves(generator, dataset):
    target = build_target(generator.molecule.chemistry, [generator.molecule.chains[0]] * 3)
    atoms, beads = frames(dataset, 3)
    together = generator.generate(target, beads.reshape(-1, 3), None, rng=np.random.default_rng(1),
                                  previous=atoms.reshape(1, -1, 3))
    assert together.shape == (1, 66, 3)
    assert together[0] == pytest.approx(generator.step(beads, atoms, np.random.default_rng(1)).reshape(-1, 3))


def test_other_molecules_are_refused(generator):
    sps = build_target(load_chemistry("octane"), [["OCT"]])
    with pytest.raises(InputError, match="the model is for another chemistry: adp, not octane"):
        generator.generate(sps, np.zeros((4, 3)), None, rng=np.random.default_rng(1))


@pytest.mark.parametrize(("change", "said"), [
    (lambda h, w: w.pop("molecule.mean"), "do not fit together"),
    (lambda h, w: h.update(chain=["ACE", "XXX"]), "XXX"),
    (lambda h, w: h["network"].update(width=32), "do not fit together"),
    (lambda h, w: w.update({"molecule.spread": torch.zeros(5, 3)}), "do not fit together"),
    (lambda h, w: w.update({"molecule.rows": w["molecule.rows"] + 100}), "do not fit together"),
])
def test_odd_model_files_are_refused(model, change, said):
    hyper = {**model.hyperparameters, "network": dict(model.hyperparameters["network"])}
    weights = dict(model.weights)
    change(hyper, weights)
    odd = type(model)("coherent-flow", hyper, weights, model.chemistry_source, model.force_field_xml, name="odd.pt")
    with pytest.raises((InputError, ValueError), match=said):
        load_generator(odd, "cpu")


def test_a_stopped_training_goes_on_as_if_it_had_not_been(dataset):
    whole, first = CoherentFlowTrainer(dataset, dataset, TINY), CoherentFlowTrainer(dataset, dataset, TINY)
    whole.train()
    first.train(until=2)
    second = CoherentFlowTrainer(dataset, dataset, TINY)
    second.load_state(first.state())
    second.train()
    for a, b in zip(whole.average.parameters(), second.average.parameters()):
        assert torch.equal(a, b)


def test_training_lowers_the_loss(dataset):
    settings = CoherentFlowTraining(steps=150, molecules=16, learning_rate=1e-2, warmup=5,
                                    network=CoherentHyperparameters(width=16, blocks=1))
    trainer = CoherentFlowTrainer(dataset, dataset, settings)
    before = trainer.validation_loss()
    trainer.train()
    assert trainer.history[-1][2] < 0.85 * before


def test_training_can_begin_with_a_model(dataset, model):
    trainer = CoherentFlowTrainer(dataset, dataset, TINY, start=model)
    given = load_generator(model, "cpu")
    assert torch.equal(trainer.model.placing.rows, given.model.placing.rows)
    assert torch.equal(trainer.network.leave.weight, given.network.leave.weight)
    with pytest.raises(InputError, match="its network or its molecule"):
        CoherentFlowTrainer(dataset, dataset, CoherentFlowTraining(steps=4), start=model)
