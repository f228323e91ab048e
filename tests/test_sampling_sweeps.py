"""The outer loop: every bead gets its atoms, and what came out wrong is drawn again."""

from collections import Counter

import numpy as np
import pytest
import torch
from small_systems import BOX, small_positions, small_target

from openmm_backmap.environments.local import BeadSurroundings, TargetTables, Vocabulary
from openmm_backmap.geometry.checks import inverted_centres
from openmm_backmap.sampling import SweepSettings, sample_beads


@pytest.fixture(scope="module")
def target():
    return small_target(2, 3)


@pytest.fixture(scope="module")
def positions(target):
    return small_positions(target)


class Remembered:
    """A draw that knows the reference atoms of each bead; it tells beads by where their neighbours lie."""

    def __init__(self, target, positions, box=BOX):
        self.around = BeadSurroundings(
            TargetTables(target, Vocabulary.of(target)), target.mapping @ positions, box, 20, 5)
        self.positions = torch.as_tensor(positions, dtype=torch.float32)
        self.shown = torch.zeros(target.n_beads, self.around.index.shape[1], dtype=torch.bool)
        bead = torch.arange(target.n_beads)
        self.marks = self.around.environment(bead, self.positions, self.shown).bead_position.flatten(1)
        self.calls: Counter[int] = Counter()
        self.batches: list[int] = []
        self.seen: list[tuple[int, int]] = []     # bead, context atoms

    def beads(self, env):
        bead = (env.bead_position.flatten(1)[:, None] - self.marks).abs().sum(-1).argmin(dim=1)
        self.batches.append(len(bead))
        self.seen += list(zip(bead.tolist(), env.present.sum(1).tolist()))
        self.calls.update(bead.tolist())
        return bead

    def local(self, bead, width):
        atoms = self.around.tables.atoms_of_bead[bead][:, :width]
        return self.around.to_local(bead, self.positions[atoms.clamp(min=0)])

    def __call__(self, env, noise):
        return self.local(self.beads(env), env.slot.shape[1])

    def sample(self, seed=0, progress=None, **settings):
        return sample_beads(self.around, BOX, self, SweepSettings(**settings), np.random.default_rng(seed),
                            progress).numpy()


@pytest.mark.parametrize("settings", [
    {"gibbs": 0}, {"gibbs": 2}, {"reach_nm": 0.05}, {"reach_nm": 1.1}, {"batch": 1}, {"batch": 5}])
def test_known_atoms_come_out_where_they_are(target, positions, settings):
    draw = Remembered(target, positions)
    assert draw.sample(max_redraws=0, **settings) == pytest.approx(positions, abs=2e-6)


def test_every_pass_draws_every_bead_once(target, positions):
    draw = Remembered(target, positions)
    draw.sample(gibbs=2, max_redraws=0, batch=4)
    assert draw.calls == Counter(dict.fromkeys(range(target.n_beads), 3))
    assert max(draw.batches) <= 4


def test_the_first_beads_see_nothing_and_gibbs_sweeps_everything(target, positions):
    draw = Remembered(target, positions)
    draw.sample(gibbs=1, max_redraws=0)
    first, second = draw.seen[:target.n_beads], draw.seen[target.n_beads:]
    assert first[0][1] == 0 and any(n > 0 for _, n in first)
    assert all(n == 20 for _, n in second)


class WrongAtFirst(Remembered):
    """Turns one stereocentre over, in the first ``times`` draws of its bead."""

    def __init__(self, target, positions, times):
        super().__init__(target, positions)
        self.times = times
        self.mirrored = positions.copy()
        self.centre = 2
        centre, *neighbours = target.stereo[self.centre]
        self.bead = int(target.bead_of_atom[centre])
        a, b, c = positions[neighbours]
        normal = np.cross(b - a, c - a)
        normal /= np.linalg.norm(normal)
        self.mirrored[centre] -= 2 * ((positions[centre] - a) @ normal) * normal

    def __call__(self, env, noise):
        bead = self.beads(env)
        right = self.local(bead, env.slot.shape[1])
        keep, self.positions = self.positions, torch.as_tensor(self.mirrored, dtype=torch.float32)
        wrong = self.local(bead, env.slot.shape[1])
        self.positions = keep
        bad = (bead == self.bead) & (self.calls[self.bead] <= self.times)
        return torch.where(bad[:, None, None], wrong, right)


@pytest.fixture(scope="module")
def sound():
    """A system in which no bead is faulty."""
    target = small_target(2, 3)
    for seed in range(30):
        positions = small_positions(target, seed)
        draw = Remembered(target, positions)
        draw.sample(gibbs=0, max_redraws=1)
        if max(draw.calls.values()) == 1:
            return target, positions
    raise AssertionError("no sound conformation")


def test_a_sound_system_is_left_alone(sound):
    draw = Remembered(*sound)
    draw.sample(gibbs=1, max_redraws=5)
    assert set(draw.calls.values()) == {2}


def test_inverted_centres_are_drawn_again(sound):
    target, positions = sound
    draw = WrongAtFirst(target, positions, times=3)
    x = draw.sample(gibbs=0, max_redraws=10)
    assert not inverted_centres(target, x).any()
    assert x == pytest.approx(positions, abs=2e-6)
    assert draw.calls[draw.bead] == 4
    assert min(draw.calls.values()) == 1


@pytest.mark.parametrize("max_redraws", [0, 1, 4])
def test_redraws_end(sound, max_redraws):
    target, positions = sound
    draw = WrongAtFirst(target, positions, times=1000)
    x = draw.sample(gibbs=0, max_redraws=max_redraws)
    assert np.flatnonzero(inverted_centres(target, x)).tolist() == [draw.centre]
    assert draw.calls[draw.bead] == 1 + max_redraws


def test_progress_reaches_the_end(target, positions):
    told = []
    Remembered(target, positions).sample(gibbs=1, max_redraws=3, progress=lambda *words: told.append(words))
    for stage in ("drawing atoms", "redrawing faulty beads"):
        done, total = zip(*(words[1:] for words in told if words[0] == stage))
        assert list(done) == sorted(done) and done[-1] == total[-1] and len(set(total)) <= 2
