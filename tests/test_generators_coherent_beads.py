"""The bead-wise flow that is told the frame before."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_peptide import peptide, small_trajectories

from openmm_backmap.environments.local import NEIGHBOUR_CUTOFF_NM, Vocabulary
from openmm_backmap.errors import InputError
from openmm_backmap.generators.coherent.beads import FollowedSurroundings, SideBySide
from openmm_backmap.generators.flow import FlowHyperparameters
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.hydrogens import with_ordered_hydrogens
from openmm_backmap.training.coherent_beads import CoherentBeadsTrainer, CoherentBeadsTraining

NETWORK = FlowHyperparameters(width=16, heads=2, layers=1, context_atoms=20, context_beads=5)
SETTINGS = CoherentBeadsTraining(steps=60, beads=32, times=2, learning_rate=2e-3, warmup=5, forget=0.5, network=NETWORK)


@pytest.fixture(scope="module")
def dataset():
    return small_trajectories(2, 40)


@pytest.fixture(scope="module")
def trainer(dataset):
    trainer = CoherentBeadsTrainer(dataset, small_trajectories(2, 8), SETTINGS)
    trainer.train(every=30)
    return trainer


def test_molecules_lie_side_by_side_and_do_not_see_each_other(dataset):
    molecule, x = peptide(), dataset.systems[0].positions[:9].astype(float)
    together = SideBySide(molecule, 9, Vocabulary.of(molecule))
    centres = x.mean(1, keepdims=True)
    flat = together.joined(x, centres)
    assert together.parted(flat, centres) == pytest.approx(x)
    far = np.linalg.norm(flat[:, None] - flat, axis=-1) + 99 * (together.target.molecule_of_atom[:, None]
                                                                 == together.target.molecule_of_atom)
    assert far.min() > NEIGHBOUR_CUTOFF_NM + 3


def test_a_bead_is_told_its_atoms_of_before_in_its_frame_of_then(dataset):
    molecule, (before, now) = peptide(), dataset.systems[0].positions[:2].astype(float)
    together = SideBySide(molecule, 1, Vocabulary.of(molecule))
    beads = torch.arange(molecule.n_beads)
    here = FollowedSurroundings(together.tables, mapped(molecule, now), 20, 5, before)
    then = FollowedSurroundings(together.tables, mapped(molecule, before), 20, 5)
    atoms = together.tables.atoms_of_bead
    local = then.to_local(beads, torch.as_tensor(before, dtype=torch.float32)[atoms.clamp(min=0)])
    assert torch.allclose(here.past[atoms >= 0], local[atoms >= 0], atol=1e-5)
    assert here.known.all() and not then.known.any() and not then.past.any()


def test_rare_beads_are_drawn_more_often_if_that_is_wanted(dataset):
    weights = [CoherentBeadsTrainer(dataset, dataset, replace(SETTINGS, rare=rare)).batches.frames[0][2]
               for rare in (0.0, 1.0)]
    assert (weights[0] == 1).all() and len(weights[1]) == len(weights[0]) and (weights[1] < 1).all()


def test_training_lowers_the_loss_and_goes_on_exactly(trainer, dataset):
    untrained = CoherentBeadsTrainer(dataset, small_trajectories(2, 8), SETTINGS).validation_loss()
    assert trainer.history[-1][2] < 0.9 * untrained
    again = CoherentBeadsTrainer(dataset, small_trajectories(2, 8), SETTINGS)
    again.train(until=30, every=30)
    other = CoherentBeadsTrainer(dataset, small_trajectories(2, 8), SETTINGS)
    other.load_state(again.state())
    other.train(every=30)
    assert other.history == trainer.history


def test_paths_begin_at_the_frame_before_and_are_as_wide_as_a_step(trainer):
    seed = torch.Generator().manual_seed(1)
    env, x1 = trainer.batches.draw(seed)
    assert 0.2 < env.known.float().mean() < 0.8
    mean, spread = trainer.base.of(env)
    assert torch.equal(mean[env.known], env.past[env.known] * 10)
    assert torch.equal(mean[~env.known], trainer.base.mean[env.slot][~env.known])
    apart = ((x1 - mean)[env.known] * env.own[env.known][..., None]).abs().mean()
    # Frames of the test are 20 fs apart; a bead's atoms spread over far more than they move in that time.
    assert apart < 0.5 and (spread[env.known] <= trainer.base.spread[env.slot][env.known][..., None] + 1e-6).all()


def test_the_frame_before_has_influence_and_a_first_frame_has_none(trainer, dataset):
    generator, x = trainer.generator(), dataset.systems[0].positions[:3].astype(float)
    beads = mapped(generator.molecule, x)
    draw = lambda previous: generator.step(beads, previous, np.random.default_rng(1))  # noqa: E731
    assert np.abs(draw(x) - draw(None)).max() > 1e-3
    mirrored = x * [1, 1, -1]
    assert np.abs(draw(x) - draw(mirrored)).max() > 1e-3


def test_other_molecules_to_validate_on_are_refused(dataset):
    longer = small_trajectories(1, 8)
    system = replace(longer.systems[0], starts=np.arange(8))
    with pytest.raises(InputError, match="no two frames of the snapshots follow each other"):
        CoherentBeadsTrainer(dataset, replace(longer, systems=(system,)), SETTINGS)


def test_hydrogens_of_a_group_are_named_the_same_way_around_in_every_frame(dataset):
    molecule, x = peptide(), dataset.systems[0].positions[:5].astype(float)
    ordered = with_ordered_hydrogens(molecule, x)
    methyl = [k for k, name in enumerate(molecule.atom_names) if name in ("HB1", "HB2", "HB3")]
    assert len(methyl) == 3
    mixed = ordered.copy()
    mixed[1::2, methyl[1:]] = ordered[1::2, methyl[:0:-1]]
    assert not np.array_equal(mixed, ordered)
    assert np.array_equal(with_ordered_hydrogens(molecule, mixed), ordered)
    assert np.array_equal(with_ordered_hydrogens(molecule, ordered, like=mixed), mixed)
    # Drawn badly, all three may lie on one side; there is an order of these too.
    badly = x + np.random.default_rng(1).normal(scale=0.05, size=x.shape)
    once = with_ordered_hydrogens(molecule, badly)
    assert not np.array_equal(once, badly) and np.array_equal(with_ordered_hydrogens(molecule, once), once)
    assert np.array_equal(with_ordered_hydrogens(molecule, ordered[0]), ordered[0])
