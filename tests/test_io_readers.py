import struct

import numpy as np
import pytest

from openmm_backmap.errors import InputError
from openmm_backmap.io.cut_off import whole_frames
from openmm_backmap.io.readers import open_cg

ATOMS = [("PS1", 1, "B1"), ("PS1", 1, "S1"), ("HIS", 2, "B1"), ("CA", 2, "1HB")]


def gro_text(x, box="3.0 3.0 3.0", title="melt t= 12.50000", places=3, count=None):
    width = places + 5
    lines = [f"{number:5d}{residue:<5s}{name:>5s}{(k + 1) % 100000:5d}" + "".join(f"{v:{width}.{places}f}" for v in row)
             for k, ((residue, number, name), row) in enumerate(zip(ATOMS, x))]
    return "\n".join([title, f" {len(x) if count is None else count}", *lines, box]) + "\n"


def pdb_line(serial, name, residue, chain, number, x):
    xyz = "".join(f"{v:8.3f}" for v in x)
    return f"ATOM  {serial:>5s} {name:<4s} {residue:<4s}{chain}{number:>4s}    {xyz}  1.00  0.00\n"


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.fixture
def x():
    return np.random.default_rng(0).uniform(0, 3, (4, 3))


@pytest.mark.parametrize("places", [3, 5, 9])
def test_gro_keeps_names_order_and_digits(tmp_path, x, places):
    source = open_cg(write(tmp_path, "a.gro", gro_text(x, places=places)))
    frame = next(source.frames())
    np.testing.assert_allclose(frame.positions, x, atol=0.51 * 10.0**-places)
    np.testing.assert_array_equal(frame.positions, np.round(x, places))
    assert frame.time_ps == 12.5
    top = source.topology
    assert top.bead_names == ("B1", "S1", "B1", "1HB")
    assert top.residue_names == ("PS1", "HIS", "CA") and top.residue_numbers.tolist() == [1, 2, 2]
    assert top.residue_of_bead.tolist() == [0, 0, 1, 2] and top.bonds is None


def test_gro_with_velocities_many_frames_and_blank_lines_at_the_end(tmp_path, x):
    text = gro_text(x).replace("\n    1PS1", "\n    1PS1")
    lines = text.splitlines()
    lines[2:6] = [line + "  0.1000  0.2000  0.3000" for line in lines[2:6]]
    path = write(tmp_path, "a.gro", "\n".join(lines) + "\n" + gro_text(x + 1, title="no time") + "\n\n")
    frames = list(open_cg(path).frames())
    assert [f.time_ps for f in frames] == [12.5, None]
    np.testing.assert_allclose(frames[1].positions - frames[0].positions, 1.0, atol=0.002)


@pytest.mark.parametrize("box, expected", [
    ("0 0 0", None), ("3.0 4.0 5.0", np.diag([3.0, 4, 5])),
    ("9.75261 2.87305 2.45290 0 0 -1.21647 0 0 0", [[9.75261, 0, 0], [-1.21647, 2.87305, 0], [0, 0, 2.4529]]),
    ("3 3 3 0 0 2 0 2 0", [[3, 0, 0], [-1, 3, 0], [-1, 0, 3]])])
def test_gro_boxes_come_out_reduced(tmp_path, x, box, expected):
    found = next(open_cg(write(tmp_path, "a.gro", gro_text(x, box))).frames()).box
    if expected is None:
        assert found is None
    else:
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("change, message", [
    (lambda t: "\n".join(t.splitlines()[:4]), "cut off.*2 of 4 atoms"),
    (lambda t: "\n".join(t.splitlines()[:6]), "cut off.*4 of 4 atoms"),
    (lambda t: t.replace(" 4\n", " four\n"), "number of atoms"),
    (lambda t: t.replace(" 4\n", " 3\n"), "box of 3 or 9|number of atoms"),
    (lambda t: t.replace("3.0 3.0 3.0", "3.0 3.0"), "box of 3 or 9"),
    (lambda t: t.replace("3.0 3.0 3.0", "3.0 3.0 0.0"), "no volume"),
    (lambda t: t.replace("    1PS1", "    xPS1"), "residue number"),
    (lambda t: t.replace(".", ","), "three coordinates|box"), (lambda t: "one line", "number of atoms"),
    (lambda t: t + t.splitlines()[0] + "\n 4\n", "cut off: frame 1"),
    (lambda t: t + "\n" + t, "blank line")])
