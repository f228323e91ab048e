"""Colours keep near beads apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmm_backmap.geometry.neighbours import nearest
from openmm_backmap.geometry.periodic import minimum_image
from openmm_backmap.sampling.colouring import colour_beads

EDGE = 2.4
BOX = np.eye(3) * EDGE


def coloured(x, reach, seed, k=40):
    index, shift = nearest(x, BOX, 1.1, k)
    distance = np.linalg.norm(x[index] + shift - x[:, None], axis=-1)
    return colour_beads(index, distance, reach, np.random.default_rng(seed))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.floats(0.1, 1.0), st.integers(0, 2**31))
def test_no_two_beads_of_one_colour_are_near(n, reach, seed):
    x = np.random.default_rng(seed).uniform(-1, 4, (n, 3))
    colour = coloured(x, reach, seed)
    distance = np.linalg.norm(minimum_image(x[:, None] - x, BOX), axis=-1)
    near = (distance < reach) & ~np.eye(n, dtype=bool)
    assert not (near & (colour[:, None] == colour)).any()
    assert sorted(set(colour)) == list(range(colour.max() + 1))
    assert colour.max() <= near.sum(1).max()


def test_same_seed_same_colours():
    x = np.random.default_rng(0).uniform(0, EDGE, (60, 3))
    assert (coloured(x, 0.7, 5) == coloured(x, 0.7, 5)).all()
    assert (coloured(x, 0.7, 5) != coloured(x, 0.7, 6)).any()


def test_neighbours_known_to_one_side_only_count():
    """Bead 0 is the nearest of both others, but has room for only one of them in its list."""
    neighbour, distance = np.array([[1], [0], [0]]), np.array([[0.1], [0.1], [0.2]])
    for seed in range(5):
        colour = colour_beads(neighbour, distance, 0.5, np.random.default_rng(seed))
        assert colour[0] not in (colour[1], colour[2])


@pytest.mark.parametrize("neighbour", [np.full((4, 3), -1), np.array([[1], [0]])])
def test_far_beads_share_one_colour(neighbour):
    colour = colour_beads(neighbour, np.full(neighbour.shape, 0.9), 0.5, np.random.default_rng(0))
    assert (colour == 0).all()
