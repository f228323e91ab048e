"""Checks of structures: hands, contacts, rings, beads, in rectangular and triclinic boxes."""

import gc
import weakref

import numpy as np
import pytest

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.checks import (
    close_contacts,
    inverted_centres,
    mapped,
    mapping_rmsd,
    near_pairs,
    once_per_target,
    pierced_rings,
    ring_planarity,
    rings,
)
from openmm_backmap.geometry.periodic import minimum_image

BOXES = {"none": None, "rectangular": np.diag([4.0, 5.0, 6.0]),
         "triclinic": np.array([[4.0, 0, 0], [-1.6, 4.0, 0], [1.2, -1.5, 4.5]])}


@pytest.fixture(scope="module")
def target():
    return build_target(load_chemistry("sps"), [["STY"] * 3, ["STY"] * 4])


@pytest.fixture(scope="module")
def positions(target):
    x = build_coordinates(target, np.random.default_rng(2))
    return x + target.molecule_of_atom[:, None] * [1.9, 0.0, 0.0]


def through_plane(positions, centre, neighbours):
    """The centre moved to the other side of the plane of three neighbours: the other hand."""
    a, b, c = positions[neighbours]
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal)
    moved = positions.copy()
    moved[centre] -= 2 * ((positions[centre] - a) @ normal) * normal
    return moved


def test_builder_has_the_right_hands_and_a_centre_behind_its_neighbours_has_not(target, positions):
    assert not inverted_centres(target, positions).any()
    centre, *neighbours = target.stereo[3]
    moved = through_plane(positions, centre, neighbours)
    assert np.flatnonzero(inverted_centres(target, moved)).tolist() == [3]


def test_mirror_image_inverts_every_centre_of_every_sample(target, positions):
    both = np.stack([positions, positions * [1, 1, -1]])
    inverted = inverted_centres(target, both)
    assert inverted.shape == (2, len(target.stereo))
    assert not inverted[0].any() and inverted[1].all()


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_near_pairs_agree_with_all_pairs(box):
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-3, 9, size=(n, 3)) for n in (30, 40))
    i, j = near_pairs(a, b, box, 1.1)
    if box is None:
        distances = np.linalg.norm(a[:, None] - b, axis=-1)
    else:
        shifts = np.array([(p, q, r) for p in range(-6, 7) for q in range(-5, 6) for r in range(-4, 5)]) @ box
        distances = np.linalg.norm((a[:, None] - b)[..., None, :] + shifts, axis=-1).min(-1)
    assert set(zip(i.tolist(), j.tolist())) == set(zip(*(k.tolist() for k in np.nonzero(distances < 1.1))))


@pytest.mark.parametrize("name", BOXES)
def test_close_contacts_are_found_through_the_box_and_not_along_bonds(target, positions, name):
    box = BOXES[name]
    first, second = (target.molecule_of_atom == m for m in (0, 1))
    heavy = [i for i in range(target.n_atoms) if target.elements[i] == "C"]
    i, j = next(k for k in heavy if first[k]), [k for k in heavy if second[k]][-1]
    placed = positions.copy()
    shift = np.zeros(3) if box is None else box[0] + box[2]
    placed[second] += placed[i] + [0.0, 0.0, 0.2] - placed[j] + shift
    found = close_contacts(target, placed, box).tolist()
    assert [i, j] in found
    graph = target.graph_distances(3).todense()
    for a, b in found:
        assert a < b and graph[a, b] == 0
        assert np.linalg.norm(minimum_image(placed[a] - placed[b], box)) < 0.25


def test_one_ring_a_monomer_each_a_flat_hexagon(target, positions):
    found = rings(target)
    assert len(found) == 7 and {len(ring) for ring in found} == {6}
    bonds = {frozenset(bond) for bond in target.bonds.tolist()}
    assert all(frozenset((a, b)) in bonds for ring in found for a, b in zip(ring.tolist(), np.roll(ring, -1).tolist()))
    assert ring_planarity(target, positions).max() < 1e-3
    bent = positions.copy()
    corners = bent[found[3]]
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    bent[found[3][0]] += 0.06 * normal / np.linalg.norm(normal)
    assert ring_planarity(target, bent)[3] > 0.02
    assert ring_planarity(target, bent)[[0, 1, 2, 4]].max() < 1e-3


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("offset, pierced", [(0.0, True), (0.08, True), (0.2, False)])
def test_a_bond_through_a_ring(target, positions, name, offset, pierced):
    box = BOXES[name]
    assert len(pierced_rings(target, positions, box)) == 0
    placed, index, bond = positions.copy(), 0, len(target.bonds) - 1
    corners = placed[rings(target)[index]]
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    normal, radial = normal / np.linalg.norm(normal), corners[0] - corners.mean(0)
    middle = corners.mean(0) + offset * radial / np.linalg.norm(radial)
    image = np.zeros(3) if box is None else box[1] - box[2]
    placed[target.bonds[bond, 0]] = middle + 0.05 * normal + image
    placed[target.bonds[bond, 1]] = middle - 0.05 * normal + image
    assert ([index, bond] in pierced_rings(target, placed, box).tolist()) == pierced


def test_beads_in_other_images_are_in_place(target, positions):
    box = BOXES["triclinic"]
    beads = mapped(target, positions) + [0.03, 0.0, 0.04]
    samples = np.stack([positions, positions + [0.03, 0.0, 0.04]])
    assert mapping_rmsd(target, samples, beads + box[2], box) == pytest.approx([0.05, 0.0], abs=1e-12)
    assert mapping_rmsd(target, positions, beads, None) == pytest.approx(0.05)


def test_kept_results_go_with_their_target():
    chemistry, calls = load_chemistry("sps"), []
    counted = once_per_target(lambda target: calls.append(target.n_atoms) or target.n_atoms)
    target = build_target(chemistry, [["STY"]])
    assert counted(target) == counted(target) and len(calls) == 1
    gone = weakref.ref(target)
    del target
    gc.collect()
    assert gone() is None
