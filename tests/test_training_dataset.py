"""Snapshots to one file and back, molecules joined, equivalent labels settled."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from small_systems import BOX, small_dataset, small_positions, small_target, write_snapshots

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.environments.local import bead_frames
from openmm_backmap.errors import BackmapError, InputError, MissingDependencyError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.periodic import wrap
from openmm_backmap.geometry.plain import PlainTree, WeightedSums, bonds_apart
from openmm_backmap.io.writers import write_structure
from openmm_backmap.training.dataset import (
    Dataset,
    Frames,
    compile_dataset,
    load_dataset,
    save_dataset,
    with_settled_labels,
)
from openmm_backmap.training.dbm_data import system_energies
from openmm_backmap.training.sources import find_snapshots
from openmm_backmap.training.symmetry import symmetric_copies


def write_molecules(folder, name, monomer, n_frames=1, first_seed=1):
    """``folder`` with snapshots of three molecules of a shipped chemistry of one monomer."""
    target = build_target(load_chemistry(name), [[monomer]] * 3)
    folder.mkdir(parents=True)
    for k in range(n_frames):
        x = small_positions(target, first_seed + k)
        write_structure(folder / f"frame_{k + 1:04d}.gro", target.topology, x, BOX, gro_precision=6)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Files of octane and of cumene, in turn."""
    folder = tmp_path_factory.mktemp("mixed")
    files = [sorted(write_molecules(folder / name, name, monomer, 2).iterdir())
             for name, monomer in (("octane", "OCT"), ("cumene", "CUM"))]
    return [file for pair in zip(*files) for file in pair]


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
        assert np.array_equal(one.boxes, two.boxes) and np.array_equal(one.starts, two.starts)
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


def test_snapshots_all_have_a_box_or_none_and_the_right_chemistry(tmp_path):
    target = small_target(1, 2)
    write_structure(tmp_path / "box.pdb", target.topology, small_positions(target), BOX)
    write_structure(tmp_path / "no_box.pdb", target.topology, small_positions(target), None)
    assert compile_dataset([tmp_path / "no_box.pdb"], load_chemistry("sps")).systems[0].boxes is None
    with pytest.raises(InputError, match="no_box.pdb: no periodic box, while others have one"):
        compile_dataset([tmp_path / "box.pdb", tmp_path / "no_box.pdb"], load_chemistry("sps"))
    with pytest.raises(BackmapError):
        compile_dataset([tmp_path / "no_box.pdb"], load_chemistry("octane"))
    with pytest.raises(InputError, match="no snapshots"):
        compile_dataset([], load_chemistry("sps"))


def write_run(folder, n_frames, seed=1):
    """``folder`` with a trajectory of alanine dipeptide and what names its atoms."""
    target = build_target(load_chemistry("adp"), [["ACE", "ALA", "NME"]])
    folder.mkdir(parents=True)
    x = build_coordinates(target, np.random.default_rng(seed)) + np.random.default_rng(seed).normal(
        scale=0.01, size=(n_frames, target.n_atoms, 3))
    write_structure(folder / "topology.pdb", target.topology, x[0], None)
    write_structure(folder / "trajectory.xtc", target.topology, x, None)
    return x


def test_trajectories_without_a_box_know_where_they_start(tmp_path):
    runs = [write_run(tmp_path / "runs" / f"run_{n}", n, n) for n in (3, 2)]
    write_structure(tmp_path / "one.pdb", build_target(load_chemistry("adp"), [["ACE", "ALA", "NME"]]).topology,
                    runs[0][2], None)
    files = [*find_snapshots([tmp_path / "runs"]), tmp_path / "one.pdb"]
    assert [f.name for f in files] == ["trajectory.xtc"] * 2 + ["one.pdb"]
    (system,) = compile_dataset([files[1], files[0], files[2]], load_chemistry("adp")).systems
    assert system.boxes is None and system.starts.tolist() == [0, 3, 5]
    assert system.positions == pytest.approx(np.concatenate([*runs, runs[0][2:]]), abs=1e-3)
    data = Dataset(system.target.chemistry, (system,))
    save_dataset(data, tmp_path / "data.npz")
    (again,) = load_dataset(tmp_path / "data.npz").systems
    assert again.boxes is None and again.starts.tolist() == [0, 3, 5]
    assert [box for _, box in again.snapshots()] == [None] * 6


