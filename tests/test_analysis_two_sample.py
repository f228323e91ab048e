"""The classifier tells what differs, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from small_systems import small_target

from openmm_backmap.analysis import two_sample
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.kept import keep, kept
from openmm_backmap.analysis.two_sample import two_sample_test
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.builder import build_coordinates

BOX = np.diag([12.0, 12.0, 2.6])
N_CHAINS = 12


@pytest.fixture(scope="module")
def target():
    return small_target(N_CHAINS, 3)


@pytest.fixture(scope="module")
def grown(target):
    """Chains as the builder grows them, apart from each other and rattled: (seed, rattle) -> positions."""
    places = np.array([[i, j, 0.4] for i in range(4) for j in range(3)]) * 2.5
    base = [build_coordinates(target, np.random.default_rng(s)) for s in range(6)]
    for x in base:
        for m in range(N_CHAINS):
            own = target.molecule_of_atom == m
            x[own] += places[m] - x[own].mean(0)

    def positions(k, rattle, seed):
        return base[k] + np.random.default_rng(seed).normal(scale=rattle, size=base[k].shape)

    return positions


def ensemble(target, positions, frames, name="some"):
    return Ensemble(name, target, np.array(positions), np.array([BOX] * len(positions)), np.array(frames))


@pytest.fixture
def quick(monkeypatch):
    """A smaller network and fewer floors: the structures are few and the differences large."""
    monkeypatch.setattr(two_sample, "_FLOOR_TESTS", 2)
    monkeypatch.setattr(two_sample, "_COMPONENTS", 40)
    monkeypatch.setattr(two_sample, "_EPOCHS", 25)


def test_structures_of_one_distribution_are_not_told_apart(target, grown, quick):
    reference = ensemble(target, [grown(k, 0.01, 10 + k) for k in range(2)], [0, 1])
    judged = ensemble(target, [grown(k, 0.01, 20 + k) for k in range(2)], [0, 1])
    found = two_sample_test(reference, judged, seed=1)
    assert found.paired
    assert found.auc == pytest.approx(0.5, abs=3.5 * found.error + 0.03)
    assert found.floor_auc == pytest.approx(0.5, abs=3.5 * found.floor_error + 0.03)
    assert 0 < found.error < 0.1 and found.floor_error > 0
    assert found.n_environments == 2 * target.n_beads
    assert found.n_atoms == 2 * sum(e != "H" for e in target.elements)
    assert {name: test.n_beads for name, test in found.by_bead_type.items()} == {"A": 72, "B": 72}


def test_rattled_structures_are_told_from_the_reference(target, grown, quick):
    reference = ensemble(target, [grown(k, 0.003, 10 + k) for k in range(3)], [0, 1, 2])
    judged = ensemble(target, [grown(3, 0.02, 20)], [9])
    found = two_sample_test(reference, judged, seed=1)
    assert not found.paired
    assert found.auc > 0.9
    assert found.auc - found.floor_auc > 3 * np.hypot(found.error, found.floor_error)
    assert all(test.auc > 0.8 for test in found.by_bead_type.values())


def test_what_differs_in_one_bead_type_is_found_there(target, grown, quick):
    reference = ensemble(target, [grown(k, 0.005, 10 + k) for k in range(2)], [0, 1])
    x = np.array([grown(k, 0.005, 20 + k) for k in range(2)])
    # The ring's far carbon, out of its place: the backbone has it at the edge of its view.
    far = np.array(target.atom_names) == "CZ"
    x[:, far] += np.random.default_rng(3).normal(scale=0.06, size=x[:, far].shape)
    found = two_sample_test(reference, ensemble(target, x, [0, 1]), seed=1)
    assert found.by_bead_type["B"].auc > 0.9 > found.by_bead_type["A"].auc + 0.1


def test_structures_of_the_judged_frames_may_lie_apart_from_the_reference(target, grown, quick):
    reference = ensemble(target, [grown(k, 0.02, 10 + k) for k in range(2)], [5, 6])
    paired = ensemble(target, [grown(k, 0.003, 30 + k) for k in range(2)], [0, 1])
    judged = ensemble(target, [grown(k, 0.003, 20 + k) for k in range(2)], [0, 1])
    found = two_sample_test(reference, judged, paired=paired, seed=1)
    assert found.paired and found.auc < 0.7
    assert two_sample_test(reference, judged, seed=1).auc > 0.9


def test_the_same_seed_gives_the_same_numbers_and_they_can_be_kept(target, grown, quick, tmp_path):
    reference = ensemble(target, [grown(0, 0.005, 10)], [0])
    judged = ensemble(target, [grown(1, 0.01, 20)], [9])
    seen = []
    one = two_sample_test(reference, judged, seed=1, progress=lambda *what: seen.append(what))
    assert one == two_sample_test(reference, judged, seed=1)
    assert seen[-1] == ("two-sample tests", 3, 3)
    keep(tmp_path / "kept.npz", one)
    assert kept(tmp_path / "kept.npz") == one


def test_random_places_are_told_at_sight(target, grown, quick):
    reference = ensemble(target, [grown(0, 0.003, 10)], [0])
    heap = np.random.default_rng(1).normal(scale=0.05, size=(target.n_atoms, 3)) + grown(0, 0, 0)
    assert two_sample_test(reference, ensemble(target, [heap], [0]), seed=1).auc > 0.99


def test_of_few_molecules_frames_are_held_out(quick):
    target = small_target(2, 3)
    rng = np.random.default_rng(1)
    x = np.array([build_coordinates(target, np.random.default_rng(k)) for k in range(4)])[rng.integers(4, size=24)]
    x += np.where(target.molecule_of_atom == 1, 3.0, 0.0)[:, None]
    x += rng.normal(scale=0.005, size=x.shape)
    reference = ensemble(target, x[:16], range(16))
    found = two_sample_test(reference, ensemble(target, x[16:], range(16, 24)), seed=1)
    assert found.auc == pytest.approx(0.5, abs=0.2)
    wide = x[16:] + rng.normal(scale=0.02, size=x[16:].shape)
    assert two_sample_test(reference, ensemble(target, wide, range(16, 24)), seed=1).auc > 0.9


def test_too_few_molecules_and_frames_are_refused():
    target = small_target(2, 3)
    x = build_coordinates(target, np.random.default_rng(1))
    few = ensemble(target, [x] * 3, range(3))
    with pytest.raises(InputError, match="too few molecules and frames"):
        two_sample_test(few, replace(few, frame=np.arange(3) + 7))
