"""Atomistic files of a chemistry, with residues by template or a whole chain in one residue."""

from pathlib import Path

import numpy as np
import pytest
from small_systems import BOX, TRICLINIC, small_positions, small_target

from openmm_backmap.chemistry import build_target, load_chemistry, parse_aliases
from openmm_backmap.errors import ChemistryError, InputError
from openmm_backmap.geometry.checks import mapping_rmsd
from openmm_backmap.geometry.periodic import wrap
from openmm_backmap.io.atomistic import find_files, open_atoms
from openmm_backmap.io.readers import open_cg
from openmm_backmap.io.writers import write_structure

SHARED = Path("/work/shared/data")


@pytest.fixture(scope="module")
def sps():
    return load_chemistry("sps")


@pytest.fixture(scope="module")
def target():
    return small_target(3, 3)


def write_by_template(path, target, positions, box=BOX, precision=6):
    write_structure(path, target.topology, positions, box, gro_precision=precision)
    return path


def write_by_chain(path, target, positions, box=BOX, residue="PS1", names=None):
    """One residue a molecule, atoms numbered through: as other programs write polymers."""
    names = names or [f"{element}{i + 1}" for m in range(len(target.chains)) for i, element in enumerate(
        np.array(target.elements)[target.molecule_of_atom == m])]
    lines = ["whole chains", f"{target.n_atoms:5d}"]
    lines += [f"{m + 1:5d}{residue:<5s}{name:>5s}{i + 1:5d}" + "".join(f"{v:12.7f}" for v in x)
              for i, (m, name, x) in enumerate(zip(target.molecule_of_atom, names, positions, strict=True))]
    order = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    path.write_text("\n".join([*lines, " ".join(f"{box[k]:.7f}" for k in order)]) + "\n")
    return path


@pytest.mark.parametrize("write", [write_by_template, write_by_chain])
def test_broken_molecules_in_a_triclinic_box_are_made_whole(tmp_path, sps, target, write):
    whole = small_positions(target) + [0.0, 0.0, 1.3]
    broken = wrap(whole, TRICLINIC)
    assert np.linalg.norm(np.diff(broken[target.bonds], axis=1), axis=-1).max() > 1
    file = write(tmp_path / "a.gro", target, broken, TRICLINIC)
    read = open_atoms([file], sps)
    assert read.target.chains == target.chains and read.files == (file,)
    assert read.positions.shape == (1, target.n_atoms, 3)
    moved = read.positions[0] - whole
    per_molecule = np.array([np.ptp(moved[target.molecule_of_atom == m], axis=0).max() for m in range(3)])
    assert per_molecule.max() < 1e-5


def test_the_length_of_a_chain_follows_from_its_atoms(tmp_path, sps):
    mixed = build_target(sps, [["STY"] * 2, ["STY"] * 4])
    file = write_by_chain(tmp_path / "a.gro", mixed, small_positions(mixed))
    assert [len(chain) for chain in open_atoms([file], sps).target.chains] == [2, 4]


def test_small_molecules_under_another_name(tmp_path):
    octane = load_chemistry("octane")
    liquid = build_target(octane, [["OCT"]] * 2)
    x = np.zeros((liquid.n_atoms, 3))
    x[:, 0] = np.arange(liquid.n_atoms) * 0.001 + 0.5 * liquid.molecule_of_atom
    file = write_by_chain(tmp_path / "a.gro", liquid, x, residue="L49C")
    assert len(open_atoms([file], octane).target.chains) == 2


def test_folders_patterns_and_order(tmp_path, sps, target):
    for k in (2, 10, 1):
        write_by_template(tmp_path / f"frame_{k}.gro", target, small_positions(target, seed=k))
    (tmp_path / "notes.txt").write_text("no structure")
    read = open_atoms([tmp_path], sps)
    assert [file.name for file in read.files] == ["frame_1.gro", "frame_2.gro", "frame_10.gro"]
    assert [f.name for f in find_files([tmp_path / "frame_1*.gro"])] == ["frame_1.gro", "frame_10.gro"]
    assert np.abs(read.positions[2] - small_positions(target, seed=10)).max() < 1e-5


