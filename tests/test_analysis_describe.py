"""Descriptions: additive, complete, kept in files; and what they refuse."""

import warnings

import numpy as np
import pytest

from openmm_backmap.analysis.describe import WINDOWS, Description, describe
from openmm_backmap.analysis.energies import ENERGIES
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.kept import keep
from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.internal import angles_of, bond_angles, by_type, dihedral_angles, dihedrals_of
from tests.small_systems import BOX, TRICLINIC, small_positions, small_target


def ensemble(n=3, target=None, box=TRICLINIC, beads=False):
    target = target or small_target(3, 2)
    x = np.stack([small_positions(target, k + 1) for k in range(n)])
    return Ensemble("some", target, x, None if box is None else np.stack([box] * n), np.arange(n),
                    mapped(target, x) + [0.03, 0, 0.04] if beads else None)


@pytest.fixture(scope="module")
def given():
    return ensemble(beads=True)


@pytest.fixture(scope="module")
def described(given):
    return describe(given)


def leaves(value, path=""):
    """All arrays of a description, by where they are."""
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in leaves(inner, f"{path}/{name}").items()}
    return {path: value}


def tables(description):
    names = ("histograms", "moments", "radial", "radial_density", "energies", "defects")
    return leaves({name: getattr(description, name) for name in names})


def test_a_structure_is_described_alike_alone_and_among_others(given, described):
    for k in (0, 2):
        alone = tables(describe(given.take([k])))
        for name, array in tables(described.take([k])).items():
            np.testing.assert_allclose(alone[name], array, rtol=1e-9, err_msg=name)


def test_histograms_hold_every_value_once(given, described):
    target = given.target
    kinds = (("angle", angles_of, bond_angles, 1), ("dihedral", dihedrals_of, dihedral_angles, 2))
    for kind, members, measure, sums in kinds:
        for name, rows in by_type(target, members(target)).items():
            values = measure(given.positions[1][rows])
            counts, _ = np.histogram(values, WINDOWS[kind][2], WINDOWS[kind][:2])
            found = described.histograms[kind][name][1]
            np.testing.assert_array_equal(found, [*counts, 0])
            assert found.sum() == len(rows)
            n, first, second = described.moments[kind][name][1]
            angle = np.radians(values)
            wanted = (values.sum(), (values ** 2).sum()) if sums == 1 else (np.cos(angle).sum(), np.sin(angle).sum())
            assert n == len(rows) and (first, second) == pytest.approx(wanted)


def test_values_outside_of_a_window_count_in_the_last_bin(given):
    x = given.positions.copy()
    x[0, given.target.atom_names.index("H1")] += [0.6, 0, 0]
    found = describe(Ensemble("stretched", given.target, x, given.boxes, given.frame)).histograms["bond"]
    assert [found["C-H"][k, -1] for k in range(3)] == [1, 0, 0]
    assert not found["C-C"][:, -1].any()


def test_constrained_bonds_fall_into_one_bin(given):
    """0.110 nm give or take the tolerance of constraints: a length that is an edge of bins of whole picometres."""
    x, h1 = np.repeat(given.positions[:1], 4, axis=0), given.target.atom_names.index("H1")
    bond = x[0, h1] - x[0, 1]
    for k, length in enumerate((0.109999, 0.11, 0.110001, 0.1105)):
        x[k, h1] = x[k, 1] + bond * length / np.linalg.norm(bond)
    counts = describe(Ensemble("constrained", given.target, x, None, np.arange(4))).histograms["bond"]["C-H"]
    assert (counts == counts[3]).all()


def test_half_turns_stay_in_the_window(given):
    """180 degrees, and -180, to the last digit: planar zigzags."""
    target = build_target(load_chemistry("octane"), [["OCT"]])
    k = np.arange(target.n_atoms)
    x = np.stack([0.1 * k, 0.08 * (k % 2), 0 * k], axis=1)[None]
    found = describe(Ensemble("flat", target, x, None, np.zeros(1, dtype=int))).histograms["dihedral"]
    assert not any(counts[:, -1].any() for counts in found.values())


