"""The training of the cVAE: the parts of its loss and their schedules, that it learns, that it continues exactly."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_peptide import small_trajectories

from openmm_backmap.errors import InputError
from openmm_backmap.generators.base import load_generator
from openmm_backmap.generators.coherent.cvae_network import CVAEHyperparameters
from openmm_backmap.generators.dbm.energies import flexible_energy
from openmm_backmap.training.cvae import CVAETrainer, random_rotations
from openmm_backmap.training.cvae_losses import (
    distance_loss,
    divergence_loss,
    energy_loss,
    position_loss,
    voxel_loss,
)
from openmm_backmap.training.cvae_settings import CVAETraining

NETWORK = CVAEHyperparameters(width=8, latent=4, n_cells=6, edge_nm=1.6, sigma_nm=0.2, decoder_blocks=1)
TINY = CVAETraining(steps=6, pairs=8, components=2, encoded=500, seeds=5, energy_start=0.0, network=NETWORK)


@pytest.fixture(scope="module")
def dataset():
    return small_trajectories(2, 6)


@pytest.fixture(scope="module")
def energy(dataset):
    return flexible_energy(dataset.systems[0].target, None)


def test_losses_are_those_of_the_paper():
    a, b = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)
    b[0, 1, 0] = 0.3
    # Norms squared over d^3 N, 3 N and 2 N^2; the distance matrix holds every pair twice. 0.3 nm are 3 angstrom.
    assert voxel_loss(torch.ones(1, 2, 8), torch.zeros(1, 2, 8)).item() == pytest.approx(1.0)
    assert position_loss(a, b).item() == pytest.approx(9 / 6)
    assert distance_loss(a, b).item() == pytest.approx(2 * 9 / (2 * 4), rel=1e-3)
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.log(4.0)]])
    assert divergence_loss(mean, log_variance).item() == pytest.approx(0.5 + 0.5 * (4 - 1 - math.log(4)))


def test_the_energy_is_the_squared_difference_of_the_whole_molecule(dataset, energy):
    x = torch.as_tensor(dataset.systems[0].positions[:3])
    y = x.clone()
    y[:, 0] += 0.004
    wanted = (energy.total(y.double()) - energy.total(x.double())).square().mean().item()
    assert energy_loss(energy, y, x, 0.0).item() == pytest.approx(wanted, rel=1e-4)
    assert energy_loss(energy, y, x, 1e6).item() == pytest.approx(wanted, rel=1e-3)


def test_atoms_on_top_of_each_other_leave_energies_and_gradients_finite(dataset, energy):
    x = torch.as_tensor(dataset.systems[0].positions[:2])
    y = x.clone()
    y[:, 0] = y[:, -1] + 1e-5
    y.requires_grad_()
    loss = energy_loss(energy, y, x, 100.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(y.grad).all() and loss < 1e8


def test_schedules():
    s = CVAETraining(steps=1000, warmup=10, energy=2.0, energy_start=0.4, energy_end=0.8, beta=0.5, beta_cycles=4)
    energy = [s.energy_weight(k) for k in range(1000)]
    assert not any(energy[:400]) and energy[-1] == energy[800] == 2.0
    ratios = np.array(energy[401:800]) / energy[400:799]
    assert ratios == pytest.approx(ratios[0]) and ratios[0] > 1
    beta = [s.divergence_weight(k) for k in range(1000)]
    assert beta[0] == beta[250] == 0 and beta[125] == beta[249] == beta[999] == 0.5
    assert beta[50] == pytest.approx(0.2)
    assert CVAETraining(beta=0.5, beta_cycles=0).divergence_weight(0) == 0.5
    rates = [s.rate(k) for k in range(1000)]
    assert rates[0] < rates[9] and max(rates) <= s.learning_rate and rates[-1] < 0.01 * s.learning_rate


def test_rotations_are_proper_and_uniform():
    turn = random_rotations(20000, torch.Generator().manual_seed(1))
    assert torch.allclose(turn @ turn.mT, torch.eye(3).expand_as(turn), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turn), torch.ones(len(turn)), atol=1e-5)
    moved = turn @ torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(moved.mean(0), torch.zeros(3), atol=0.02)
    assert torch.allclose(moved.T.cov(), torch.eye(3) / 3, atol=0.02)


@pytest.mark.parametrize("network", [NETWORK, replace(NETWORK, orientation="random", guess=False)])
def test_training_lowers_the_loss(dataset, network):
    settings = replace(TINY, steps=60, learning_rate=1e-2, warmup=5, energy=0.0, average=0.9, network=network)
    trainer = CVAETrainer(dataset, dataset, settings)
    before = trainer.validation_loss()
    trainer.train()
    assert trainer.history[-1][2] < 0.8 * before
    assert trainer.step == 60 and len(trainer.records) == 1


def test_the_guess_begins_as_the_regression_on_beads_and_former_atoms(dataset):
    trainer = CVAETrainer(dataset, dataset, TINY)
    before, after = trainer.batches.draw(50, trainer.seed)
    beads = trainer.mapping @ after
    _, atoms = trainer.network.decode(beads, before, torch.randn(50, 4))
    assert torch.allclose(trainer.mapping @ atoms, beads, atol=2e-2)
    assert (atoms - after).square().mean() < 0.5 * (before - after).square().mean()


def test_a_stopped_training_goes_on_as_if_it_had_not_been(dataset, tmp_path):
    whole, first = CVAETrainer(dataset, dataset, TINY), CVAETrainer(dataset, dataset, TINY)
    whole.train()
    first.train(until=3)
    torch.save(first.state(), tmp_path / "state")
    second = CVAETrainer(dataset, dataset, TINY)
    second.load_state(torch.load(tmp_path / "state", weights_only=True))
    assert second.step == 3 and second.history == first.history and second.records == first.records
    second.train()
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name])
    assert second.history[-1][2] == whole.history[-1][2]
    with pytest.raises(InputError, match="here: was written with other settings"):
        CVAETrainer(dataset, dataset, replace(TINY, steps=7)).load_state(first.state(), "here")


def test_a_deadline_that_has_passed_leaves_one_update_and_its_parts(dataset):
    trainer = CVAETrainer(dataset, dataset, TINY)
    trainer.train(deadline=0.0)
    assert trainer.step == 1
    assert set(trainer.records[0][1]) == {"voxel", "position", "beads", "distances", "divergence", "energy", "loss"}


def test_training_can_begin_with_a_model(dataset):
    given = CVAETrainer(dataset, dataset, TINY)
    given.train(until=2)
    model = given.generator().to_model(dataset.chemistry, {})
    trainer = CVAETrainer(dataset, dataset, TINY, start=model)
    assert torch.equal(trainer.shape.beads, given.shape.beads)
    for one, other in zip(trainer.network.parameters(), load_generator(model, "cpu").network.parameters()):
        assert torch.equal(one, other)
    with pytest.raises(InputError, match="its network or its molecule"):
        CVAETrainer(dataset, dataset, CVAETraining(), start=model)


def test_a_grid_that_is_too_small_is_refused(dataset):
    small = replace(TINY, network=replace(NETWORK, edge_nm=0.8))
    with pytest.raises(InputError, match=r"edge_nm is 0.8, and atoms reach .* give at least"):
        CVAETrainer(dataset, dataset, small)


def test_seeds_are_frames_with_those_before_them(dataset):
    generator = CVAETrainer(dataset, dataset, TINY).generator()
    positions = torch.as_tensor(dataset.systems[0].positions)
    positions = positions - positions.mean(1, keepdim=True)
    for beads, previous in zip(generator.seeds.beads, generator.seeds.previous):
        k = (positions - previous).abs().amax((1, 2)).argmin()
        after = generator.sight.mapping @ positions[k + 1]
        assert torch.allclose(beads, after - after.mean(0), atol=1e-5)


def test_divergence_is_said(dataset):
    trainer = CVAETrainer(dataset, dataset, TINY)
    with torch.no_grad():
        trainer.network.head.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="diverged at step 0; lower learning_rate"):
        trainer.train()


def test_settings_from_a_file():
    network = {"latent": 8, "orientation": "random", "guess": False}
    settings = CVAETraining.from_dict({"beta": "1e-4", "network": network})
    assert settings == replace(CVAETraining(), beta=1e-4, network=CVAEHyperparameters(**network))


@pytest.mark.parametrize("content, message", [
    ({"step": 3}, "s.yaml: unknown setting step; known: steps,"),
    ({"network": {"depth": 3}}, "unknown setting depth; known: width,"),
    ({"network": {"orientation": "any"}}, "orientation is 'any'; expected one of superposed, random"),
    ({"network": {"n_cells": 7}}, "n_cells is 7; it must be even"),
    ({"network": 3}, "indented under 'network:'"),
])
def test_odd_settings_are_refused(content, message):
    with pytest.raises(InputError, match=message):
        CVAETraining.from_dict(content, "s.yaml")
