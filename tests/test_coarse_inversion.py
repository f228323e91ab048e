"""Boltzmann inversion: potentials that are known come out again, and corrections go the right way."""

import numpy as np
import pytest
from coarse_systems import BOX, beads_of, molecules

from openmm_backmap.coarse.distributions import Distributions, axes_of, divergence, edges_of, measure, sampling_floor
from openmm_backmap.coarse.graph import bead_masses, bead_pairs, bonded_terms, pair_names
from openmm_backmap.coarse.inversion import extended, first_term, pressure_corrected, updated_term
from openmm_backmap.coarse.model import Term

KT = 2.9
X = {"bond A-B": 0.002 * np.arange(301), "angle A-B-B": 2.0 * np.arange(91),
     "dihedral B-A-B-B": np.arange(-180, 180, 5.0), "improper A-B-B-B": np.arange(-180, 180, 2.0),
     "pair A-B": 0.01 * np.arange(121)}
ENERGY = {"bond A-B": lambda x: 5000 * (x - 0.3) ** 2,
          "angle A-B-B": lambda x: 0.004 * (x - 165) ** 2,
          "dihedral B-A-B-B": lambda x: 3 * (1 + np.cos(2 * np.radians(x))),
          "improper A-B-B-B": lambda x: 0.02 * x ** 2,
          "pair A-B": lambda x: 10 * np.exp(-x / 0.3) - 4 * np.exp(-((x - 0.6) / 0.1) ** 2) - 10 * np.exp(-4)}
VOLUME = {"bond": lambda x: x ** 2, "angle": lambda x: np.sin(np.radians(x)), "pair": lambda x: x ** 2}


def sampled(name: str, n: float, energy=None) -> Distributions:
    """What ``n`` samples (a pair: so many at each distance, by volume) under ``energy`` are on average."""
    kind, x = name.split()[0], X[name]
    edges = edges_of(kind, x)
    fine = edges[:-1, None] + np.diff(edges)[:, None] * (np.arange(20) + 0.5) / 20
    weight = VOLUME.get(kind, np.ones_like)(fine) * np.exp(-(energy or ENERGY[name])(fine) / KT)
    counts = weight.mean(axis=1) * np.diff(edges)
    if kind == "pair":
        density = n / (4 / 3 * np.pi * edges[-1] ** 3)
        return Distributions({name: x}, {name: 4 * np.pi * density * counts[None]}, {name: np.array([density])})
    return Distributions({name: x}, {name: n * counts[None] / counts.sum()}, {})


@pytest.mark.parametrize("name", X)
def test_direct_inversion_gives_the_potential_back(name):
    target = sampled(name, 1e6)
    term = first_term(name, target, KT)
    expected = ENERGY[name](X[name])
    known = (target.total(name) > 300) if name.startswith("pair") else expected < 4 * KT
    difference = (term.energy - expected)[known]
    assert known.sum() > 8
    # Smoothing widens a narrow distribution a little; an angle without sin(theta) would be off by several kT.
    assert np.ptp(difference) < 0.35 * KT
    assert term.name == name and term.energy.min() >= -3.0


def test_a_potential_rises_outside_of_what_was_sampled():
    for name in ("bond A-B", "improper A-B-B-B"):
        energy = first_term(name, sampled(name, 1000), KT).energy
        low = np.argmin(energy)
        assert (np.diff(energy[low + 10:low + 60]) > 0).all() and (np.diff(energy[low - 60:low - 10]) < 0).all()
        assert np.isfinite(energy).all() and energy.max() > 20 * KT


def test_gaps_take_the_lower_side_and_go_round():
    x, energy = np.arange(-180, 180, 30.0), np.full(12, np.inf)
    known = np.isin(x, (-180, 150, 0, 30))
    energy[known] = 1.0
    filled = extended(x, energy, known, 0.01, 360.0)
    np.testing.assert_allclose(filled[np.isin(x, (-150, -30, 60, 120))], 1 + 0.005 * 900)
    np.testing.assert_allclose(filled[x == 90], 1 + 0.005 * 3600)


def test_iterations_leave_what_is_right_and_mend_what_is_not():
    name = "pair A-B"
    target = sampled(name, 1e5)
    term = first_term(name, target, KT)
    same = updated_term(term, target, sampled(name, 1e5), KT, 1.0)
    np.testing.assert_allclose(same.energy, term.energy, atol=1e-6)
    soft = sampled(name, 1e5, lambda x: 0.5 * ENERGY[name](x))
    corrected = updated_term(term, target, soft, KT, 1.0)
    well, shoulder = np.searchsorted(X[name], (0.6, 0.4))
    assert corrected.energy[well] < term.energy[well] - 0.5
    assert corrected.energy[shoulder] > term.energy[shoulder] + 0.2
    assert corrected.energy[-1] == 0


def test_pressure_correction_pulls_where_the_pressure_is_too_high():
    term = Term("pair", ("A", "B"), X["pair A-B"], np.zeros(121))
    change = pressure_corrected(term, 500.0, KT).energy
    assert change[0] == pytest.approx(-0.1 * KT * 0.5) and change[-1] == 0
    np.testing.assert_allclose(pressure_corrected(term, -1e5, KT).energy, 0.1 * KT * (1 - term.x / 1.2))


def test_terms_of_the_bead_graph_are_those_of_the_published_molecule():
    tmbt = molecules("tmbt", 2)
    assert {name: len(rows) for name, rows in bonded_terms(tmbt).items()} == {
        "bond A-B": 6, "bond B-B": 6, "angle A-B-B": 6, "angle B-A-B": 6, "dihedral B-A-B-B": 12,
        "improper A-B-B-B": 2}
    assert bead_masses(tmbt).sum() == pytest.approx(tmbt.masses.sum())
    assert pair_names(bead_pairs(tmbt, 3)) == ["pair A-A", "pair A-B", "pair B-B"]


def test_counts_of_frames():
    target = molecules("octane")
    beads = np.stack([beads_of(target, seed) for seed in (1, 2, 3)])
    axes = axes_of(target, beads, 1.0, 3)
    found = measure(target, [(frame, BOX) for frame in beads], axes, 3)
    assert {name: rows.sum() for name, rows in found.counts.items() if "pair" not in name} == {
        "bond A-A": 72, "angle A-A-A": 48, "dihedral A-A-A-A": 24}
    turn = found.total("dihedral A-A-A-A")
    np.testing.assert_array_equal(turn[1:], turn[:0:-1])
    # All four beads of a molecule are within three bonds: pairs are of two molecules, seen from both ends.
    vectors = beads[0][:, None] - beads[0][None]
    r = np.linalg.norm(vectors - 2.4 * np.round(vectors / 2.4), axis=-1)
    other = target.molecule_of_bead[:, None] != target.molecule_of_bead[None]
    assert found.counts["pair A-A"][0].sum() == (other & (r < 1.005)).sum()


def test_the_floor_tells_frames_of_one_kind_from_another():
    name, rng = "bond A-B", np.random.default_rng(1)
    draws = lambda energy: Distributions({name: X[name]}, {name: rng.multinomial(  # noqa: E731
        400, (total := sampled(name, 1.0, energy).total(name)) / total.sum(), size=20)}, {})
    target, other = draws(None), draws(lambda x: 5000 * (x - 0.31) ** 2)
    floor, spread = sampling_floor(name, target, rng)
    assert divergence(name, target, draws(None)) < floor + 4 * spread
    assert divergence(name, target, other) > floor + 20 * spread
