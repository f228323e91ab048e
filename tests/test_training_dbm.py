"""The training of the dbm family: losses, batches, exact continuation, several processes, and that it learns."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ddp_dbm import SETTINGS, trained
from small_systems import BOX, small_dataset, small_positions, small_target

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.environments.voxel_channels import default_channels
from openmm_backmap.errors import InputError
from openmm_backmap.generators.dbm import PRESETS, DBMHyperparameters, DBMSampling
from openmm_backmap.training.dataset import Dataset
from openmm_backmap.training.dbm import DBMTrainer
from openmm_backmap.training.dbm_data import SnapshotBatches, load_energies, save_energies, system_energies
from openmm_backmap.training.dbm_losses import (
    centre_of_mass_loss,
    critic_loss,
    damped,
    energy_score,
    gradient_penalty,
    prior_loss,
)
from openmm_backmap.training.dbm_settings import DBMTraining
from openmm_backmap.training.dbm_validation import jensen_shannon

TINY = SETTINGS.network


@pytest.fixture(scope="module")
def dataset():
    return small_dataset(2)


@pytest.fixture(scope="module")
def energies(dataset):
    return system_energies(dataset)


def seeded(n=0):
    return torch.Generator().manual_seed(n)


# --- losses -----------------------------------------------------------------------------------------------------------

def test_the_energy_score_is_least_for_the_right_spread():
    torch.manual_seed(0)
    y, one, two = (torch.randn(20000, 3, dtype=torch.float64) for _ in range(3))
    score = {s: energy_score(s * one, s * two, y).item() for s in (0.0, 0.5, 0.8, 1.0, 1.25, 2.0)}
    assert min(score, key=score.get) == 1.0
    assert score[0.0] == pytest.approx(y.norm(dim=1).mean().item(), rel=1e-3)
    assert energy_score(one + 0.3, two + 0.3, y) > score[1.0]


def test_the_energy_score_teaches_both_modes_of_a_distribution():
    """A network that turns noise into a point learns two places, told by a condition how often each is taken."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.LeakyReLU(0.1), torch.nn.Linear(32, 32),
                              torch.nn.LeakyReLU(0.1), torch.nn.Linear(32, 3))
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)

    def draw(share):
        return net(torch.cat([share[:, None], torch.randn(len(share), 2)], dim=1))

    for _ in range(500):
        share = torch.rand(256)
        y = torch.where(torch.rand(256) < share, 1.0, -1.0)[:, None] * torch.tensor([1.0, 0.5, 0.0])
        loss = energy_score(draw(share), draw(share), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for share in (0.2, 0.5, 0.8):
            x = draw(torch.full((2000,), share))[:, 0]
            assert (x > 0).float().mean() == pytest.approx(share, abs=0.1)
            assert ((x.abs() - 1).abs() < 0.3).float().mean() > 0.75


class Linear(torch.nn.Module):
    """A critic whose gradient is known."""

    def forward(self, environment, kind, density):
        return 3.0 * environment[:, 0, 0] + 4.0 * density[:, 1] + kind


def test_the_critic_is_judged_by_its_difference_and_its_slope():
    torch.manual_seed(0)
    real, fake = ((torch.rand(6, 2, 4), torch.rand(6, 4)) for _ in range(2))
    kind = torch.arange(6)
    wanted = (3 * (fake[0] - real[0])[:, 0, 0] + 4 * (fake[1] - real[1])[:, 1]).mean()
    assert critic_loss(Linear(), real, fake, kind).item() == pytest.approx(wanted.item(), abs=1e-5)
    assert gradient_penalty(Linear(), real, fake, kind, torch.rand(6)).item() == pytest.approx((5.0 - 1) ** 2)


def test_priors_of_energies_by_hand():
    generated = {"bond": torch.tensor([1.0, 3.0]), "lj": torch.tensor([10.0, -2.0]), "coulomb": torch.ones(2)}
    reference = {"bond": torch.tensor([2.0, 2.0]), "lj": torch.tensor([4.0, -1.0]), "coulomb": torch.zeros(2)}
    weights = {"bond": 0.1, "lj": 0.5, "angle": 7.0, "coulomb": 0.0}
    assert prior_loss("min", generated, None, weights, 0).item() == pytest.approx(0.1 * 2 + 0.5 * 4)
    assert prior_loss("match", generated, reference, weights, 0).item() == pytest.approx(0.1 * 1 + 0.5 * 3.5)
    assert prior_loss("match", generated, generated, weights, 50.0).item() == 0
    assert prior_loss("min", generated, None, weights, 1e6).item() == pytest.approx(2.2, rel=1e-4)


def test_large_energies_are_damped():
    energy = torch.tensor([1.0, -1.0, 1e30], requires_grad=True)
    found = damped(energy, 100.0)
    found.sum().backward()
    assert found[0].item() == pytest.approx(1, rel=1e-3) and found[0] == -found[1] and found[2] < 1e4
    assert torch.isfinite(energy.grad).all() and energy.grad[0].item() == pytest.approx(1, rel=1e-3)


def test_centres_of_mass_by_hand():
    reference = torch.zeros(2, 2, 3)
    generated = torch.tensor([[[4.0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 4.0, 0]]])
    masses = torch.tensor([[12.0, 4.0], [12.0, 4.0]])
    assert centre_of_mass_loss(generated, reference, masses).item() == pytest.approx((3 + 1) / 2)


def test_divergences_of_histograms():
    assert jensen_shannon(np.array([1.0, 0, 3]), np.array([2.0, 0, 6])) == pytest.approx(0)
    assert jensen_shannon(np.array([1.0, 0]), np.array([0.0, 5])) == pytest.approx(1)


# --- batches ----------------------------------------------------------------------------------------------------------

def batches(dataset, share=(0, 1)):
    channels = default_channels([s.target for s in dataset.systems])
    return SnapshotBatches(dataset, channels, TINY.grid, "depth-first", "cpu", None, 1, share)


def test_placements_see_what_comes_before_them_and_never_themselves(dataset):
    source, seed = batches(dataset), seeded()
    kinds = set()
    for _ in range(40):
        batch = source.placements(8, 0.0, seed)
        tables = batch.snapshot.tables
        columns, length = batch.snapshot.sequences.of(batch.light)
        own_atoms = tables.base.atoms_of_bead[batch.bead]
        heavy = ~tables.light[own_atoms] & (own_atoms >= 0)
        for row, (bead, column) in enumerate(zip(batch.bead.tolist(), batch.columns[:, 0].tolist())):
            sequence = columns[bead][:length[bead]].tolist()
            before, after = (sequence[:sequence.index(column)], sequence[sequence.index(column) + 1:])
            seen = set(torch.nonzero(batch.seen[row]).squeeze(1).tolist()) - {column}
            assert set(before) <= seen
            assert not set(after) & seen or set(after) <= seen
            kinds.add((batch.light, bool(set(after) & seen)))
            assert batch.light or seen <= set(torch.nonzero(heavy[row]).squeeze(1).tolist())
            if batch.light:
                assert set(torch.nonzero(heavy[row]).squeeze(1).tolist()) <= seen
    assert len(kinds) == 4


def test_sequences_of_a_batch_are_alike_and_complete(dataset):
    source, seed = batches(dataset), seeded()
    lengths = set()
    for _ in range(20):
        batch = source.sequences(6, seed)
        columns, length = batch.snapshot.sequences.of(batch.light)
        assert (length[batch.bead] == batch.columns.shape[1]).all()
        lengths.add((batch.light, batch.columns.shape[1]))
        atoms = batch.snapshot.tables.base.atoms_of_bead[batch.bead].gather(1, batch.columns)
        assert (batch.snapshot.tables.light[atoms] == batch.light).all()
        back = batch.snapshot.around.to_global(batch.bead, batch.reference).gather(
            1, batch.columns[..., None].expand(-1, -1, 3))
        assert torch.allclose(back, batch.snapshot.positions[atoms], atol=1e-5)
    assert {(False, 2), (False, 6), (True, 5)} <= lengths


def test_jitter_moves_the_surroundings_and_not_the_reference(dataset):
    source = batches(dataset)
    for seed in range(5):
        still, moved = (source.placements(8, jitter, seeded(seed)) for jitter in (0.0, 0.02))
        assert torch.equal(still.columns, moved.columns) and torch.equal(still.reference, moved.reference)
    pairs = [[source.placements(8, jitter, seeded(s)).env.own for jitter in (0.0, 0.02)] for s in range(5)]
    assert any(not torch.equal(*pair) for pair in pairs)


def test_two_halves_of_a_batch_are_the_whole(dataset):
    whole, *halves = (batches(dataset, share) for share in ((0, 1), (0, 2), (1, 2)))
    for draw in (lambda b: b.placements(8, 0.01, seeded(3)), lambda b: b.sequences(8, seeded(4))):
        one, parts = draw(whole), [draw(half) for half in halves]
        for name in ("bead", "columns"):
            assert torch.equal(getattr(one, name), torch.cat([getattr(part, name) for part in parts]))


def test_energies_go_through_a_file(dataset, energies, tmp_path):
    save_energies(energies, tmp_path / "energies.npz")
    found = load_energies(tmp_path / "energies.npz")
    x = torch.as_tensor(dataset.systems[0].positions[0], dtype=torch.float64)
    one, two = (e[0].terms(x, BOX) for e in (energies, found))
    assert {k: v.item() for k, v in one.items()} == {k: v.item() for k, v in two.items()}
    (tmp_path / "odd.npz").write_bytes(b"odd")
    with pytest.raises(InputError, match="odd.npz: not a file of energies"):
        load_energies(tmp_path / "odd.npz")


def test_prior_energies_are_those_of_the_snapshot(dataset, energies):
    channels = default_channels([dataset.systems[0].target])
    source = SnapshotBatches(dataset, channels, TINY.grid, "depth-first", "cpu", energies, 1)
    batch = source.sequences(4, seeded(2))
    terms = batch.snapshot.terms(batch.bead, batch.columns, batch.reference, True)
    x = batch.snapshot.positions.double()
    for row, bead in enumerate(batch.bead.tolist()):
        moved = batch.snapshot.tables.base.atoms_of_bead[bead][batch.columns[row]]
        wanted = energies[0].local_terms(x[moved][None], moved, x, batch.snapshot.box)
        for name, energy in wanted.items():
            assert terms[name][row].item() == pytest.approx(energy.item(), rel=1e-3, abs=1e-2)


# --- runs -------------------------------------------------------------------------------------------------------------

def weights(trainer):
    return {f"{name}.{k}": v for name in ("network", "critic", "average")
            for k, v in getattr(trainer, name).state_dict().items()}


def same(one, other):
    one, other = weights(one), weights(other)
    return all(torch.equal(one[k], other[k]) for k in one)


def run(dataset, energies, **changes):
    return DBMTrainer(dataset, dataset, replace(SETTINGS, **changes), energies=energies)


def test_a_continued_run_is_the_same_run(dataset, energies, tmp_path):
    """Stopped in the game, after a step of the warm start and one of the game."""
    changes = {"steps": 4, "warm_steps": 1, "n_critic": 1, "beads": 4}
    straight, first, second = (run(dataset, energies, **changes) for _ in range(3))
    straight.train(every=2)
    first.train(until=2, every=2)
    torch.save(first.state(), tmp_path / "state")
    second.load_state(torch.load(tmp_path / "state", weights_only=True))
    assert second.step == 2 and second.history == first.history
    second.train(every=2)
    assert same(straight, second) and not same(straight, first)
    assert straight.history == second.history and straight.records == second.records
    assert {"loss", "critic", "prior", "score", "bond", "angle", "dihedral"} <= set(straight.records[-1][1])


def test_other_settings_are_refused_at_resume(dataset, energies):
    state = run(dataset, energies).state()
    with pytest.raises(InputError, match="here: was written with other settings"):
        run(dataset, energies, beads=4).load_state(state, "here")


def test_processes_that_share_a_batch_end_with_the_weights_of_one(tmp_path):
    """Two gloo processes with half of each batch, against this one with all of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tests = Path(__file__).parent
    here = {**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [subprocess.Popen([sys.executable, str(tests / "ddp_dbm.py"), str(tmp_path / "out")], cwd=tmp_path,
                                  env={**here, "RANK": str(k), "LOCAL_RANK": str(k)}, stderr=subprocess.PIPE)
                 for k in range(2)]
    alone = trained()
    errors = [p.communicate(timeout=120)[1].decode()[-2000:] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    one, two = (torch.load(tmp_path / f"out.{k}", weights_only=True) for k in range(2))
    assert (one["writes"], two["writes"]) == (one["state"], two["state"]) == (True, False)
    assert one["loss"] == two["loss"] == pytest.approx(alone.history[-1][1], rel=1e-3)
    for name in ("network", "critic"):
        assert all(torch.equal(one[name][key], two[name][key]) for key in one[name])
        # Adam's steps have one size however small a gradient is: where it is nothing but rounding, they differ.
        apart = torch.cat([(one[name][key] - value).abs().flatten()
                           for key, value in getattr(alone, name).state_dict().items()])
        assert (apart < 1e-4).float().mean() > 0.99 and apart.max() < 0.02


def test_a_batch_that_processes_cannot_share_is_refused(dataset, monkeypatch):
    from openmm_backmap.training.dbm_ranks import Ranks

    monkeypatch.setattr(Ranks, "from_environment", classmethod(lambda cls, device: Ranks(0, 3)))
    with pytest.raises(InputError, match="beads is 8, not a multiple of the 3 processes"):
        DBMTrainer(dataset, dataset, SETTINGS)


@pytest.mark.parametrize("head", ["density", "coordinates"])
def test_a_tiny_model_overfits_in_seconds(head):
    one = small_dataset(1, target=small_target(1, 2))
    trainer = DBMTrainer(one, one, replace(SETTINGS, steps=70, warm_steps=70, beads=12, warm_rate=2e-2, warmup=5,
                                           jitter_nm=0.0, average=0.9, validation=4, network=replace(TINY, head=head)))
    before = trainer.validation_loss()
    trainer.train(every=1000)
    assert trainer.validation_loss() < 0.75 * before
    assert trainer.step == 70 and len(trainer.history) == len(trainer.records) == 1


def test_the_prior_draws_energies_down(dataset, energies):
    """Against a critic that stays as it was made, a few steps lower the energies."""
    trainer = run(dataset, energies, steps=60, warm_steps=0, n_critic=0, ramp_end=0, ramp_start=-1, final_rate=1.0,
                  generator_rate=1e-2, prior_mass=0.0, gradient_penalty=0.0)
    found = [trainer._game_update()["prior"] for _ in range(24)]
    assert np.mean(found[-8:]) < np.mean(found[:8]) and np.isfinite(found).all()


def test_weights_of_the_prior_rise(dataset, energies):
    trainer = run(dataset, energies, warm_steps=10, ramp_start=5, ramp_end=15)
    shares = []
    for step in (0, 12, 15, 20, 25, 99):
        trainer.step = step
        shares.append(trainer.ramp())
    assert shares == [0, 0, 0, 0.5, 1, 1]


@pytest.mark.parametrize("changes", [{"prior": "none"}, {"prior": "match", "precision": "bfloat16"},
                                     {"spectral_norm": False, "network": replace(TINY, order="random")}])
def test_games_of_all_kinds_go_on(dataset, energies, changes):
    trainer = run(dataset, energies, steps=2, warm_steps=1, **changes)
    trainer.train()
    assert trainer.step == 2 and all(torch.isfinite(v).all() for v in weights(trainer).values())


def test_an_anchor_keeps_what_the_warm_start_has_learned(dataset, energies):
    held_out = []
    for anchor in (0.0, 30.0):
        trainer = run(dataset, energies, steps=45, warm_steps=25, anchor=anchor, generator_rate=5e-3, prior="none",
                      average=0.0)
        trainer.train()
        held_out.append(trainer.history[-1][2])
    assert held_out[1] < held_out[0]


def test_a_deadline_that_has_passed_leaves_one_update_and_its_loss(dataset, energies):
    trainer = run(dataset, energies)
    trainer.train(deadline=0.0)
    assert trainer.step == 1 and trainer.history[0][0] == 1


def test_divergence_is_said(dataset, energies):
    trainer = run(dataset, energies)
    with torch.no_grad():
        trainer.network.head[1].weight.fill_(float("nan"))
    with pytest.raises(InputError, match="diverged at step 0; lower the learning rate"):
        trainer.train()


def test_two_chemistries_train_one_model_that_serves_a_third():
    """Octane and cumene in one data set: the model places polystyrene."""
    parts = [small_dataset(1, target=build_target(load_chemistry(name), [[monomer]] * 2))
             for name, monomer in (("octane", "OCT"), ("cumene", "CUM"))]
    both = Dataset(parts[0].chemistry, tuple(system for part in parts for system in part.systems))
    trainer = DBMTrainer(both, both, replace(SETTINGS, steps=3, warm_steps=2, ramp_start=-1, ramp_end=0))
    trainer.train()
    generator = trainer.generator()
    target = small_target(1, 2)
    generator.sampling = DBMSampling(n_ensemble=1)
    x = generator.generate(target, target.mapping @ small_positions(target), BOX, rng=np.random.default_rng(0))
    assert x.shape == (1, target.n_atoms, 3) and np.isfinite(x).all()


def test_settings_from_a_file():
    found = DBMTraining.from_dict({"steps": 7, "warm_rate": "1e-4", "spectral_norm": False, "preset": "published",
                                   "network": {"noise": 9}, "sampling": {"n_ensemble": 2}})
    assert found == replace(DBMTraining(), steps=7, warm_rate=1e-4, spectral_norm=False, preset="published",
                            network=DBMHyperparameters(**{**PRESETS["published"], "noise": 9}),
                            sampling=DBMSampling(n_ensemble=2))
    assert DBMTraining.from_dict({}) == DBMTraining()


@pytest.mark.parametrize("content, message", [
    ({"step": 3}, "s.yaml: unknown setting step; known: steps,"),
    ({"network": {"depth": 3}}, "unknown setting depth; known: stem,"),
    ({"sampling": {"many": 3}}, "unknown setting many; known: n_ensemble,"),
    ({"steps": 2.5}, "steps is 2.5"), ({"spectral_norm": 1}, "spectral_norm is 1"), ({"beads": True}, "beads is True"),
    ({"prior": "max"}, "prior is 'max'; expected one of none, min, match"),
    ({"precision": "float8"}, "precision is 'float8'"), ({"preset": "big"}, "preset is 'big'; known: small, published"),
    ({"network": {"head": "none"}}, "head is 'none'; expected one of density, coordinates"),
    ({"network": {"order": "up"}}, "order is 'up'"), ({"network": {"n_cells": 7}}, "n_cells must be even"),
    ({"network": 3}, "indented under"), (["steps"], "settings are 'name: value' lines")])
def test_odd_settings_are_refused(content, message):
    with pytest.raises(InputError) as error:
        DBMTraining.from_dict(content, "s.yaml")
    assert message in str(error.value)
