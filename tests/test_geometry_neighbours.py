"""Nearest neighbours against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmm_backmap.errors import InputError
from openmm_backmap.geometry.neighbours import Within, nearest
from openmm_backmap.geometry.periodic import reduce_box

CUTOFF = 1.0


def brute_force(x, box, k):
    """Distances (n, k) to the nearest images of other points within the cutoff, inf where there are fewer."""
    cells = np.zeros((1, 3))
    if box is not None:
        x = (x @ np.linalg.inv(box) % 1.0) @ box
        cells = np.array(list(itertools.product((-1, 0, 1), repeat=3))) @ box
    separation = np.linalg.norm(x[None, :, None] + cells - x[:, None, None], axis=-1)
    separation[np.arange(len(x)), np.arange(len(x))] = np.inf
    flat = np.sort(separation.reshape(len(x), -1), axis=1)[:, :k]
    flat = np.pad(flat, ((0, 0), (0, k - flat.shape[1])), constant_values=np.inf)
    return np.where(flat < CUTOFF, flat, np.inf)


def check(x, box, k):
    index, shift = nearest(x, box, CUTOFF, k)
    assert index.shape == (len(x), k) and shift.shape == (len(x), k, 3)
    there = index >= 0
    distance = np.where(there, np.linalg.norm(x[index] + shift - x[:, None], axis=-1), np.inf)
    assert distance == pytest.approx(brute_force(x, box, k), abs=1e-9)
    assert not (index == np.arange(len(x))[:, None]).any()
    assert (shift[~there] == 0).all()
    if box is not None:
        cells = shift[there] @ np.linalg.inv(box)
        assert cells == pytest.approx(np.round(cells), abs=1e-9)
    else:
        assert np.abs(shift).max(initial=0) < 1e-9


@st.composite
def boxes(draw):
    kind = draw(st.sampled_from(["none", "rectangular", "triclinic"]))
    if kind == "none":
        return None
    edges = np.diag([draw(st.floats(1.3, 3.0)) for _ in range(3)])
    if kind == "triclinic":
        edges[1, 0], edges[2, 0], edges[2, 1] = (draw(st.floats(-1.5, 1.5)) for _ in range(3))
        edges = reduce_box(edges)
    return edges


def wide_enough(box):
    return box is None or (1 / np.linalg.norm(np.linalg.inv(box), axis=0)).min() >= CUTOFF


@settings(max_examples=60, deadline=None)
@given(boxes().filter(wide_enough), st.integers(1, 25), st.integers(1, 6), st.integers(0, 2**31))
def test_agrees_with_brute_force(box, n, k, seed):
    rng = np.random.default_rng(seed)
    check(rng.uniform(-4, 4, (n, 3)) if box is not None else rng.uniform(-1, 1, (n, 3)), box, k)


@settings(max_examples=40, deadline=None)
@given(boxes(), st.integers(1, 12), st.floats(0.5, 2.5), st.integers(0, 2**31))
def test_all_within_a_cutoff_by_brute_force(box, n, cutoff, seed):
    """Boxes may be narrower than the cutoff: a point then has several images of another near it."""
    x = np.random.default_rng(seed).uniform(-2, 2, (n, 3))
    points = np.random.default_rng(seed).permutation(n)[:1 + n // 2]
    row, index, shift = Within(x, box, cutoff).of(points)
    cells = np.zeros((1, 3)) if box is None else np.array(list(itertools.product(range(-9, 10), repeat=3))) @ box
    assert (np.diff(row) >= 0).all()
    for k, i in enumerate(points):
        found = np.linalg.norm(x[index[row == k]] + shift[row == k] - x[i], axis=1)
        distance = np.linalg.norm(np.delete(x, i, axis=0)[:, None] + cells - x[i], axis=2)
        assert np.sort(found) == pytest.approx(np.sort(distance[distance <= cutoff]), abs=1e-9)
        assert not (index[row == k] == i).any()
    moved = shift @ np.linalg.inv(np.eye(3) if box is None else box)
    assert moved == pytest.approx(np.round(moved), abs=1e-9)


@pytest.mark.parametrize("edge", [0.0999, 1e-9])
def test_no_end_of_images(edge):
    with pytest.raises(InputError, match="too small for neighbours within 1 nm"):
        Within(np.zeros((2, 3)), np.diag([3.0, edge, 3.0]), 1.0)


def test_strongly_triclinic_box():
    """In a brick of the same volume neighbours can lie two cells away."""
    box = np.array([[1.5, 0, 0], [0.74, 1.5, 0], [0.74, 0.74, 1.5]])
    check(np.random.default_rng(3).uniform(-3, 3, (60, 3)), box, 12)


@pytest.mark.parametrize("box", [None, np.diag([2.0, 2.2, 2.4])])
def test_coincident_points_are_neighbours_but_none_its_own(box):
    x = np.repeat([[0.1, 0.2, 0.3], [0.5, 0.2, 0.3]], 4, axis=0)
    check(x, box, 3)
    check(x, box, 7)


def test_a_point_alone_has_no_neighbours():
    index, shift = nearest(np.zeros((1, 3)), np.diag([1.0, 1.0, 1.0]), CUTOFF, 4)
    assert (index == -1).all() and (shift == 0).all()


def test_points_on_the_faces():
    check(np.array([[0, 0, 0], [2, 2, 2], [-1e-17, 0, 2 - 1e-16], [1, 0, 0.0], [0.5, 2, 0]]), np.diag([2.0, 2, 2]), 4)


def test_neighbours_are_sorted_by_distance():
    x = np.random.default_rng(1).uniform(0, 2, (80, 3))
    box = np.diag([2.0, 2.0, 2.0])
    index, shift = nearest(x, box, CUTOFF, 8)
    assert (index >= 0).all()
    assert (np.diff(np.linalg.norm(x[index] + shift - x[:, None], axis=-1), axis=1) >= 0).all()
