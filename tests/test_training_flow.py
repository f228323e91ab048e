"""The training of the flow family: it learns, it continues exactly, it refuses what it does not know."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_systems import small_dataset, small_target, tiny_training

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.errors import InputError
from openmm_backmap.generators.flow import FlowHyperparameters
from openmm_backmap.training.flow import FlowTrainer, FlowTraining, bead_weights


@pytest.fixture(scope="module")
def dataset():
    return small_dataset(2)


def weights(trainer):
    return {**trainer.network.state_dict(), **{f"mean.{k}": v for k, v in trainer.average.state_dict().items()}}


def same(one, other):
    one, other = weights(one), weights(other)
    return all(torch.equal(one[k], other[k]) for k in one)


def test_the_loss_falls():
    one = small_dataset(1, target=small_target(1, 2))
    trainer = FlowTrainer(one, one, tiny_training(steps=150, learning_rate=1e-2, average=0.9))
    before = trainer.validation_loss(16)
    trainer.train()
    assert trainer.validation_loss(16) < 0.75 * before
    assert trainer.step == 150 and len(trainer.history) == 1


def test_a_continued_run_is_the_same_run(dataset, tmp_path):
    settings = tiny_training(steps=10)
    straight = FlowTrainer(dataset, dataset, settings)
    straight.train()
    first = FlowTrainer(dataset, dataset, settings)
    first.train(until=5)
    torch.save(first.state(), tmp_path / "state")
    second = FlowTrainer(dataset, dataset, settings)
    second.load_state(torch.load(tmp_path / "state", weights_only=True))
    assert second.step == 5 and second.history == first.history
    second.train()
    assert same(straight, second) and not same(straight, first)
    assert second.history[-1][2] == straight.history[-1][2]


def test_the_same_seed_gives_the_same_weights_and_another_others(dataset):
    runs = [FlowTrainer(dataset, dataset, tiny_training(steps=2, seed=seed)) for seed in (1, 1, 2)]
    for run in runs:
        run.train()
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_other_settings_are_refused_at_resume(dataset):
    state = FlowTrainer(dataset, dataset, tiny_training()).state()
    with pytest.raises(InputError, match="here.checkpoint: was written with other settings"):
        FlowTrainer(dataset, dataset, tiny_training(steps=41)).load_state(state, "here.checkpoint")


def test_a_deadline_that_has_passed_leaves_one_update_and_its_loss(dataset):
    trainer = FlowTrainer(dataset, dataset, tiny_training())
    trainer.train(deadline=0.0)
    assert trainer.step == 1 and trainer.history[0][0] == 1


def test_the_validation_loss_is_always_on_the_same_environments(dataset):
    trainer = FlowTrainer(dataset, dataset, tiny_training())
    assert trainer.validation_loss() == trainer.validation_loss()


def test_rare_kinds_of_beads_are_drawn_as_often_as_common_ones():
    target = small_target(2, 8)
    per_chain = target.n_beads // 2
    assert np.allclose(bead_weights(target, 0.0), 1.0)
    weight = bead_weights(target, 1.0)
    assert np.allclose(weight[:per_chain], weight[per_chain:])
    # Inner monomers are alike: all their beads of one type share what a bead at the end has for itself.
    ends, inner = weight[[0, per_chain - 1]], weight[per_chain // 2:per_chain // 2 + 2]
    assert np.allclose(ends, 0.5) and (inner < 0.15).all()
    assert np.allclose(bead_weights(target, 0.5), weight**0.5)


def test_rare_beads_come_more_often_in_batches():
    one = small_dataset(1, target=small_target(1, 8))
    seen = {}
    for rare in (0.0, 1.0):
        trainer = FlowTrainer(one, one, tiny_training(rare=rare, beads=1))
        last = one.systems[0].target.n_beads - 1
        slots = [trainer.batches.draw(trainer.seed)[0].bead_offset[0].tolist() for _ in range(400)]
        end = trainer.batches.frames[0][0].environment(
            torch.tensor([last]), trainer.batches.frames[0][1], torch.ones(1, 48, dtype=torch.bool))
        seen[rare] = sum(s == end.bead_offset[0].tolist() for s in slots)
    assert seen[1.0] > 1.5 * seen[0.0]


def test_divergence_is_said(dataset):
    trainer = FlowTrainer(dataset, dataset, tiny_training())
    with torch.no_grad():
        trainer.network.enter.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="diverged at step 0; lower learning_rate"):
        trainer.train()


def test_validation_of_another_chemistry_is_refused(dataset):
    octane = small_dataset(1, target=build_target(load_chemistry("octane"), [["OCT"]]))
    with pytest.raises(InputError, match="another chemistry.*octane, not sps"):
        FlowTrainer(dataset, octane, tiny_training())


def test_settings_from_a_file():
    settings = FlowTraining.from_dict({"steps": 7, "learning_rate": "1e-4", "network": {"width": 32}})
    assert settings == replace(FlowTraining(), steps=7, learning_rate=1e-4, network=FlowHyperparameters(width=32))
    assert FlowTraining.from_dict({}) == FlowTraining()


@pytest.mark.parametrize("content, message", [
    ({"step": 3}, "s.yaml: unknown setting step; known: steps,"),
    ({"network": {"depth": 3}}, "unknown setting depth; known: width,"),
    ({"steps": "many"}, "steps is 'many'; expected a number like 20000"),
    ({"steps": 2.5}, "steps is 2.5"),
    ({"learning_rate": None}, "learning_rate is None"),
    ({"network": {"width": 30, "heads": 4}}, "width 30 is not a multiple of heads 4"),
    ({"network": 3}, "indented under 'network:'"),
    (["steps"], "settings are 'name: value' lines")])
def test_odd_settings_are_refused(content, message):
    with pytest.raises(InputError) as error:
        FlowTraining.from_dict(content, "s.yaml")
    assert message in str(error.value) and str(error.value).startswith("s.yaml: ")
