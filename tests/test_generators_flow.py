"""The flow family: its network, its base distribution, its integrator."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from small_systems import TINY, small_dataset, small_positions, small_target, tiny_training

from openmm_backmap.environments.local import BeadSurroundings, Environment, TargetTables, Vocabulary
from openmm_backmap.generators.flow import BaseDistribution, FlowGenerator, FlowNetwork, FlowSampling
from openmm_backmap.generators.flow.network import SCALE
from openmm_backmap.sampling import SweepSettings
from openmm_backmap.training.flow import FlowTrainer


@pytest.fixture(scope="module")
def target():
    return small_target(2, 3)


@pytest.fixture(scope="module")
def environment(target):
    x = small_positions(target)
    around = BeadSurroundings(TargetTables(target, Vocabulary.of(target)), target.mapping @ x, None,
                              TINY.context_atoms, TINY.context_beads)
    shown = torch.ones(target.n_beads, around.index.shape[1], dtype=torch.bool)
    return around.environment(torch.arange(target.n_beads), torch.as_tensor(x, dtype=torch.float32), shown)


@pytest.fixture(scope="module")
def network(target):
    torch.manual_seed(0)
    vocabulary = Vocabulary.of(target)
    return FlowNetwork(TINY, len(vocabulary.slots), len(vocabulary.bead_types)).eval()


def velocity(network, env):
    seed = torch.Generator().manual_seed(3)
    x = torch.randn(*env.slot.shape, 3, generator=seed)
    t = torch.rand(len(env.slot), generator=seed)
    with torch.no_grad():
        return network.velocity(network.encode(env), x, t)


def test_velocities_are_finite_and_of_the_shape_of_positions(network, environment):
    v = velocity(network, environment)
    assert v.shape == (*environment.slot.shape, 3) and torch.isfinite(v).all()


def test_repeated_environments_and_one_time_for_all_give_what_each_alone_gives(network, environment):
    n = len(environment.slot)
    x, t = torch.ones(*environment.slot.shape, 3), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        context = network.encode(environment)
        both = network.velocity(context.repeated(2), x.repeat_interleave(2, dim=0), t.repeat(n))
        for k in range(2):
            assert torch.allclose(both[k::2], network.velocity(context, x, t[k:k + 1]), atol=1e-5)


def test_velocities_are_the_same_with_gradients_and_without_and_when_a_context_serves_again(network, environment):
    x, t = torch.ones(*environment.slot.shape, 3), torch.tensor([0.4])
    wanted = network.velocity(network.encode(environment), x, t)
    wanted.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    network.zero_grad()
    with torch.no_grad():
        context = network.encode(environment)
        for _ in range(2):
            assert torch.allclose(network.velocity(context, x, t), wanted, atol=1e-6)
            network.velocity(context, -x, t)  # leaves nothing of itself behind


def test_the_order_of_context_does_not_matter(network, environment):
    turn = torch.randperm(environment.position.shape[1], generator=torch.Generator().manual_seed(0))
    other = replace(environment, position=environment.position[:, turn], atom_slot=environment.atom_slot[:, turn],
                    offset=environment.offset[:, turn], present=environment.present[:, turn],
                    graph=environment.graph[:, :, turn])
    assert torch.allclose(velocity(network, other), velocity(network, environment), atol=1e-4)


def test_environments_of_a_batch_do_not_see_each_other(network, environment):
    def row(env, k):
        return Environment(**{f.name: getattr(env, f.name)[k:k + 1] for f in fields(env)})

    with torch.no_grad():
        n, width = environment.slot.shape
        x, t = torch.ones(n, width, 3), torch.full((n,), 0.3)
        together = network.velocity(network.encode(environment), x, t)
        for k in (0, 3):
            alone = network.velocity(network.encode(row(environment, k)), x[:1], t[:1])
            assert torch.allclose(alone[0], together[k], atol=1e-4)


def test_hidden_context_and_padding_have_no_influence(network, environment):
    present = environment.present.clone()
    present[:, 4:] = False
    env = replace(environment, present=present)
    odd = replace(env, position=torch.where(present[..., None], env.position, torch.full_like(env.position, 0.1)),
                  atom_slot=torch.where(present, env.atom_slot, 0), offset=torch.where(present, env.offset, 0))
    own = environment.own
    assert torch.allclose(velocity(network, odd)[own], velocity(network, env)[own], atol=1e-4)


def test_context_has_influence(network, environment):
    blind = replace(environment, present=torch.zeros_like(environment.present))
    assert (velocity(network, blind) - velocity(network, environment)).abs().max() > 1e-4


def test_base_distribution_has_the_mean_and_spread_of_its_slots(environment):
    n_slots = int(environment.slot.max()) + 1
    base = BaseDistribution(torch.arange(3 * n_slots).view(n_slots, 3).float(), torch.arange(n_slots).float())
    mean, spread = base.of(environment)
    assert torch.equal(mean[..., 0], 3 * environment.slot.float())
    assert torch.equal(spread, environment.slot[..., None].float())


def test_base_distribution_of_a_data_set_lies_on_its_atoms():
    data = small_dataset(2)
    trainer = FlowTrainer(data, data, tiny_training())
    around, positions, _ = trainer.batches.frames[0]
    own = trainer.batches.own_positions(around, torch.arange(len(around.index)), positions)
    atoms = around.tables.atoms_of_bead
    slot = around.tables.slot_of_atom[atoms.clamp(min=0)]
    distance = (own - trainer.base.mean[slot]).norm(dim=-1)[atoms >= 0]
    assert distance.max() < 5 and (trainer.base.spread >= 0.149).all()


class _Straight(FlowNetwork):
    """The exact velocity of a flow that takes every atom to one place: midpoint steps follow it without error."""

    def velocity(self, context, x, t):
        return (torch.full_like(x, 2.0) - x) / (1 - t[:, None, None])


@pytest.mark.parametrize("steps", [1, 8])
def test_integration_ends_where_a_straight_flow_leads(target, steps):
    vocabulary = Vocabulary.of(target)
    network = _Straight(TINY, len(vocabulary.slots), len(vocabulary.bead_types))
    base = BaseDistribution(torch.zeros(len(vocabulary.slots), 3), torch.ones(len(vocabulary.slots)))
    generator = FlowGenerator(network, base, vocabulary, sampling=FlowSampling(steps),
                              sweeps=SweepSettings(gibbs=0, max_redraws=0))
    beads = target.mapping @ small_positions(target)
    x = generator.generate(target, beads, None, rng=np.random.default_rng(0))[0]
    distance = np.linalg.norm(x - beads[target.bead_of_atom], axis=-1)
    assert distance == pytest.approx(np.full(target.n_atoms, 2.0 * 3**0.5 / SCALE), abs=1e-4)
