"""What the beads of frames do: histograms of every bonded term and pairs by distance, frame by frame.

Bins are centred on the points of the tables, so that a histogram turns into a potential without interpolation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from openmm_backmap.analysis.radial import pair_blocks, radial_distribution, volume
from openmm_backmap.chemistry import Target
from openmm_backmap.coarse.graph import PAIR, bead_pairs, bonded_terms, pair_names
from openmm_backmap.geometry.internal import bond_angles, bond_lengths, dihedral_angles
from openmm_backmap.statistics import jensen_shannon

#: distance of the points of a table: nm of bonds and pairs, degrees of the others
STEPS = {"bond": 0.002, "angle": 2.0, "dihedral": 5.0, "improper": 2.0, PAIR: 0.01}
PERIODIC = ("dihedral", "improper")
_VALUES: dict[str, Callable] = {"bond": bond_lengths, "angle": bond_angles, "dihedral": dihedral_angles,
                                "improper": dihedral_angles}
_BEYOND_NM = 0.3
_SPLITS = 40


@dataclass(frozen=True)
class Distributions:
    """Counts by the name of the term.

    Attributes
    ----------
    x : dict of ndarray, shape (n_points,)
        Middles of the bins: nm or degrees.
    counts : dict of ndarray, shape (n_frames, n_points)
    density : dict of ndarray, shape (n_frames,), 1/nm3
        Of pairs: their number at any distance over the volume, as :func:`radial_distribution` takes it.
    """

    x: dict[str, np.ndarray] = field(repr=False)
    counts: dict[str, np.ndarray] = field(repr=False)
    density: dict[str, np.ndarray] = field(repr=False)

    @property
    def n_frames(self) -> int:
        return len(next(iter(self.counts.values())))

    def total(self, name: str) -> np.ndarray:
        """Counts (n_points,) of all frames."""
        return self.counts[name].sum(axis=0)

    def curve(self, name: str, frames=slice(None)) -> np.ndarray:
        """g(r) of a pair, probability density (1/nm or 1/degree) of a bonded term; shape (n_points,)."""
        counts, x = self.counts[name][frames], self.x[name]
        if name.startswith(PAIR):
            return radial_distribution(counts, self.density[name][frames], edges_of(PAIR, x))
        found = counts.sum(axis=0)
        return found / max(found.sum(), 1) / (x[1] - x[0])


def edges_of(kind: str, x: np.ndarray) -> np.ndarray:
    """Edges (n_points + 1,) of the bins around ``x``; lengths below 0 and angles outside 0 to 180 are cut off."""
    step = x[1] - x[0]
    edges = np.append(x - step / 2, x[-1] + step / 2)
    if kind in PERIODIC:
        return edges
    return np.clip(edges, 0.0, 180.0 if kind == "angle" else None)


def axes_of(target: Target, beads: np.ndarray, cutoff_nm: float, excluded_bonds: int) -> dict[str, np.ndarray]:
    """Points of the table of every term of ``target``; bonds go somewhat beyond the longest of ``beads``
    (n_frames, n_beads, 3), nm."""
    axes = {}
    for name, members in bonded_terms(target).items():
        kind = name.split()[0]
        if kind == "bond":
            longest = max(bond_lengths(frame[members]).max() for frame in beads)
            axes[name] = _points(0.0, longest + _BEYOND_NM, STEPS[kind])
        elif kind == "angle":
            axes[name] = _points(0.0, 180.0, STEPS[kind])
        else:
            axes[name] = _points(-180.0, 180.0, STEPS[kind])[:-1]
    names = pair_names(bead_pairs(target, excluded_bonds))
    return axes | {name: _points(0.0, cutoff_nm, STEPS[PAIR]) for name in names}


def _points(low: float, high: float, step: float) -> np.ndarray:
    return low + step * np.arange(round((high - low) / step) + 1)


def measure(target: Target, frames: Iterable[tuple[np.ndarray, np.ndarray]], axes: dict[str, np.ndarray],
            excluded_bonds: int) -> Distributions:
    """Histograms of frames.

    Parameters
    ----------
    target : Target
    frames : iterable of (positions (n_beads, 3), box (3, 3)), nm
        Whole molecules.
    axes : dict of ndarray
        See :func:`axes_of`; terms that are not in it are left out.
    excluded_bonds : int

    Returns
    -------
    Distributions
        Dihedrals and impropers of molecules without stereocentres count on both sides: their mirror images are as
        likely.
    """
    members = {name: rows for name, rows in bonded_terms(target).items() if name in axes}
    pairs, one = bead_pairs(target, excluded_bonds), np.zeros(len(target.chains), dtype=np.int64)
    names, both = pair_names(pairs), not len(target.stereo)
    edges, ends = edges_of(PAIR, axes[names[0]]), pairs.ends(one, 1)[0]
    counts, density = {name: [] for name in axes}, {name: [] for name in names}
    for positions, box in frames:
        for name, rows in members.items():
            counts[name].append(_histogram(name.split()[0], positions[rows], axes[name], both))
        found = sum(pairs.counts(*block, edges, one, 1)[0] for block in pair_blocks(positions, box, edges[-1]))
        for k, name in enumerate(names):
            counts[name].append(found[2 * k] + found[2 * k + 1])
            density[name].append(ends[2 * k] / volume(box, 0.0))
    return Distributions(dict(axes), {name: np.array(rows) for name, rows in counts.items()},
                         {name: np.array(rows) for name, rows in density.items()})


def _histogram(kind: str, x: np.ndarray, points: np.ndarray, both: bool) -> np.ndarray:
    values, n = _VALUES[kind](x), len(points)
    k = np.floor((values - points[0]) / (points[1] - points[0]) + 0.5).astype(np.int64)
    if kind not in PERIODIC:
        return np.bincount(k[(k >= 0) & (k < n)], minlength=n)
    found = np.bincount(k % n, minlength=n)
    return (found + found[-np.arange(n) % n]) / 2 if both else found


def divergence(name: str, a: Distributions, b: Distributions, in_a=slice(None), in_b=slice(None)) -> float:
    """How far some frames are from others: Jensen-Shannon divergence (bits) of a bonded term, mean absolute
    difference of g(r) of a pair."""
    if name.startswith(PAIR):
        return float(np.abs(a.curve(name, in_a) - b.curve(name, in_b)).mean())
    return jensen_shannon(a.counts[name][in_a].sum(axis=0), b.counts[name][in_b].sum(axis=0))


def sampling_floor(name: str, target: Distributions, rng: np.random.Generator) -> tuple[float, float]:
    """Mean and standard deviation of the divergence between halves of the target's frames; NaN of a single frame."""
    n = target.n_frames
    if n < 2:
        return np.nan, np.nan
    found = []
    for _ in range(_SPLITS):
        order = rng.permutation(n)
        found.append(divergence(name, target, target, order[:n // 2], order[n // 2:]))
    return float(np.mean(found)), float(np.std(found))
