"""Boltzmann inversion, direct and iterative, of histograms into tabulated potentials.

Direct: U(x) = -kT ln(p(x) / J(x)), with the volume element J of the variable: r^2 of a bond, sin(theta) of an angle, 1
of a dihedral (Tschoep et al., Acta Polym. 49, 61 (1998); M. Stieffenhofer, thesis, eq. 2.34). Iterative:
U <- U + alpha kT ln(p_run / p_target) (Reith, Puetz and Mueller-Plathe, J. Comput. Chem. 24, 1624 (2003); eq. 2.35).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter1d

from openmm_backmap.coarse.distributions import PERIODIC, Distributions, edges_of
from openmm_backmap.coarse.graph import PAIR
from openmm_backmap.coarse.model import Term

# Histograms are smoothed by a Gaussian of so many bins, noise of single bins would become forces; but by no more than
# this share of a distribution's own width, which grows by its square.
_SMOOTHING_BINS, _SMOOTHING_SHARE = 1.5, 0.2
# A bin with fewer counts, smoothed, is outside of the sampled range: kT ln 4 is known to about kT/2.
_ENOUGH = 4.0
# How steep repulsion grows below the sampled range of a pair: a harmonic potential of this thermal width.
_CORE_NM = 0.02
_SLOPE_BINS = 4
_LARGEST_CHANGE_KT = 1.0
_PRESSURE_KT, _PRESSURE_PER_BAR = 0.1, 0.001


def first_term(name: str, target: Distributions, kT: float) -> Term:
    """The directly inverted potential of a term; of a pair the potential of mean force, 0 at the cutoff."""
    kind, words = name.split()
    x = target.x[name]
    width = _smoothing(name, target)
    counts, expected = _smoothed(kind, target.total(name), width), _expected(name, target, width)
    energy = -kT * np.log(np.maximum(counts, 1e-9) / expected)
    return Term(kind, tuple(words.split("-")), x, _finished(name, energy, target, kT))


def updated_term(term: Term, target: Distributions, run: Distributions, kT: float, mixing: float) -> Term:
    """One iteration: ``mixing`` times kT ln(p_run / p_target) is added where the target is sampled."""
    width = _smoothing(term.name, target)
    ratio = _ratio(term.name, run, width) / _ratio(term.name, target, width)
    change = np.clip(np.log(ratio), -_LARGEST_CHANGE_KT, _LARGEST_CHANGE_KT) * kT * mixing
    return replace(term, energy=_finished(term.name, term.energy + change, target, kT))


def pressure_corrected(term: Term, excess_bar: float, kT: float) -> Term:
    """A pair potential with a linear part A (1 - r / r_cut) added, A = -sgn(dp) 0.1 kT min(1, f |dp|), f = 0.001/bar.

    Thesis eq. 6.2, with the sign of Reith et al. 2003: where the pressure is too high, attraction is added.
    """
    size = -np.sign(excess_bar) * _PRESSURE_KT * kT * min(1.0, _PRESSURE_PER_BAR * abs(excess_bar))
    return replace(term, energy=term.energy + size * (1 - term.x / term.x[-1]))


def _ratio(name: str, found: Distributions, width: float) -> np.ndarray:
    # Half a count more everywhere: a run that never comes somewhere says so, but not with infinite force.
    return (_smoothed(name.split()[0], found.total(name), width) + 0.5) / _expected(name, found, width)


def _expected(name: str, found: Distributions, width: float) -> np.ndarray:
    """What ``counts`` would be without the potential, up to a factor that is the same for all points."""
    kind = name.split()[0]
    edges = edges_of(kind, found.x[name])
    if kind == PAIR:
        free = found.density[name].sum() * 4 / 3 * np.pi * np.diff(edges ** 3)
    else:
        free = {"bond": lambda: np.diff(edges ** 3), "angle": lambda: -np.diff(np.cos(np.radians(edges)))}.get(
            kind, lambda: np.ones(len(edges) - 1))()
        free = free * found.total(name).sum() / free.sum()
    # Smoothed as the counts are: where J goes to 0 at the end of a range, p / J stays what it is.
    return _smoothed(kind, free, width)


def _smoothing(name: str, target: Distributions) -> float:
    """Bins to smooth over."""
    kind, x = name.split()[0], target.x[name]
    if kind == PAIR:
        return _SMOOTHING_BINS
    width = np.sqrt(_variance(kind, x, target.total(name))) / (x[1] - x[0])
    return min(_SMOOTHING_BINS, _SMOOTHING_SHARE * width)


def _smoothed(kind: str, values: np.ndarray, width: float) -> np.ndarray:
    return gaussian_filter1d(values.astype(float), width, mode="wrap" if kind in PERIODIC else "reflect")


def _finished(name: str, energy: np.ndarray, target: Distributions, kT: float) -> np.ndarray:
    """``energy`` continued beyond where the target is sampled, from its minimum (pairs: from the cutoff) on."""
    kind = name.split()[0]
    sampled = _smoothed(kind, target.total(name), _smoothing(name, target)) >= _ENOUGH
    if not sampled.any():
        sampled = target.total(name) == target.total(name).max()
    x = target.x[name]
    if kind == PAIR:
        sampled[np.argmax(sampled):] = True
        energy = np.where(sampled, energy, np.inf)
        return extended(x, energy - energy[-1], sampled, kT / _CORE_NM ** 2)
    energy = np.where(sampled, energy, np.inf)
    period = 360.0 if kind in PERIODIC else None
    return extended(x, energy - energy.min(), sampled, kT / _variance(kind, x, target.total(name)), period)


def _variance(kind: str, x: np.ndarray, counts: np.ndarray) -> float:
    """Variance of a histogram, at least that of one bin; of torsions about their circular mean."""
    p, least = counts / counts.sum(), (x[1] - x[0]) ** 2
    if kind not in PERIODIC:
        return max(float((p * x ** 2).sum() - (p * x).sum() ** 2), least)
    mean = np.degrees(np.angle((p * np.exp(1j * np.radians(x))).sum()))
    away = (x - mean + 180.0) % 360.0 - 180.0
    return max(float((p * away ** 2).sum()), least)


def extended(x: np.ndarray, energy: np.ndarray, sampled: np.ndarray, stiffness: float,
             period: float | None = None) -> np.ndarray:
    """``energy`` (n,) with the points that are not ``sampled`` filled in.

    From each end of a sampled range it goes on with the slope that it has there (never downhill) and a harmonic part of
    ``stiffness`` (kJ/mol per unit of x squared); in a gap between two ranges the lower of the two counts.
    """
    if period is not None:
        parts = [x - period, x, x + period]
        long = extended(np.concatenate(parts), np.tile(energy, 3), np.tile(sampled, 3), stiffness)
        return long[len(x):2 * len(x)]
    n = len(x)
    # Where there is none on this side, the sides are n and -1.
    left = np.maximum.accumulate(np.where(sampled, np.arange(n), -1))
    right = np.minimum.accumulate(np.where(sampled, np.arange(n), n)[::-1])[::-1]
    found = np.full(n, np.inf)
    for k in np.flatnonzero(~sampled).tolist():
        for edge, inward in ((left[k], -1), (right[k], 1)):
            if 0 <= edge < n:
                away = abs(x[k] - x[edge])
                slope = _slope(x, energy, sampled, edge, inward)
                found[k] = min(found[k], energy[edge] + slope * away + stiffness * away ** 2 / 2)
    return np.where(sampled, energy, found)


def _slope(x: np.ndarray, energy: np.ndarray, sampled: np.ndarray, edge: int, inward: int) -> float:
    """How fast the energy rises outwards at the edge of a sampled range; 0 where it falls."""
    last = edge
    for _ in range(_SLOPE_BINS):
        if not (0 <= last + inward < len(x) and sampled[last + inward]):
            break
        last += inward
    return 0.0 if last == edge else max(0.0, (energy[edge] - energy[last]) / abs(x[edge] - x[last]))
