"""Divergences, their floor, and the comparison of the published snapshots with what an independent judge finds."""

import importlib.util
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from openmm_backmap.analysis.describe import describe
from openmm_backmap.analysis.divergence import absolute_difference, compare, jensen_shannon
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.internal import stiff_torsions
from openmm_backmap.geometry.periodic import make_whole
from openmm_backmap.io.readers import open_cg
from tests.small_systems import TRICLINIC, small_positions, small_target

SHARED = Path(__file__).resolve().parents[1] / "../shared"
SNAPSHOTS, JUDGE = SHARED / "data/sps568/aa", SHARED / "tools/sps_quality.py"


def ensemble(n, first=1, noise=0.0, target=None, box=TRICLINIC):
    target = target or small_target(3, 2)
    x = np.stack([small_positions(target, first + k) for k in range(n)])
    x += np.random.default_rng(first).normal(scale=noise, size=x.shape)
    return Ensemble(f"from {first}", target, x, None if box is None else np.stack([box] * n), np.arange(n))


@pytest.fixture(scope="module")
def reference():
    return describe(ensemble(8))


def compared(reference, judged, **options):
    return compare(reference, judged, rng=np.random.default_rng(0), **options)


def test_jensen_shannon_of_known_histograms():
    assert jensen_shannon([1, 2, 3], [10, 20, 30]) == pytest.approx(0, abs=1e-15)
    assert jensen_shannon([5, 0], [0, 2]) == pytest.approx(1)
    # p = (1, 0), q = (1/2, 1/2): (log2(4/3) + log2(2/3)/2 + 1/2) / 2
    wanted = (np.log2(4 / 3) + 0.5 * np.log2(2 / 3) + 0.5) / 2
    assert jensen_shannon([4, 0], [3, 3]) == jensen_shannon([3, 3], [4, 0]) == pytest.approx(wanted)
    both = jensen_shannon(np.array([[4, 0], [1, 1]]), np.array([3, 3]))
    assert both == pytest.approx([wanted, 0])
    assert np.isnan(jensen_shannon([0, 0], [1, 1]))


def test_absolute_difference_of_known_histograms():
    assert absolute_difference([5, 0], [0, 2]) == 2
    assert absolute_difference([4, 0], [3, 3]) == 1
    assert absolute_difference([1, 3], [2, 6]) == 0


def test_an_ensemble_does_not_differ_from_itself(reference):
    found = compared(reference, reference)
    assert all(row.divergence == pytest.approx(0, abs=1e-12) for row in found.rows)
    assert found.psi == 0 and found.psi_floor > 0 and not any(row.difference for row in found.radial)
    assert found.n_judged == found.n_reference == 8 and found.reference == "from 1"


def test_the_floor_is_what_structures_of_the_same_kind_score(reference):
    """Other draws of the builder score about the floor, stretched bonds and noise do not."""
    same, noisy = (describe(ensemble(2, 40, noise)) for noise in (0.0, 0.02))
    for kind, name in (("angle", "C_AR-C_AR-C_AR"), ("dihedral", "H_AR-C_AR-C_AR-H_AR"), ("bond", "C_AR-H_AR")):
        row, bad = (next(r for r in compared(reference, d).rows if (r.kind, r.name) == (kind, name))
                    for d in (same, noisy))
        assert 0 < row.floor_sd < row.floor
        assert row.divergence < row.floor + 4 * row.floor_sd < bad.divergence
        assert row.floor == bad.floor and bad.sd > bad.sd_reference


def test_a_larger_judged_set_has_a_lower_floor(reference):
    floors = [compared(reference, reference.take(np.arange(n)), n_splits=40).summary() for n in (1, 2, 4, 8)]
    angle = [f["angle_mean_floor"] for f in floors]
    assert angle[0] > angle[1] > angle[2] and angle[3] == angle[2]
    assert floors[0]["radial_floor"] > floors[2]["radial_floor"] and floors[0]["psi_floor"] > floors[2]["psi_floor"]


def test_one_reference_structure_is_split_by_its_molecules():
    one = describe(ensemble(1, target=small_target(4, 2)))
    found = compared(one, describe(ensemble(1, 9, target=small_target(4, 2)))).summary()
    assert all(found[name] > 0 for name in found if name.endswith("_floor") and "energy" not in name)
    lonely = compared(*(describe(ensemble(1, k, target=small_target(1, 2))) for k in (1, 2)))
    assert lonely.summary()["angle_mean"] > 0 and np.isnan(lonely.summary()["angle_mean_floor"])
    assert np.isnan(lonely.psi_floor) and np.isnan(lonely.radial[0].floor)


def test_means_and_spreads(reference):
    given = ensemble(8)
    pairs = np.array([b for b in given.target.bonds if {given.target.atom_names[k] for k in b} == {"CG", "CD1"}])
    assert len(pairs) == 6
    row = next(r for r in compared(reference, reference).rows if (r.kind, r.name) == ("bond", "C-C_AR"))
    pairs = np.array([b for b in given.target.bonds if {given.target.atom_names[k] for k in b} == {"CG", "CA"}])
    lengths = np.linalg.norm(np.diff(given.positions[:, pairs], axis=2)[:, :, 0], axis=-1)
    assert (row.mean, row.sd) == pytest.approx((lengths.mean(), lengths.std())) and row.unit == "nm"
    trans = next(r for r in compared(reference, reference).rows if r.name == "C_AR-C_AR-C_AR-H_AR")
    # Around 180 degrees, where a plain mean would be anything and the spread about 180.
    assert abs(trans.mean) > 175 and trans.sd < 15


