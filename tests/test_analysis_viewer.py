"""What a view holds: the scene is read back from the page."""

import base64
import re
import zlib

import msgpack
import numpy as np
import pytest
from small_systems import BOX, small_positions, small_target

from openmm_backmap.analysis.viewer import Layer, library, structure_view, view


def scene(page):
    """Objects of the only view in ``page`` by name, and its camera."""
    (data,) = re.findall(r'backmapShow\([^,]*, "([^"]*)"\)', page)
    packed = msgpack.unpackb(zlib.decompress(base64.b64decode(data)))
    objects = {}
    for item in packed["objects"]:
        item = msgpack.unpackb(zlib.decompress(item)) if isinstance(item, bytes) else item
        objects.setdefault(item["name"], []).append(item)
    return objects, packed["plot"]["camera"]


def array(item, key):
    value = item[key]
    data = zlib.decompress(value["compressed_data"]) if "compressed_data" in value else value["data"]
    return np.frombuffer(data, dtype=value["dtype"]).reshape(value["shape"])


@pytest.fixture(scope="module")
def target():
    return small_target()


@pytest.fixture(scope="module")
def positions(target):
    return small_positions(target)


def test_layers_are_objects_with_a_checkbox_each():
    balls = Layer("<balls>", np.array([[0.0, 1, 2], [3, 4, 5]]), np.array([0.1, 0.2]), np.array([0xFF0000, 0xFF]),
                  legend={"red & blue": [0xFF0000, 0xFF]})
    sticks = Layer("sticks", ends=np.array([[[0.0, 0, 0], [1, 1, 1]]]), end_colours=np.array([[1, 2]]),
                   stick_radius=0.02, shown=False)
    page = view([balls, sticks], None, "a < b")
    objects, _ = scene(page)
    assert set(objects) == {"<balls>", "sticks"}
    (points,) = objects["<balls>"]
    assert array(points, "positions").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert np.allclose(array(points, "point_sizes"), [0.2, 0.4])
    assert array(points, "colors").tolist() == [0xFF0000, 0xFF]
    assert np.isclose(objects["sticks"][0]["width"], 0.04)
    assert '<input type="checkbox" name="&lt;balls&gt;" checked>' in page
    assert '<input type="checkbox" name="sticks">' in page
    assert "red &amp; blue" in page and page.count("background:#0000ff") == 1 and "a &lt; b" in page


def test_a_structure_has_atoms_hydrogens_beads_and_box(target, positions):
    page = structure_view(target, positions, target.mapping @ positions, BOX, "caption")
    objects, camera = scene(page)
    assert set(objects) == {"atoms", "hydrogens", "beads", "box"}
    light = np.array(target.elements) == "H"
    n = {name: sum(len(array(item, "positions")) for item in items if "positions" in item)
         for name, items in objects.items()}
    assert n == {"atoms": (~light).sum(), "hydrogens": light.sum(), "beads": target.n_beads, "box": 0}
    eye, centre = np.array(camera[:3]), np.array(camera[3:6])
    assert np.linalg.norm(eye - centre) > 3  # outside a box of 3 nm
    assert "part" not in page and "bead A" in page and "bead B" in page


def test_molecules_come_into_the_box_with_their_beads(target, positions):
    outside = positions + BOX[0] * 5
    objects, _ = scene(structure_view(target, outside, target.mapping @ outside, BOX, ""))
    here, _ = scene(structure_view(target, positions, target.mapping @ positions, BOX, ""))
    for name in ("atoms", "beads"):
        found, wanted = (array(o[name][0], "positions") for o in (objects, here))
        assert np.allclose(found, wanted, atol=1e-5)


def test_of_a_large_system_whole_molecules_in_the_middle_are_shown(target, positions):
    """Chains lie side by side along x: the second is the middle one."""
    own = np.flatnonzero(target.molecule_of_atom == 1)
    page = structure_view(target, positions, None, BOX, "Atoms.", most_atoms=len(own) + 5)
    objects, _ = scene(page)
    assert "beads" not in objects
    shown = np.concatenate([array(objects[name][0], "positions") for name in ("atoms", "hydrogens")])
    assert sorted(shown[:, 0]) == pytest.approx(sorted(positions[own, 0]), abs=1e-5)
    assert f"1 of 3 molecules, those nearest the centre ({len(own)} of {target.n_atoms} atoms)" in page


def test_without_a_box_none_is_drawn(target, positions):
    assert "box" not in scene(structure_view(target, positions, None, None, ""))[0]


def test_the_library_asks_for_nothing_else():
    page = library()
    assert "<script src" not in page and "http" not in page.split('("', 1)[0] and len(page) < 2e6
