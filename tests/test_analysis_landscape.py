"""The map of environments: sketch-map, clusters, populations, surfaces."""

from dataclasses import replace

import numpy as np
import pytest
from small_systems import small_target

from openmm_backmap.analysis import landscape as module
from openmm_backmap.analysis import sketch_map
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.kept import keep, kept
from openmm_backmap.analysis.landscape import figure, landscape
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.builder import build_coordinates


def islands(n=40, n_islands=4, dimensions=8, seed=1):
    """Points in Gaussian islands, and which island."""
    rng = np.random.default_rng(seed)
    centres = 3 * np.eye(dimensions)[:n_islands]
    island = np.repeat(np.arange(n_islands), n // n_islands)
    return centres[island] + rng.normal(scale=0.3, size=(len(island), dimensions)), island


def test_the_sigmoid_is_a_half_at_sigma_and_its_slope_is_right():
    r = np.linspace(0.05, 5, 50)
    for exponents in ((8.0, 8.0), (2.0, 2.0), (2.0, 6.0), (1.5, 3.0)):
        value, slope = sketch_map.sigmoid(r, 1.3, exponents)
        assert sketch_map.sigmoid(np.array([1.3]), 1.3, exponents)[0] == pytest.approx(0.5)
        above, below = (sketch_map.sigmoid(r + d, 1.3, exponents)[0] for d in (1e-5, -1e-5))
        assert slope == pytest.approx((above - below) / 2e-5, rel=1e-5, abs=1e-8)
        assert (np.diff(value) > 0).all() and 0 <= value[0] and value[-1] <= 1


def test_islands_stay_islands_on_the_map_and_new_points_find_theirs():
    points, island = islands()
    sketch = sketch_map.fit(points, 2.0, high=(8.0, 8.0), low=(2.0, 2.0))
    apart = sketch_map.distances(sketch.places, sketch.places)
    same = island[:, None] == island
    assert apart[same].max() < apart[~same].min()
    more, where = islands(24, seed=2)
    nearest = sketch_map.distances(sketch_map.project(sketch, more), sketch.places).argmin(1)
    assert np.array_equal(island[nearest], where)


def test_the_map_fits_better_than_principal_components():
    points, _ = islands()
    sketch = sketch_map.fit(points, 2.0, high=(8.0, 8.0), low=(2.0, 2.0))
    wanted = sketch_map.sigmoid(sketch_map.distances(points, points), 2.0, (8.0, 8.0))[0]
    centred = points - points.mean(0)
    plain = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T

    def stress(places):
        return ((sketch_map.sigmoid(sketch_map.distances(places, places), 2.0, (2.0, 2.0))[0] - wanted) ** 2).mean()

    assert sketch.stress == pytest.approx(stress(sketch.places), rel=1e-6)
    assert sketch.stress < 0.5 * stress(plain)


def test_landmarks_spread_over_all_islands():
    points, island = islands(80)
    assert set(island[sketch_map.farthest_points(points, 4, 0)]) == {0, 1, 2, 3}
    assert len(set(sketch_map.farthest_points(points, 30, 5).tolist())) == 30


@pytest.fixture(scope="module")
def target():
    return small_target(12, 5)


def ensemble(target, name, frames, seed, rattle=0.004, only=None):
    """Chains that the builder grew, far apart, rattled."""
    grown = _grown(target)
    rng = np.random.default_rng(seed)
    x = []
    for f in frames:
        choice = np.random.default_rng(f).integers(len(grown), size=len(target.chains)) if only is None else \
            np.full(len(target.chains), only)
        y = np.concatenate([grown[c] + [3.0 * m, 0, 0] for m, c in enumerate(choice)])
        x.append(y + rng.normal(scale=rattle, size=y.shape))
    return Ensemble(name, target, np.array(x), None, np.array(frames))


_kept = []


def _grown(target):
    if not _kept:
        single = small_target(1, 5)
        _kept.extend(build_coordinates(single, np.random.default_rng(k)) for k in range(6))
    return _kept


@pytest.fixture(scope="module")
def found(target):
    reference = ensemble(target, "reference", [0, 1, 2, 3], 1)
    judged = [ensemble(target, "right", [0, 1], 2), ensemble(target, "one chain only", [7, 8], 3, only=2),
              ensemble(target, "random", [0, 1], 4, rattle=0.05)]
    seen = []
    return landscape(reference, judged, seed=1, progress=lambda *what: seen.append(what)), seen


def test_right_structures_lie_where_the_reference_lies(found):
    right = found[0].judged[0]
    assert right.surface.divergence < right.surface.floor + 3 * right.surface.floor_sd
    assert np.trace(right.confusion) == right.kept * right.confusion.sum() > 0.85 * right.confusion.sum()
    assert right.confusion.sum() == 2 * 36
    assert np.abs(right.populations - found[0].reference.populations).max() < 0.15


def test_structures_that_miss_environments_do_not(found):
    alike = found[0].judged[1]
    assert alike.surface.divergence > alike.surface.floor + 3 * alike.surface.floor_sd
    assert alike.component_surface.divergence > alike.component_surface.floor + 3 * alike.component_surface.floor_sd
    assert alike.confusion is None and alike.kept is None
    difference = np.abs(alike.populations - found[0].reference.populations)
    assert (difference > 3 * np.hypot(alike.population_errors, found[0].reference.population_errors)).any()


def test_random_places_are_outliers(found):
    random = found[0].judged[2]
    assert random.populations[-1] > 0.9
    assert found[0].reference.populations[-1] < 0.1
    assert random.surface.divergence > 0.5


def test_shares_sum_to_one_and_every_point_has_a_place(found):
    for part in (found[0].reference, *found[0].judged):
        assert part.populations.sum() == pytest.approx(1)
        assert len(part.places) == len(part.components) == len(part.cluster)
        assert np.isfinite(part.places).all() and part.cluster.max() <= len(found[0].centres)


def test_progress_tells_environments_and_the_map(found):
    assert {"local environments", "sketch-map"} == {stage for stage, _, _ in found[1]}
    assert all(0 <= done <= total for _, done, total in found[1])


def test_results_can_be_kept_and_drawn(found, tmp_path):
    keep(tmp_path / "kept.npz", found[0])
    again = kept(tmp_path / "kept.npz")
    assert np.array_equal(again.judged[0].confusion, found[0].judged[0].confusion)
    assert again.judged[1].surface == found[0].judged[1].surface
    drawn = figure(again)
    assert len(drawn.axes) == 4 * 3
    drawn.canvas.draw()


def test_structures_behind_the_frames_may_lie_apart_from_the_reference(target):
    reference = ensemble(target, "reference", [4, 5], 1)
    judged = ensemble(target, "right", [0, 0], 2)
    assert landscape(reference, [judged], seed=1).judged[0].confusion is None
    held_out = ensemble(target, "held out", [0], 3)
    assert landscape(reference, [judged], paired=held_out, seed=1).judged[0].confusion.sum() == 2 * 36


def test_large_ensembles_are_sampled(target, monkeypatch):
    monkeypatch.setattr(module, "_MOST_ENVIRONMENTS", 60)
    reference = ensemble(target, "reference", [0, 1, 2], 1)
    one, other = (landscape(reference, [replace(reference, name="same")], seed=3) for _ in range(2))
    assert len(one.reference.places) == 40 and one.judged[0].confusion.sum() == 60
    assert np.array_equal(one.reference.places, other.reference.places)
    assert one.judged[0].kept == 1


def test_too_few_monomers_are_refused():
    target = small_target(2, 3)
    few = Ensemble("few", target, np.zeros((2, target.n_atoms, 3)), None, np.arange(2))
    with pytest.raises(InputError, match="few: 4 monomers"):
        landscape(few, [few])