def test_energies_have_the_window_of_the_reference(reference):
    low = reference.energies["angle"].min()
    moved = describe(ensemble(8))
    for shift, divergence in ((0.0, 0.0), (-1e4, 1.0), (np.inf, 1.0)):
        moved.energies["angle"][:] = reference.energies["angle"] + shift
        assert (moved.energies["angle"] < low - 200).all() or shift >= 0
        row = next(r for r in compared(reference, moved).rows if (r.kind, r.name) == ("energy", "angle"))
        assert row.divergence == pytest.approx(divergence)


def test_sides_that_the_reference_does_not_show(reference):
    """Dihedrals in the ring, cis in all of the reference, and trans once a carbon is on the other side."""
    given = ensemble(1, 50)
    assert compared(reference, describe(given)).turned == 0
    members, cis, _ = stiff_torsions(given.target)
    names = np.array(given.target.chemistry.type_classes)[given.target.atom_type[members]]
    a, i, j, b = members[(names == "C_AR").all(axis=1) & cis][0]
    x = given.positions.copy()
    x[0, b] += 2.4 * (x[0, j] - x[0, b] + x[0, i] - x[0, a])
    found = compared(reference, describe(Ensemble("turned", given.target, x, given.boxes, given.frame)))
    assert found.turned >= 1 and found.turnable >= 36
    assert found.summary()["turned"] == found.turned / found.turnable


def test_summary_is_flat_and_ready_for_json(reference):
    numbers = compared(reference, describe(ensemble(2, 20))).summary()
    assert json.loads(json.dumps(numbers)) == numbers
    rows = compared(reference, describe(ensemble(2, 20))).rows
    angles = [row.divergence for row in rows if row.kind == "angle"]
    assert numbers["angle_mean"] == np.mean(angles) and numbers["angle_worst"] == max(angles)
    assert {"lennard_jones_energy", "lennard_jones_energy_floor", "radial", "psi", "improper_worst"} <= set(numbers)


def test_a_kind_that_is_not_there_is_not_in_the_summary():
    octane = build_target(load_chemistry("octane"), [["OCT"]] * 2)
    found = [describe(Ensemble("octane", octane, np.random.default_rng(k).normal(size=(2, octane.n_atoms, 3)), None,
                               np.arange(2))) for k in (0, 1)]
    assert not any(name.startswith("improper_m") for name in compared(*found).summary())
    with pytest.raises(InputError, match="do not have the same molecules"):
        compared(found[0], describe(ensemble(1)))


@pytest.fixture(scope="module")
def judge():
    if not (JUDGE.is_file() and SNAPSHOTS.is_dir()):
        pytest.skip(f"the published snapshots and the judge are not at {SHARED}")
    spec = importlib.util.spec_from_file_location("judge", JUDGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = [sorted(SNAPSHOTS.glob("[0-9]*.gro")), [SNAPSHOTS / "validation_100.gro"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)   # it leaves the closing of its files to Python
        topology = module.Topology(str(SHARED / "data/topology"))
        found = [module.describe([module.Frame(str(file), topology) for file in part], topology) for part in files]
    return SimpleNamespace(files=files, found=found, jsd=module.jsd)


def test_the_published_snapshots_as_an_independent_judge_sees_them(judge):
    """Every distribution; 0.0097, 0.0112, 0.0590 and 0.0110 are what the card of the model states."""
    target = build_target(load_chemistry("sps"), [["STY"] * 10] * 36)
    descriptions = []
    for files in judge.files:
        frames = [next(iter(open_cg(file).frames())) for file in files]
        x = np.stack([make_whole(f.positions, f.box, target.bonds) for f in frames])
        descriptions.append(describe(Ensemble("melt", target, x, np.stack([f.box for f in frames]),
                                              np.arange(len(frames)))))
    assert len(descriptions[0]) == 7
    result, (a, b) = compared(*descriptions), judge.found
    windows = {"bond": (0.08, 0.18, 100), "angle": (60, 180, 120), "dihedral": (-180, 180, 72)}
    wanted = {(kind, name): judge.jsd(a[kind][name], b[kind][name], *windows[kind])
              for kind in windows for name in a[kind]}
    ours = {(row.kind, row.name): row.divergence for row in result.rows if row.kind in windows}
    for key, value in wanted.items():
        # In files of three decimals many bonds are as long as an edge of the judge's bins, where digits decide.
        assert ours[key] == pytest.approx(value, abs=1e-4 if key[0] == "bond" else 1e-6), key
    assert ours.keys() == wanted.keys()
    summary = result.summary()
    for kind in windows:
        mean = np.mean([v for k, v in wanted.items() if k[0] == kind])
        assert summary[f"{kind}_mean"] == pytest.approx(mean, abs=5e-5)
    assert (round(summary["angle_mean"], 4), round(summary["dihedral_mean"], 4)) == (0.0097, 0.0112)
    for description, other in zip(descriptions, judge.found):
        ours = description.energies["lennard-jones"].ravel()
        assert ours.mean() == pytest.approx(other["lj"].mean(), abs=0.1)
        np.testing.assert_allclose(np.sort(ours), np.sort(other["lj"]), atol=0.1)
        assert sum(v.sum() for k, v in description.defects.items()) == 0
    lj = judge.jsd(a["lj"], b["lj"], a["lj"].min() - 200, a["lj"].max() + 400, 30)
    assert summary["lennard_jones_energy"] == pytest.approx(lj, abs=1e-4) == pytest.approx(0.0590, abs=1e-4)
    assert summary["radial"] == pytest.approx(np.abs(a["gr"] - b["gr"])[15:].mean(), rel=1e-2)
    assert round(summary["radial"], 4) == 0.0110
