"""What was found about trajectories, and the numbers of it that a table shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openmm_backmap.analysis.evaluation.results import FLOOR, Quantity, Table
from openmm_backmap.analysis.kinetics.blocks import Value
from openmm_backmap.analysis.kinetics.markov import MarkovModel
from openmm_backmap.analysis.kinetics.measure import Measured
from openmm_backmap.analysis.kinetics.moves import ALL, INTERNAL, LABORATORY
from openmm_backmap.analysis.kinetics.observables import CHECKS
from openmm_backmap.analysis.kinetics.surface import Coordinates

INDEPENDENT = "independent run"


@dataclass(frozen=True)
class Kinetics:
    """The Markov model of a label, and how it compares.

    Attributes
    ----------
    model : MarkovModel
    scale : float
        Factor of all its timescales: 1, or what makes the slowest that of the reference.
    similarity : ndarray, shape (n_processes, n_processes)
        See :func:`openmm_backmap.analysis.kinetics.markov.similarity`.
    by_lag : ndarray, shape (n_lags, n_processes), frames
        Of models of greatest likelihood at other lags, not scaled.
    """

    model: MarkovModel
    scale: float
    similarity: np.ndarray
    by_lag: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Judged:
    """One label and all that was found about it.

    Attributes
    ----------
    label : str
    kind : str
        ``reference``, ``independent`` or ``judged``.
    measured : Measured
    surface : ndarray, shape (n_blocks, n_bins, n_bins)
        Frames in the bins of the plane.
    populations : ndarray, shape (n_states,)
        Shares of the frames in the metastable states of the reference.
    kinetics : Kinetics
    values : dict of str to Value
        ``energy``, ``surface_largest``, ``surface_mean``, ``surface``, and ``KIND:CLASS`` of displacements.
    move_scales : dict of str to float
        Factor of all displacements of a kind: 1, or what makes their mean that of the reference.
    """

    label: str
    kind: str
    measured: Measured = field(repr=False)
    surface: np.ndarray = field(repr=False)
    populations: np.ndarray
    kinetics: Kinetics
    values: dict[str, Value] = field(repr=False)
    move_scales: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """All that was found.

    Attributes
    ----------
    reference : Judged
        ``values`` is empty.
    judged : tuple of Judged
        The independent run first, where there is one.
    halves : Kinetics
        The model of the first half of the reference, compared with that of the second.
    half_populations : ndarray, shape (2, n_states)
    coordinates : Coordinates
    lags : tuple of int
        Of :attr:`Kinetics.by_lag`.
    spacing : float
        Time between frames, in ``time_unit``.
    time_unit : str
        ``ps``, or ``frames`` where the time between them is not known.
    check_sizes : ndarray of int, shape (4,)
        How many of each of ``CHECKS`` a frame has.
    settings, provenance : dict
    """

    reference: Judged
    judged: tuple[Judged, ...]
    halves: Kinetics
    half_populations: np.ndarray
    coordinates: Coordinates
    lags: tuple[int, ...]
    spacing: float
    time_unit: str
    check_sizes: np.ndarray
    settings: dict[str, Any] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    @property
    def n_processes(self) -> int:
        return len(self.reference.kinetics.model.timescales)

    def times(self, kinetics: Kinetics) -> np.ndarray:
        """Timescales and the ends of their intervals, (3, n_processes), in ``time_unit``."""
        model = kinetics.model
        return np.stack([model.timescales, model.lower, model.upper]) * self.spacing * kinetics.scale


def quantities(found: Judgement) -> tuple[Quantity, ...]:
    """The rows of the table."""
    n = range(1, found.n_processes + 1)
    return (
        Quantity("energy", "energy, JSD"), Quantity("surface_largest", "surface, largest, kT"),
        Quantity("surface_mean", "surface, mean, kT"), Quantity("surface", "surface, JSD"),
        *(Quantity(f"cosine_{k}", f"process {k}, cosine", 1.0) for k in n),
        *(Quantity(f"timescale_{k}", f"timescale {k}, {found.time_unit}", None) for k in n),
        *(Quantity(f"timescale_{k}_overlaps", f"timescale {k} within error (1: yes)", None) for k in n),
        Quantity("populations", "states, worst factor", 1.0),
        Quantity(LABORATORY, "displacement, JSD"), Quantity(INTERNAL, "displacement, internal, JSD"),
        *(Quantity(_key(name), f"{name}, %", 0.0) for name in CHECKS),
        Quantity("bead_rmsd", "bead RMSD, nm", None), Quantity("frames", "frames", None))


def _key(name: str) -> str:
    return name.replace(" ", "_")


def numbers(judged: Judged, found: Judgement) -> dict[str, float]:
    """Every number about one label that a table shows, by key; NaN stands for what could not be found."""
    own = {key: judged.values[name].value for key, name in _DIVERGENCES.items() if name in judged.values}
    return {**own, **_kinetic(judged.kinetics, found), **_checks(judged, found),
            "populations": worst_factor(found.reference.populations, judged.populations),
            "bead_rmsd": judged.measured.bead_rmsd, "frames": float(judged.measured.n_frames)}


_DIVERGENCES = {"energy": "energy", "surface_largest": "surface_largest", "surface_mean": "surface_mean",
                "surface": "surface", LABORATORY: f"{LABORATORY}:{ALL}", INTERNAL: f"{INTERNAL}:{ALL}"}


def _kinetic(kinetics: Kinetics, found: Judgement) -> dict[str, float]:
    times, reference = found.times(kinetics), found.times(found.reference.kinetics)
    within = overlaps(reference, times)
    numbers = {}
    for k in range(found.n_processes):
        numbers[f"cosine_{k + 1}"] = float(kinetics.similarity[k, k])
        numbers[f"timescale_{k + 1}"] = float(times[0, k])
        numbers[f"timescale_{k + 1}_overlaps"] = float(within[k])
    return numbers


def overlaps(reference: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Whether intervals overlap (n_processes,): 1, 0, or NaN where one is missing; see :meth:`Judgement.times`."""
    apart = (times[1] > reference[2]) | (times[2] < reference[1])
    return np.where(np.isnan(times[0]) | np.isnan(reference[0]), np.nan, np.where(apart, 0.0, 1.0))


