import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from openmm_backmap.errors import InputError
from openmm_backmap.geometry.periodic import make_whole, minimum_image, molecules_into_box, reduce_box, wrap

edges = st.floats(1.0, 8.0)
tilts = st.floats(-20.0, 20.0)
lattice_shifts = arrays(np.int64, (12, 3), elements=st.integers(-3, 3))


@st.composite
def lower_triangular(draw):
    a, b, c = draw(edges), draw(edges), draw(edges)
    return np.array([[a, 0, 0], [draw(tilts), b, 0], [draw(tilts), draw(tilts), c]])


boxes = lower_triangular().map(reduce_box)


def vectors(low, high, n=12):
    return arrays(float, (n, 3), elements=st.floats(low, high))


@given(lower_triangular())
def test_reduce_box_keeps_the_lattice_and_is_reduced(box):
    reduced = reduce_box(box)
    steps = reduced @ np.linalg.inv(box)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-7)
    assert np.linalg.det(reduced) == pytest.approx(np.linalg.det(box))
    a, b, c = reduced
    assert abs(b[0]) <= a[0] / 2 + 1e-9 and abs(c[0]) <= a[0] / 2 + 1e-9 and abs(c[1]) <= b[1] / 2 + 1e-9
    np.testing.assert_allclose(reduce_box(reduced), reduced, atol=1e-9)


@pytest.mark.parametrize("box, reason", [
    (np.zeros((3, 3)), "volume"), (np.full((3, 3), np.nan), "finite"), (np.ones((2, 2)), "three"),
    ([[3, 1, 0], [0, 3, 0], [0, 0, 3]], "usual form")])
def test_reduce_box_refuses(box, reason):
    with pytest.raises(InputError, match=reason):
        reduce_box(box)


@given(boxes, vectors(-0.49, 0.49), lattice_shifts)
def test_minimum_image_undoes_lattice_shifts(box, fractions, shifts):
    near = fractions * np.diag(box)
    np.testing.assert_allclose(minimum_image(near + shifts @ box, box), near, atol=1e-9)


@given(boxes, vectors(-30, 30))
def test_minimum_image_is_an_image_and_nearest_below_half_the_box(box, separations):
    image = minimum_image(separations, box)
    steps = (image - separations) @ np.linalg.inv(box)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-7)
    around = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), axis=-1).reshape(-1, 3) @ box
    nearest = np.linalg.norm(image[:, None] + around, axis=-1).min(axis=1)
    short = nearest < np.diag(box).min() / 2 - 1e-6
    np.testing.assert_allclose(np.linalg.norm(image[short], axis=-1), nearest[short], atol=1e-9)


@given(boxes, vectors(-30, 30))
def test_wrap_moves_by_lattice_vectors_into_the_box(box, positions):
    wrapped = wrap(positions, box)
    steps = (wrapped - positions) @ np.linalg.inv(box)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-7)
    assert (wrapped >= -1e-9).all() and (wrapped <= np.diag(box) + 1e-9).all()


@given(boxes, vectors(-0.28, 0.28), lattice_shifts, st.randoms(use_true_random=False))
def test_make_whole_restores_broken_branched_molecules(box, steps, shifts, random):
    # Two molecules of 6: trees with random branches, every bond shorter than half the box in every direction.
    bonds = np.array([(random.randrange(m, i), i) for m in (0, 6) for i in range(m + 1, m + 6)])
    whole = np.zeros((12, 3))
    whole[6] = np.diag(box) / 3
    for before, i in bonds.tolist():
        whole[i] = whole[before] + steps[i] * np.diag(box)
    shifts[[0, 6]] = 0
    np.testing.assert_allclose(make_whole(whole + shifts @ box, box, bonds), whole, atol=1e-8)


def test_without_a_box_nothing_moves():
    positions = np.arange(6.0).reshape(2, 3) * 10
    bonds = np.array([[0, 1]])
    for moved in (make_whole(positions, None, bonds), wrap(positions, None), minimum_image(positions, None),
                  molecules_into_box(positions, None, np.zeros(2, int))):
        np.testing.assert_array_equal(moved, positions)


@given(boxes, vectors(-30, 30))
def test_molecules_into_box_keeps_molecules_rigid(box, positions):
    molecule = np.repeat(np.arange(4), 3)
    moved = molecules_into_box(positions, box, molecule)
    shift = (moved - positions).reshape(4, 3, 3)
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1], shift.shape), atol=1e-9)
    centres = moved.reshape(4, 3, 3).mean(axis=1)
    assert (centres >= -1e-8).all() and (centres <= np.diag(box) + 1e-8).all()
