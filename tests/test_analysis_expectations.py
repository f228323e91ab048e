"""What a force field expects of bonds and angles, against numbers worked out by hand and structures made wrong."""

import numpy as np
import openmm as mm
import pytest
from small_systems import small_positions, small_target

from openmm_backmap import chemistry
from openmm_backmap.analysis.expectations import expectations
from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.geometry.builder import build_coordinates

KT = 8.314462618e-3 * 568


@pytest.fixture(scope="module")
def target():
    return small_target()


@pytest.fixture(scope="module")
def positions(target):
    return np.stack([small_positions(target, seed) for seed in (1, 2)])


def named(found, kind, name):
    return next(e for e in found if (e.kind, e.name) == (kind, name))


def test_an_angle_has_the_rest_value_and_spread_of_its_term(target, positions):
    """Force field: C-C-C 111 degrees, 530.3 kJ/mol/rad^2."""
    angle = named(expectations(target, positions, 568)[0], "angle", "C-C-C")
    assert angle.mean == pytest.approx(111, abs=1e-3)
    assert angle.spread == pytest.approx(np.degrees(np.sqrt(KT / 530.3)))
    assert angle.unit == "degrees" and angle.values.size == 2 * 12  # 3 chains of 6 backbone carbons, 2 samples
    assert angle.difference == pytest.approx((angle.values.mean() - angle.mean) / angle.spread)


def test_the_spread_grows_with_the_root_of_the_temperature(target, positions):
    cold, hot = (named(expectations(target, positions, t)[0], "angle", "C-C-H").spread for t in (142, 568))
    assert hot == pytest.approx(2 * cold)


def test_constrained_bonds_have_no_spread_and_must_be_met(target):
    exact = build_coordinates(target, np.random.default_rng(1))
    found = [e for e in expectations(target, exact[None], 568)[0] if e.kind == "bond"]
    assert {e.name for e in found} == {"C-C", "C-C_AR", "C-H", "C_AR-C_AR", "C_AR-H_AR"}
    assert all(e.spread == 0 and e.difference is None and not e.remarks for e in found)
    assert named(found, "bond", "C-H").mean == pytest.approx(0.11)
    longer = exact.copy()
    hydrogen = target.atom_names.index("HA")
    carbon = target.bonds[(target.bonds == hydrogen).any(axis=1)].sum() - hydrogen
    longer[hydrogen] += 0.05 * (exact[hydrogen] - exact[carbon])
    stretched = named(expectations(target, longer[None], 568)[0], "bond", "C-H")
    assert stretched.remarks == ("1 off by more than 0.002 nm",)


def test_flexible_bonds_have_the_spread_of_their_term(positions):
    octane = load_chemistry("octane")
    target = build_target(octane, [list(octane.monomers)] * 2)
    found, ignored = expectations(target, np.zeros((1, target.n_atoms, 3)) + np.arange(target.n_atoms)[:, None], 350)
    assert named(found, "bond", "C-C").spread > 0.003
    assert len(ignored) == 1 and "Urey-Bradley" in ignored[0]  # between atoms two bonds apart: no bond


def test_planes_of_rings_are_impropers_around_zero(target, positions):
    plane = named(expectations(target, positions, 568)[0], "improper", "C_AR-C_AR-C_AR-C_AR")
    assert plane.mean == 0 and plane.spread == pytest.approx(np.degrees(np.sqrt(KT / 167.4)))
    assert np.abs(plane.values).max() < 30  # as differences from the plane, whichever way round


def test_a_minimum_is_too_narrow_and_a_cold_run_too_broad(target, positions):
    at_rest = build_coordinates(target, np.random.default_rng(1))
    hot = named(expectations(target, at_rest[None], 568)[0], "angle", "C_AR-C_AR-H_AR")
    cold = named(expectations(target, positions, 1)[0], "angle", "C_AR-C_AR-H_AR")
    assert hot.remarks == ("too narrow",)
    assert "too broad" in cold.remarks and any("beyond 5 spreads" in word for word in cold.remarks)


def test_a_shifted_mean_is_remarked(target, positions):
    """Hydrogens of one methylene pushed towards each other."""
    found, _ = expectations(target, positions, 568)
    assert "mean is off" not in named(found, "angle", "H-C-H").remarks
    pinched = positions.copy()
    names = np.array(target.atom_names)
    left, right = (np.flatnonzero(names == name) for name in ("HB1", "HB2"))
    middle = (pinched[:, left] + pinched[:, right]) / 2
    for side in (left, right):
        pinched[:, side] = middle + 0.6 * (pinched[:, side] - middle)
    assert "mean is off" in named(expectations(target, pinched, 568)[0], "angle", "H-C-H").remarks


def test_other_forces_on_angles_are_named(target, positions, monkeypatch):
    system = chemistry.create_system(target, None)
    extra = mm.CustomAngleForce("theta^4")
    extra.setName("MyAngles")
    system.addForce(extra)
    system.addForce(mm.CMMotionRemover())
    monkeypatch.setattr(chemistry, "create_system", lambda target, box: system)
    assert expectations(target, positions, 568)[1] == ["MyAngles"]