def test_a_trajectory_without_names_is_refused(tmp_path):
    write_run(tmp_path / "run", 2)
    (tmp_path / "run" / "topology.pdb").unlink()
    with pytest.raises(InputError, match="trajectory.xtc: a trajectory holds no names.*as topology.pdb"):
        compile_dataset([tmp_path / "run" / "trajectory.xtc"], load_chemistry("adp"))


def test_copies_of_symmetric_molecules_start_anew(tmp_path):
    target = build_target(load_chemistry("tmbt"), [["TMB"]])
    x = build_coordinates(target, np.random.default_rng(1))
    write_structure(tmp_path / "trajectory.xtc", target.topology, np.stack([x, x + 0.01]), BOX * 2)
    write_structure(tmp_path / "topology.pdb", target.topology, x, BOX * 2)
    (system,) = compile_dataset([tmp_path / "trajectory.xtc"], load_chemistry("tmbt")).systems
    assert len(system.positions) == 12 and system.starts.tolist() == [0, 2, 4, 6, 8, 10]
    for first in system.starts:
        assert system.positions[first + 1] - system.positions[first] == pytest.approx(0.01, abs=2e-3)


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


def test_each_snapshot_is_of_the_chemistry_that_has_its_templates(mixed, tmp_path):
    chemistries = [load_chemistry(name) for name in ("sps", "cumene", "octane")]
    told = []
    data = compile_dataset(mixed, chemistries, lambda *words: told.append(words))
    assert [s.target.chemistry.name for s in data.systems] == ["octane", "cumene"]
    assert [len(s.positions) for s in data.systems] == [2, 2] and told[-1] == ("reading", 4, 4)
    # The first that there is anything of, in the order in which they were given.
    assert data.chemistry.name == "cumene" and [c.name for c in data.chemistries] == ["cumene", "octane"]
    save_dataset(data, tmp_path / "both.npz")
    found = load_dataset(tmp_path / "both.npz")
    assert found.chemistries == data.chemistries
    assert [s.target.chemistry.name for s in found.systems] == ["octane", "cumene"]
    for one, two in zip(data.systems, found.systems, strict=True):
        assert one.target.atom_names == two.target.atom_names and np.array_equal(one.positions, two.positions)


def test_files_of_none_or_of_two_chemistries_are_named(mixed):
    octane, cumene, sps = (load_chemistry(name) for name in ("octane", "cumene", "sps"))
    with pytest.raises(InputError, match=r"frame_0001.gro: none of the chemistries sps, cumene has .* \(OCT\)"):
        compile_dataset(mixed[:1], [sps, cumene])
    alike = replace(octane, name="other", source=octane.source + "# mine\n")
    with pytest.raises(InputError, match=r"frame_0001.gro: its residues \(OCT\) are templates of octane and of other"):
        compile_dataset(mixed[:1], [octane, alike])
    with pytest.raises(InputError, match="octane, octane: one is given twice"):
        compile_dataset(mixed[:1], [octane, octane])


def test_energies_lie_in_the_file(dataset, tmp_path):
    energies = system_energies(dataset)
    with_energies = replace(dataset, systems=(replace(dataset.systems[0], energy=energies[0]),))
    save_dataset(with_energies, tmp_path / "data.npz")
    x = torch.as_tensor(dataset.systems[0].positions[0], dtype=torch.float64)
    found = load_dataset(tmp_path / "data.npz").systems[0].energy.terms(x, BOX)
    assert {k: v.item() for k, v in found.items()} == {k: v.item() for k, v in energies[0].terms(x, BOX).items()}
    save_dataset(dataset, tmp_path / "without.npz")
    assert load_dataset(tmp_path / "without.npz").systems[0].energy is None


