"""Snapshots to one file and back, molecules joined, equivalent labels settled."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from small_systems import BOX, small_dataset, small_positions, small_target, write_snapshots

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.environments.local import bead_frames
from openmm_backmap.errors import BackmapError, InputError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.periodic import wrap
from openmm_backmap.io.writers import write_structure
from openmm_backmap.training.dataset import (
    Dataset,
    Frames,
    compile_dataset,
    load_dataset,
    save_dataset,
    with_settled_labels,
)


@pytest.fixture(scope="module")
def dataset():
    return small_dataset(3)


def test_a_file_gives_back_what_was_saved(dataset, tmp_path):
    other = small_dataset(1, target=small_target(1, 2))
    both = Dataset(dataset.chemistry, dataset.systems + other.systems)
    save_dataset(both, tmp_path / "data.npz")
    found = load_dataset(tmp_path / "data.npz")
    assert found.chemistry.source == dataset.chemistry.source
    assert found.n_frames == 4 and found.n_beads == 3 * 12 + 4
    for one, two in zip(both.systems, found.systems, strict=True):
        assert one.target.chains == two.target.chains
        assert np.array_equal(one.positions, two.positions) and one.positions.dtype == two.positions.dtype
        assert np.array_equal(one.boxes, two.boxes)
    assert [p.name for p in tmp_path.iterdir()] == ["data.npz"]


def damaged(kind, path):
    if kind == "text":
        path.write_text("no arrays at all")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif kind == "pickled header":
        np.savez(path, header=np.array({"a": 1}, dtype=object))
    elif kind == "other arrays":
        np.savez(path, x=np.zeros(3))
    elif kind == "other header":
        np.savez(path, header=np.array("[1, 2]"))
    elif kind == "cut":
        save_dataset(small_dataset(1, target=small_target(1, 2)), path)
        path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize("kind", [
    "text", "empty", "one array", "pickle", "pickled header", "other arrays", "other header", "cut"])
def test_other_files_are_refused(tmp_path, kind):
    damaged(kind, tmp_path / "data.npz")
    with pytest.raises(InputError, match="data.npz: not a compiled data set"):
        load_dataset(tmp_path / "data.npz")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="none.npz"):
        load_dataset(tmp_path / "none.npz")


def test_broken_molecules_are_joined(tmp_path):
    target = small_target(2, 3)
    whole = small_positions(target)
    for k, x in enumerate([wrap(whole, BOX), wrap(whole + 1.0, BOX)]):
        write_structure(tmp_path / f"frame_{k}.gro", target.topology, x, BOX, gro_precision=6)
    data = compile_dataset(sorted(tmp_path.glob("*.gro")), load_chemistry("sps"))
    (system,) = data.systems
    assert system.positions.shape == (2, target.n_atoms, 3) and system.boxes == pytest.approx(np.stack([BOX] * 2))
    i, j = target.bonds.T
    for x in system.positions:
        assert x[i] - x[j] == pytest.approx(whole[i] - whole[j], abs=1e-5)


def test_snapshots_of_other_chains_are_systems_of_their_own(tmp_path):
    write_snapshots(tmp_path / "a", 2)
    single = small_target(1, 2)
    write_structure(tmp_path / "b.gro", single.topology, small_positions(single), BOX, gro_precision=6)
    files = [*sorted((tmp_path / "a").iterdir()), tmp_path / "b.gro"]
    data = compile_dataset(files, load_chemistry("sps"))
    assert [len(s.positions) for s in data.systems] == [2, 1] and data.n_frames == 3


def test_snapshots_need_a_box_and_the_right_chemistry(tmp_path):
    target = small_target(1, 2)
    write_structure(tmp_path / "no_box.pdb", target.topology, small_positions(target), None)
    with pytest.raises(InputError, match="no_box.pdb: no periodic box"):
        compile_dataset([tmp_path / "no_box.pdb"], load_chemistry("sps"))
    with pytest.raises(BackmapError):
        compile_dataset([tmp_path / "no_box.pdb"], load_chemistry("octane"))
    with pytest.raises(InputError, match="no snapshots"):
        compile_dataset([], load_chemistry("sps"))


def lines(system):
    """For each frame and swap, the line between the two labels in the frame of their bead; and the kind of the swap."""
    target = system.target
    a, b = (np.array([pair[k][0] for pair in target.swaps]) for k in (0, 1))
    bead = target.bead_of_atom[a]
    kinds = np.array([target.atom_names[i] for i in a])
    found = []
    for x, box in zip(system.positions.astype(float), system.boxes):
        frame = bead_frames(target, target.mapping @ x, box)
        found.append(np.einsum("mki,mi->mk", frame[bead], x[a] - x[b]))
    return np.array(found), kinds


def settled(dataset):
    return with_settled_labels(dataset).systems[0]


def swapped_at_random(dataset, seed=0):
    system, rng = dataset.systems[0], np.random.default_rng(seed)
    positions = system.positions.copy()
    for x in positions:
        for a, b in system.target.swaps:
            if rng.random() < 0.5:
                x[np.r_[a, b]] = x[np.r_[b, a]]
    return Dataset(dataset.chemistry, (replace(system, positions=positions),))


def test_settled_labels_point_one_way(dataset):
    vectors, kinds = lines(settled(swapped_at_random(dataset)))
    assert set(kinds) == {"HB1", "CD1"}
    for kind in set(kinds):
        v = vectors[:, kinds == kind].reshape(-1, 3)
        axis = np.linalg.eigh(v.T @ v)[1][:, -1]
        along = v @ axis
        assert (along > 0).all() or (along < 0).all()


def test_settling_twice_changes_nothing_more(dataset):
    once = with_settled_labels(dataset)
    assert np.array_equal(once.systems[0].positions, settled(once).positions)


@pytest.mark.parametrize("seed", [0, 1])
def test_settling_forgets_how_labels_were_given(dataset, seed):
    shuffled = swapped_at_random(dataset, seed)
    assert not np.array_equal(shuffled.systems[0].positions, dataset.systems[0].positions)
    assert np.array_equal(settled(shuffled).positions, settled(dataset).positions)


def test_settling_moves_no_bead_and_only_labels(dataset):
    before, after = dataset.systems[0], settled(swapped_at_random(dataset))
    mapping = before.target.mapping
    for x, y in zip(before.positions.astype(float), after.positions.astype(float)):
        assert mapping @ y == pytest.approx(mapping @ x, abs=1e-6)
        assert np.array_equal(x[np.lexsort(x.T)], y[np.lexsort(y.T)])


def test_chemistries_without_equivalent_labels_are_left_alone():
    target = replace(small_target(1, 2), swaps=())
    data = small_dataset(1, target=target)
    assert settled(data) is data.systems[0]


def test_methyl_labels_settle_too():
    """Swaps that share an atom: bead positions stay."""
    chemistry = load_chemistry("octane")
    target = build_target(chemistry, [["OCT"]] * 2)
    x = np.stack([build_coordinates(target, np.random.default_rng(k)) for k in range(4)]).astype(np.float32)
    data = Dataset(chemistry, (Frames(target, x, np.stack([BOX] * 4)),))
    after = settled(data)
    for old, new in zip(x.astype(float), after.positions.astype(float)):
        assert target.mapping @ new == pytest.approx(target.mapping @ old, abs=1e-6)