@pytest.mark.parametrize("ending", [".xtc", ".dcd", ".trr"])
def test_trajectories_take_their_names_from_a_topology(tmp_path, sps, target, ending):
    frames = np.stack([small_positions(target, seed=k) for k in (1, 2)])
    named = write_by_template(tmp_path / "names.gro", target, frames[0])
    write_structure(tmp_path / f"run{ending}", target.topology, frames, BOX)
    read = open_atoms([tmp_path / f"run{ending}"], sps, topology=named)
    assert np.abs(read.positions - frames).max() < 2e-3
    with pytest.raises(InputError, match="holds no names"):
        open_atoms([tmp_path / f"run{ending}"], sps)


def test_a_residue_by_another_name_needs_an_alias(tmp_path, sps, target):
    file = write_by_chain(tmp_path / "a.gro", target, small_positions(target), residue="POL")
    with pytest.raises(ChemistryError, match=r"a.gro: residue POL 1 is neither a template \(SPE, SPH, SPM, SPT\)"):
        open_atoms([file], sps)
    assert open_atoms([file], sps, aliases=parse_aliases(["POL=PS1"])).target.chains == target.chains


def test_a_chain_of_no_length_is_named(tmp_path, sps, target):
    file = write_by_chain(tmp_path / "a.gro", target, small_positions(target))
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], str(target.n_atoms - 1), *lines[2:-2], lines[-1]]) + "\n")
    with pytest.raises(ChemistryError, match="a.gro: residue PS1 3 holds 49 atoms; no chain"):
        open_atoms([file], sps)


def test_atoms_in_another_order_are_named(tmp_path, sps, target):
    names = [f"{element}1" for element in target.elements]
    names[3], names[4] = names[4], names[3]
    file = write_by_chain(tmp_path / "a.gro", target, small_positions(target), names=names)
    with pytest.raises(ChemistryError, match="a.gro: residue PS1 1: its atom 4 is C1, where the chemistry sps has H"):
        open_atoms([file], sps)


def test_atoms_of_the_right_elements_in_the_wrong_places_are_refused(tmp_path, sps, target):
    x = small_positions(target)
    carbons = np.flatnonzero(np.array(target.elements) == "C")
    x[carbons] = x[np.roll(carbons, 9)]
    file = write_by_chain(tmp_path / "a.gro", target, x)
    with pytest.raises(InputError, match=r"a.gro: C\d+ of residue PS1 \d and \w+ of residue PS1 \d should be bonded"):
        open_atoms([file], sps)
    with pytest.raises(InputError, match="should be bonded"):
        open_atoms([file], sps, strict=False)


def test_bad_structures_may_be_read_for_judging(tmp_path, sps, target):
    x = small_positions(target)
    x[10] += 0.3
    file = write_by_template(tmp_path / "a.gro", target, x)
    with pytest.raises(InputError, match="should be bonded"):
        open_atoms([file], sps)
    assert len(open_atoms([file], sps, strict=False)) == 1


def test_one_system_at_a_time(tmp_path, sps, target):
    other = small_target(2, 3)
    a = write_by_template(tmp_path / "a.gro", target, small_positions(target))
    b = write_by_template(tmp_path / "b.gro", other, small_positions(other))
    with pytest.raises(InputError, match="b.gro: holds 2 molecules of 100 atoms in all, .*a.gro 3 molecules"):
        open_atoms([a, b], sps)


@pytest.mark.parametrize("words, message", [
    (["nosuch.gro"], "nosuch.gro: no such file"), (["nosuch*.gro"], "no such file"), (["."], "no structures in this")])
def test_what_is_not_there(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        find_files(words)


def test_a_file_given_twice(tmp_path, sps, target):
    file = write_by_template(tmp_path / "a.gro", target, small_positions(target))
    with pytest.raises(InputError, match="given twice"):
        find_files([file, tmp_path])


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared measuring data")
@pytest.mark.parametrize("chemistry, folder", [("sps", "sps568"), ("octane", "octane350"), ("cumene", "cumene350")])
def test_published_snapshots_have_the_beads_of_their_coarse_grained_files(chemistry, folder):
    from openmm_backmap.chemistry import match_beads

    chemistry = load_chemistry(chemistry)
    files = sorted((SHARED / folder / "aa").iterdir())[:2]
    read = open_atoms(files, chemistry)
    for k, file in enumerate(read.files):
        source = open_cg(SHARED / folder / "cg" / file.name)
        frame = next(source.frames())
        match = match_beads(chemistry, source.topology, frame.positions, frame.box)
        beads = frame.positions[match.bead_index]
        assert mapping_rmsd(read.target, read.positions[k], beads, frame.box) < 0.001