def test_energies_need_openmm_and_say_so(dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(MissingDependencyError, match="holds no energies, and OpenMM.* compile it with --energies"):
        system_energies(dataset)


def header_of(path):
    with np.load(path) as data:
        return json.loads(str(data["header"])), {k: data[k] for k in data.files if k != "header"}


def test_files_of_earlier_versions_are_read_and_of_a_later_one_refused(dataset, tmp_path):
    save_dataset(dataset, tmp_path / "data.npz")
    header, arrays = header_of(tmp_path / "data.npz")
    arrays = {name: part for name, part in arrays.items() if not name.startswith("starts")}
    np.savez(tmp_path / "second.npz", header=np.array(json.dumps({**header, "version": 2})), **arrays)
    assert load_dataset(tmp_path / "second.npz").systems[0].starts.tolist() == [0, 1, 2]
    (chemistry,) = header["chemistries"]
    first = {"chemistry": chemistry["source"], "force_field": chemistry["force_field"],
             "chains": [s["chains"] for s in header["systems"]]}
    np.savez(tmp_path / "first.npz", header=np.array(json.dumps(first)), **arrays)
    found = load_dataset(tmp_path / "first.npz")
    assert found.chemistry == dataset.chemistry
    assert np.array_equal(found.systems[0].positions, dataset.systems[0].positions)
    np.savez(tmp_path / "later.npz", header=np.array(json.dumps({**header, "version": 99})), **arrays)
    with pytest.raises(InputError, match="later.npz: format version 99, this package reads 3; upgrade"):
        load_dataset(tmp_path / "later.npz")


def test_numpy_stands_in_for_scipy_in_targets():
    target = small_target(2, 3)
    x, entries = small_positions(target), target.mapping.tocoo()
    sums = WeightedSums(entries.row, entries.col, entries.data, entries.shape)
    assert sums @ x == pytest.approx(target.mapping @ x, abs=1e-12)
    both = WeightedSums.block_diagonal([sums, sums])
    assert both.shape == (2 * target.n_beads, 2 * target.n_atoms)
    assert both @ np.concatenate([x, x + 1]) == pytest.approx(np.concatenate([sums @ x, sums @ (x + 1)]), abs=1e-12)
    for found, wanted in zip(bonds_apart(target.n_atoms, target.bonds, 4), target.graph_pairs(4), strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("boxsize", [None, np.array([2.0, 2.5, 3.0])])
def test_numpy_stands_in_for_scipy_in_searches(boxsize, monkeypatch):
    monkeypatch.setattr("openmm_backmap.geometry.plain._BLOCK", 1000)  # several blocks
    rng = np.random.default_rng(1)
    a, b = (rng.random((n, 3)) * (2.0, 2.5, 3.0) for n in (80, 120))
    pairs = [{(i, j) for i, j in kind(b, boxsize=boxsize).query_pairs(0.5, output_type="ndarray").tolist()}
             for kind in (PlainTree, cKDTree)]
    assert pairs[0] == pairs[1] and len(pairs[0]) > 50
    if boxsize is None:
        for found, wanted in zip(PlainTree(b).query(a, 5, 0.4), cKDTree(b).query(a, 5, distance_upper_bound=0.4)):
            assert np.array_equal(found, wanted) or np.allclose(found, wanted)
        records = [kind(a).sparse_distance_matrix(kind(b), 0.4, output_type="ndarray") for kind in (PlainTree, cKDTree)]
        found, wanted = ({(r["i"], r["j"]): r["v"] for r in part} for part in records)
        assert found == pytest.approx(wanted) and len(found) > 50


@pytest.mark.parametrize("module, torch_too", [("openmm_backmap", False), ("openmm_backmap.training.dataset", True)])
def test_imports_need_no_more_than_torch_and_numpy(module, torch_too):
    absent = ("openmm", "mdtraj", "parmed", "scipy", "networkx", "yaml", "matplotlib", "sklearn")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import {module}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(torch_too)


# --- symmetric molecules ----------------------------------------------------------------------------------------------

def test_a_molecule_of_three_alike_arms_is_seen_under_six_names():
    target = build_target(load_chemistry("tmbt"), (("TMB",), ("TMB",)))
    x = np.random.default_rng(0).normal(size=(1, target.n_atoms, 3))
    copies = symmetric_copies(target, x)
    assert len(copies) == 6 and (copies[0] == x).all()
    assert len({c[0, :, 0].tobytes() for c in copies}) == 6
    i, j = target.bonds.T
    lengths = [np.linalg.norm(c[0, i] - c[0, j], axis=1) for c in copies]
    beads = [target.mapping @ c[0] for c in copies]
    for length, bead in zip(lengths[1:], beads[1:]):
        assert np.sort(length) == pytest.approx(np.sort(lengths[0]))
        # The centres stay, the arms change places.
        assert bead[[0, 7]] == pytest.approx(beads[0][[0, 7]]) and not np.allclose(bead, beads[0])
        assert np.sort(bead, axis=0) == pytest.approx(np.sort(beads[0], axis=0))


@pytest.mark.parametrize(("name", "chain"), [("sps", ("STY",) * 3), ("octane", ("OCT",)), ("cumene", ("CUM",))])
def test_molecules_without_such_symmetry_are_seen_once(name, chain):
    target = build_target(load_chemistry(name), (chain,))
    assert len(symmetric_copies(target, np.zeros((1, target.n_atoms, 3)))) == 1