def test_energies_defects_and_beads_by_structure(given, described):
    assert set(described.energies) == set(ENERGIES)
    assert described.energies["angle"].shape == (3, 3) and len(described) == 3
    assert described.bead_rmsd == pytest.approx(0.05)
    assert described.defects["inverted centres"].tolist() == [0, 0, 0]
    assert described.opportunities["inverted centres"] == len(given.target.stereo)
    mirrored = Ensemble("mirrored", given.target, given.positions * [1, -1, 1], None, given.frame)
    found = describe(mirrored)
    assert found.defects["inverted centres"].tolist() == [len(given.target.stereo)] * 3 and found.bead_rmsd is None


@pytest.mark.parametrize("index", [[1], [2, 0], np.array([True, False, True]), 1])
def test_parts(described, index):
    part = described.take(index)
    wanted = np.arange(3)[np.atleast_1d(index)]
    assert len(part) == len(wanted)
    for name, array in tables(described).items():
        np.testing.assert_array_equal(tables(part)[name], array[wanted], err_msg=name)


def test_one_structure_comes_by_its_molecules_too(given, described):
    alone = describe(given.take([1]))
    parts = alone.molecular
    assert described.molecular is None and len(parts) == 3
    for name, array in tables(alone).items():
        if name.startswith(("/histograms", "/moments", "/radial")):
            np.testing.assert_allclose(tables(parts)[name].sum(axis=0), array[0], rtol=1e-12, err_msg=name)
    for name, energies in parts.energies.items():
        np.testing.assert_array_equal(np.isnan(energies), ~np.eye(3, dtype=bool))
        np.testing.assert_array_equal(np.diag(energies), alone.energies[name][0])


def test_many_molecules_are_split_into_few_groups():
    target = build_target(load_chemistry("octane"), [["OCT"]] * 90)
    x = np.random.default_rng(0).normal(size=(1, target.n_atoms, 3)) + target.molecule_of_atom[:, None] * 3.0
    parts = describe(Ensemble("many", target, x, None, np.zeros(1, dtype=int))).molecular
    assert len(parts) == 40
    assert (~np.isnan(parts.energies["angle"])).sum(axis=0).tolist() == [1] * 90


@pytest.mark.parametrize("n", [1, 3])
def test_files(given, described, tmp_path, n):
    saved = describe(given.take([0])) if n == 1 else described
    saved.save(tmp_path / "some.npz")
    loaded = Description.load(tmp_path / "some.npz")
    assert loaded.name == "some" and loaded.opportunities == saved.opportunities
    for one, other in ((saved, loaded), (saved.molecular, loaded.molecular)) if n == 1 else ((saved, loaded),):
        assert set(tables(one)) == set(tables(other))
        for name, array in {**tables(one), **leaves(one.edges)}.items():
            np.testing.assert_array_equal({**tables(other), **leaves(other.edges)}[name], array)
    np.testing.assert_array_equal(loaded.bead_rmsd, saved.bead_rmsd)


def test_names_of_types_may_hold_anything(described, tmp_path):
    counts = described.histograms["bond"]["C-C"]
    odd = {**described.histograms, "bond": {"N*-C/O2'": counts}}
    Description(**{**vars(described), "histograms": odd}).save(tmp_path / "odd.npz")
    assert list(Description.load(tmp_path / "odd.npz").histograms["bond"]) == ["N*-C/O2'"]


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    keep(tmp_path / "list.npz", [1, 2])
    for name, message in (("text", "damaged"), ("other", "another version"), ("none", "damaged"), ("list", "a list")):
        with pytest.raises(InputError, match=f"{name}.npz: .*{message}"):
            Description.load(tmp_path / f"{name}.npz")


def test_what_is_refused(given):
    bad = given.positions.copy()
    bad[1, 3, 2] = np.nan
    for positions, boxes, message in ((bad, given.boxes, "not finite"), (bad[:0], given.boxes[:0], "no structures"),
                                      (given.positions, given.boxes * 0.5, "cutoff of 1 nm")):
        with pytest.raises(InputError, match=message):
            describe(Ensemble("bad", given.target, positions, boxes, np.arange(len(positions))))


def test_random_places_are_described_without_a_warning():
    target = small_target(2, 2)
    x = np.random.default_rng(0).uniform(0, 0.3, (2, target.n_atoms, 3))
    x[1] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = describe(Ensemble("random", target, x, np.stack([BOX] * 2), np.arange(2)))
    assert not any(np.isnan(array).any() for array in tables(found).values())
    assert found.histograms["bond"]["C-C"][1, -1] == 6 and found.defects["close contacts"].min() > 0


def test_progress_is_told(given):
    told = []
    describe(given, lambda stage, done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
