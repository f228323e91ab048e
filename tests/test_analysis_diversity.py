"""Distances between draws and to the reference, where it is known what they must be."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from small_systems import BOX, TRICLINIC, small_positions, small_target

from openmm_backmap.analysis.diversity import diversity, figure
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.errors import InputError

SD_NM = 0.02


@functools.cache
def mean_positions(frame):
    return small_positions(small_target(8, 3), 1 + frame)


@pytest.fixture(scope="module")
def target():
    # Without equivalent labels a Gaussian stays one: no exchange makes structures nearer.
    return replace(small_target(8, 3), swaps=())


def drawn(target, sd, frame, seed, shift=0.0, box=BOX):
    """Structures of the frames: each atom Gaussian about a mean that belongs to its frame."""
    rng = np.random.default_rng(seed)
    x = np.stack([mean_positions(k) for k in frame]) + shift
    x += rng.normal(scale=sd, size=x.shape)
    return Ensemble("drawn", target, x, np.stack([box] * len(frame)), np.array(frame))


def test_draws_that_are_distributed_as_the_reference_have_a_ratio_of_one(target):
    found = diversity(drawn(target, SD_NM, [0, 0, 0, 0, 1, 1, 1, 1], 1), drawn(target, SD_NM, [0, 1], 2))
    assert found.ratio == pytest.approx(1, abs=3 * found.ratio_error)
    assert 0 < found.ratio_error < 0.04
    assert found.total.between_draws == pytest.approx(SD_NM * np.sqrt(6), rel=0.03)
    assert found.total.score == pytest.approx(1 - found.ratio)
    assert (found.n_draws, found.n_frames, found.n_paired) == (4, 2, 2)
    assert set(found.by_bead_type) == {"A", "B"}


def test_draws_that_are_too_narrow_have_the_ratio_that_follows_from_their_spread(target):
    found = diversity(drawn(target, 0.5 * SD_NM, [0] * 6, 1), drawn(target, SD_NM, [0], 2))
    assert found.ratio == pytest.approx(np.sqrt(2 * 0.25 / 1.25), rel=0.05)


def test_draws_that_are_too_wide_have_a_ratio_above_one(target):
    found = diversity(drawn(target, 2 * SD_NM, [0] * 6, 1), drawn(target, SD_NM, [0], 2))
    assert found.ratio == pytest.approx(np.sqrt(2 * 4 / 5), rel=0.05)


def test_draws_that_are_all_the_same_have_a_ratio_of_zero(target):
    found = diversity(drawn(target, 0.0, [0, 0, 0], 1), drawn(target, SD_NM, [0], 2))
    assert found.ratio == 0 and found.total.score == 1


def test_draws_that_are_wrong_all_alike_do_not_pass(target):
    found = diversity(drawn(target, SD_NM, [0] * 4, 1, shift=0.05), drawn(target, SD_NM, [0], 2))
    assert found.ratio < 0.6


def test_the_error_is_as_large_as_ratios_scatter(target):
    off, errors = [], []
    for seed in range(1, 41):
        found = diversity(drawn(target, SD_NM, [0, 0], seed), drawn(target, SD_NM, [0], 100 + seed))
        off.append(found.ratio - 1)
        errors.append(found.ratio_error)
    assert 0.7 < np.sqrt(np.mean(np.square(off)) / np.mean(np.square(errors))) < 1.4


def test_equivalent_labels_are_exchanged_where_that_is_nearer():
    target = small_target(2, 3)
    x = small_positions(target)
    flipped = x.copy()
    for a, b in target.swaps:
        flipped[a], flipped[b] = x[b], x[a]
    ensemble = Ensemble("flipped", target, np.stack([x, flipped]), None, np.zeros(2, int))
    assert diversity(ensemble).total.between_draws == pytest.approx(0, abs=1e-9)
    one = x.copy()
    a, b = target.swaps[-1]
    one[a[:1]], one[b[:1]] = x[b[:1]], x[a[:1]]   # half of a ring's labels: no symmetry
    ensemble = Ensemble("broken", target, np.stack([x, one]), None, np.zeros(2, int))
    assert diversity(ensemble).total.between_draws > 0.01


def test_hydrogens_do_not_count(target):
    one = drawn(target, SD_NM, [0, 0], 1)
    moved = one.positions.copy()
    moved[1, np.array(target.elements) == "H"] += 0.1
    assert diversity(replace(one, positions=moved)).total == diversity(one).total


def test_images_of_a_molecule_are_the_same(target):
    one = drawn(target, SD_NM, [0, 0], 1, box=TRICLINIC)
    moved = one.positions.copy()
    moved[1] += TRICLINIC[2]
    other = replace(one, positions=moved)
    assert diversity(other).total.between_draws == pytest.approx(diversity(one).total.between_draws)


def test_without_a_reference_of_the_frame_there_is_only_the_spread(target):
    draws = drawn(target, SD_NM, [0, 0, 0], 1)
    for reference in (None, replace(drawn(target, SD_NM, [0], 2), frame=np.array([7]))):
        found = diversity(draws, reference)
        assert found.total.ratio is None and found.total.to_reference is None and found.total.score is None
        assert np.isnan(found.ratio)
        assert found.total.between_draws == pytest.approx(SD_NM * np.sqrt(6), rel=0.03)


def test_frames_without_a_reference_structure_do_not_blur_the_ratio(target):
    draws = drawn(target, SD_NM, [0, 0, 0, 1, 1, 1], 1)
    draws.positions[3:] *= 1.5
    found = diversity(draws, drawn(target, SD_NM, [0], 2))
    assert found.ratio == pytest.approx(1, abs=0.06)
    assert (found.n_frames, found.n_paired) == (2, 1)


def test_many_draws_take_part_alike(target):
    draws = drawn(target, SD_NM, [0] * 40, 1)
    assert diversity(draws).total.between_draws == pytest.approx(SD_NM * np.sqrt(6), rel=0.01)


def test_one_draw_a_frame_is_refused(target):
    with pytest.raises(InputError, match="one draw a frame"):
        diversity(drawn(target, SD_NM, [0, 1], 1))


def test_the_figure_shows_each_ensemble_and_bead_type(target):
    found = diversity(drawn(target, SD_NM, [0, 0], 1), drawn(target, SD_NM, [0], 2))
    axes = figure([found, found]).axes[0]
    assert len(axes.get_yticks()) == 4 and len(axes.patches) == 8