def test_broken_gro_files(tmp_path, x, change, message):
    path = write(tmp_path, "a.gro", change(gro_text(x)))
    with pytest.raises(InputError, match=message) as error:
        list(open_cg(path).frames())
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name, content, message", [
    ("none.gro", None, "does not exist"), ("empty.pdb", "", "is empty"),
    ("a.xyz", "1", r"'.xyz'; known: \.gro.*\.dcd"), ("a.pdb", "REMARK nothing\n", "no ATOM"),
    ("a.cif", "data_x\n_a.b 1\n", "_atom_site"), ("b.cif", "rubbish", "b.cif"),
    ("a.xtc", "rubbish", "--topology")])
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        open_cg(path)
    assert str(path) in str(error.value)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.gro").mkdir()
    with pytest.raises(InputError, match="not a file"):
        open_cg(tmp_path / "a.gro")


@pytest.mark.parametrize("kind", [".xtc", ".trr", ".dcd"])
def test_rubbish_trajectories(tmp_path, x, kind):
    topology = write(tmp_path, "a.gro", gro_text(x))
    path = write(tmp_path, "a" + kind, "this is no trajectory at all" * 50)
    with pytest.raises(InputError, match="a" + kind):
        open_cg(path, topology)


def trajectory(path, positions, box):
    """Frames (n_frames, n_beads, 3), nm, written by mdtraj."""
    import mdtraj

    topology = mdtraj.Topology()
    residue = topology.add_residue("PS1", topology.add_chain())
    for k in range(positions.shape[1]):
        topology.add_atom(f"B{k}", mdtraj.element.carbon, residue)
    cell = dict(unitcell_lengths=np.full((len(positions), 3), 5.0), unitcell_angles=np.full((len(positions), 3), 90.0))
    mdtraj.Trajectory(positions, topology, **cell if box else {}).save(str(path))


@pytest.fixture(params=[".xtc", ".trr", ".dcd"])
def saved(request, tmp_path):
    """Writes frames of ``n_beads`` to a trajectory; gives its path and the structure that names its beads."""
    def save(n_frames, n_beads, box):
        x = np.random.default_rng(1).random((n_frames, n_beads, 3))
        names, path = tmp_path / "names.gro", tmp_path / f"a{request.param}"
        trajectory(names, x[:1], True)
        trajectory(path, x, box)
        return path, names
    return save


@pytest.mark.parametrize("box", [True, False])
@pytest.mark.parametrize("n_beads", [4, 10, 31])
def test_whole_trajectories(saved, n_beads, box):
    source = open_cg(*saved(5, n_beads, box))
    assert not source.cut_off and source.n_frames == len(list(source.frames())) == 5