def worst_factor(reference: np.ndarray, populations: np.ndarray) -> float:
    """Largest factor between populations of the states that the reference has; infinite where one is not visited, NaN
    where the reference has none: its model then connects too little to tell states."""
    there = reference > 0
    if not there.any():
        return float("nan")
    with np.errstate(divide="ignore"):
        ratio = populations[there] / reference[there]
        return float(np.max(np.maximum(ratio, 1 / ratio)))


def _checks(judged: Judged, found: Judgement) -> dict[str, float]:
    measured = judged.measured
    return {_key(name): 100.0 * float(wrong) / (measured.n_frames * int(size)) for name, wrong, size in
            zip(CHECKS, measured.wrong, found.check_sizes) if size}


def summary_table(found: Judgement) -> Table:
    """The summary: the floor first."""
    rows = [(judged.label, numbers(judged, found)) for judged in found.judged]
    first = found.judged[0]
    floor = {key: first.values[name].floor for key, name in _DIVERGENCES.items() if name in first.values}
    floor |= {key: value for key, value in _kinetic(found.reference.kinetics, found).items() if "overlaps" not in key}
    floor |= {f"cosine_{k + 1}": float(found.halves.similarity[k, k]) for k in range(found.n_processes)}
    floor |= _checks(found.reference, found)
    floor |= {"populations": worst_factor(*found.half_populations), "frames": float(found.reference.measured.n_frames)}
    shown = tuple(q for q in quantities(found) if any(not np.isnan(v.get(q.key, np.nan)) for _, v in rows))
    return Table(shown, ((FLOOR, floor), *rows), _best(rows, found, shown))


def _best(rows: list, found: Judgement, shown: tuple[Quantity, ...]) -> frozenset[tuple[int, str]]:
    """Rows and keys of the best values among what is judged; none where there is nothing to choose."""
    rivals = [k for k, judged in enumerate(found.judged) if judged.kind == "judged"]
    best = set()
    for q in (q for q in shown if q.best is not None):
        distance = {k: abs(rows[k][1].get(q.key, np.nan) - q.best) for k in rivals}
        distance = {k: value for k, value in distance.items() if np.isfinite(value)}
        winners = [k for k, value in distance.items() if value <= min(distance.values()) + q.same]
        best |= {(k + 1, q.key) for k in winners} if len(winners) < len(rivals) else set()
    return frozenset(best)