@pytest.mark.parametrize("box", [True, False])
def test_trajectories_that_are_cut_off(saved, box):
    path, names = saved(4, 30, box)
    size = path.stat().st_size
    saved(5, 30, box)
    whole = path.read_bytes()
    for left in (size + 1, (size + len(whole)) // 2, len(whole) - 4, len(whole) - 1):
        path.write_bytes(whole[:left])
        source = open_cg(path, names)
        assert source.n_frames == 4
        if path.suffix != ".trr":  # mdtraj reads nothing of such a .trr
            assert len(list(source.frames(last=3))) == 4
        for selection in (dict(), dict(last=4), dict(first=3)):
            with pytest.raises(InputError, match="cut off in frame 4"):
                source.frames(**selection)


def test_frames_of_no_size(tmp_path):
    """A header that says that a frame ends where it begins, or before."""
    path = write(tmp_path, "a.trr", "")
    path.write_bytes(struct.pack(">2i16x10i3i2f", 1993, 13, -84, *[0] * 9, 1, 0, 0, 0.0, 0.0) * 3)
    assert whole_frames(path) == (0, path.stat().st_size)


def test_frame_selection(tmp_path, x):
    path = write(tmp_path, "a.gro", "".join(gro_text(x, title=f"t= {k}.0") for k in range(7)))
    source = open_cg(path)
    times = lambda **selection: [f.time_ps for f in source.frames(**selection)]  # noqa: E731
    assert source.n_frames == 7
    assert times() == [0, 1, 2, 3, 4, 5, 6] and times(first=2, last=5, stride=2) == [2, 4]
    assert times(first=3, last=3) == [3] and times(last=100, stride=5) == [0, 5]
    for selection, message in [(dict(first=4, last=3), "before"), (dict(first=7), "no frame 7"),
                               (dict(stride=0), "stride"), (dict(first=-1), "negative")]:
        with pytest.raises(InputError, match=message):
            source.frames(**selection)


def test_pdb_conect_chains_models_and_boxes(tmp_path):
    line = lambda serial, name, chain, x: pdb_line(serial, name, "PS1", chain, "1", x)  # noqa: E731
    model = "".join([line("1", " B1", "A", (1, 2, 3)), line("2", " S1", "A", (4, 5, 6)), "TER\n",
                     line("4", " B1", "A", (7, 8, 9)), line("5", " CA", "B", (0, 1, 0))])
    text = ("CRYST1   30.000   40.000   50.000  90.00  90.00  60.00 P 1\nMODEL 1\n" + model + "ENDMDL\n"
            "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1\nMODEL 2\n" + model + "ENDMDL\n"
            "CONECT    1    2    4\nCONECT    2    1\nEND\n")
    source = open_cg(write(tmp_path, "a.pdb", text))
    top = source.topology
    assert top.bead_names == ("B1", "S1", "B1", "CA") and top.chain_of_residue.tolist() == [0, 1, 2]
    assert top.bonds.tolist() == [[0, 1], [0, 2]]
    first, second = source.frames()
    np.testing.assert_allclose(first.positions[0], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(first.box, [[3, 0, 0], [-1, 2 * 3**0.5, 0], [0, 0, 5]], atol=1e-9)
    assert second.box is None


@pytest.mark.parametrize("serials, bonded", [
    (["99998", "99999", "A0000", "A0001"], True), (["*****"] * 4, False),
    (["99999", "    0", "    1", "    0"], False)])
def test_pdb_odd_serial_numbers(tmp_path, serials, bonded):
    text = "".join(pdb_line(s, " B1", "PS1", " ", "1", (k, 0, 0)) for k, s in enumerate(serials))
    text += f"CONECT{serials[1]:>5s}{serials[2]:>5s}\n"
    bonds = open_cg(write(tmp_path, "a.pdb", text)).topology.bonds
    assert (bonds.tolist() == [[1, 2]]) if bonded else bonds is None


@pytest.mark.parametrize("numbers, expected", [
    (["9998", "9999", "A000", "A001"], [9998, 9999, 10000, 10001]),
    (["A00F", "A00G", "A00Z", "A010"], [10015, 10016, 10035, 10036]), (["9999", "****", "****", "****"], [9999])])
def test_pdb_residue_numbers_beyond_9999(tmp_path, numbers, expected):
    text = "".join(pdb_line(str(k + 1), " B1", "STY", "A", n, (k, 0, 0)) for k, n in enumerate(numbers))
    assert open_cg(write(tmp_path, "a.pdb", text)).topology.residue_numbers.tolist() == expected


def test_pdb_frames_that_end_with_end_and_broken_coordinates(tmp_path):
    line = pdb_line("1", " B1", "PS1", "A", "1", (1, 2, 3))
    assert open_cg(write(tmp_path, "a.pdb", line + "END\n" + line)).n_frames == 2
    with pytest.raises(InputError, match="b.pdb"):
        list(open_cg(write(tmp_path, "b.pdb", line.replace("1.000", "x.000"))).frames())


def test_frames_of_other_sizes_are_refused(tmp_path, x):
    path = write(tmp_path, "a.gro", gro_text(x) + gro_text(x[:3]))
    with pytest.raises(InputError, match="holds 3 beads, the topology 4"):
        list(open_cg(path).frames())


def test_positions_that_are_no_numbers_are_told_by_frame(tmp_path, x):
    broken = x.copy()
    broken[2, 1] = np.nan
    source = open_cg(write(tmp_path, "a.gro", "".join(gro_text(each) for each in (x, x, broken, x))))
    assert len(list(source.frames(stride=3))) == 2
    with pytest.raises(InputError, match=r"a.gro: frame 2 \(from 0\) .*not finite, first that of particle 3"):
        list(source.frames(stride=2))


def test_topology_lends_names_to_a_structure(tmp_path, x):
    lines = [pdb_line(str(k), f" X{k}", "PS1", "A", "1", (k, 0, 0)) for k in range(4)]
    names = write(tmp_path, "a.pdb", "".join(lines))
    coordinates = write(tmp_path, "a.gro", gro_text(x))
    source = open_cg(coordinates, names)
    assert source.topology.bead_names == ("X0", "X1", "X2", "X3")
    np.testing.assert_allclose(next(source.frames()).positions, x, atol=0.001)
    with pytest.raises(InputError, match="3 beads, the topology .*a.pdb 4"):
        open_cg(write(tmp_path, "b.gro", gro_text(x[:3])), names)
