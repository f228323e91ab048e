"""What a validation found, and the numbers of it that a table shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openmm_backmap.analysis.describe import Description
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.evaluation.draws import Choice, Failure
from openmm_backmap.analysis.evaluation.inputs import Inputs
from openmm_backmap.analysis.evaluation.results import FLOOR, Quantity, Table
from openmm_backmap.analysis.forces.bead_forces import BeadForces
from openmm_backmap.analysis.forces.distributions import ALL, MAGNITUDE, ForceRow, detection
from openmm_backmap.analysis.forces.worst import Worst
from openmm_backmap.analysis.radial import HEAVY
from openmm_backmap.geometry.checks import heavy_atoms

# Pairs of heavy atoms below the distance of the tail, for 1000 heavy atoms of the reference.
_TAIL_PAIRS = 1.0
# Divergences that differ by fewer standard errors are not told apart.
_APART = 2.0


@dataclass(frozen=True)
class Judged:
    """One set of structures and what was found about it.

    Attributes
    ----------
    label : str
    kind : str
        ``held out`` (atomistic structures), ``in-distribution`` (these, mapped and backmapped) or ``cg``.
    choice : Choice or None
        Model and refinement; None of atomistic structures.
    ensemble : Ensemble or None
        None where every draw failed, as is then all else.
    frame_names : tuple of str
    failures : tuple of Failure
        Draws that came to nothing.
    unsound : tuple of Failure
        Draws that MD cannot start from, which otherwise are refused; here they count as others.
    drawn_rmsd : float, nm
        Distance of the beads of the atoms, as the generator drew them, from those given.
    rows : tuple of ForceRow
    frame_scores : ndarray, shape (n_frames,)
        Share of large forces of each frame.
    chi2, chi2_bm : float, (kJ/mol/nm)^2
        Of the coarse-grained force field on the reference's structures (thesis, eq. 6.4), and with its own frames
        (eq. 6.5); NaN without one.
    worst : tuple of Worst
    """

    label: str
    kind: str
    choice: Choice | None
    ensemble: Ensemble | None
    frame_names: tuple[str, ...]
    failures: tuple[Failure, ...] = ()
    unsound: tuple[Failure, ...] = ()
    drawn_rmsd: float = float("nan")
    description: Description | None = field(default=None, repr=False)
    forces: BeadForces | None = field(default=None, repr=False)
    rows: tuple[ForceRow, ...] = ()
    frame_scores: np.ndarray | None = field(default=None, repr=False)
    chi2: float = float("nan")
    chi2_bm: float = float("nan")
    worst: tuple[Worst, ...] = ()

    @property
    def headline(self) -> ForceRow | None:
        """The distribution of |F| on all beads."""
        return next((row for row in self.rows if (row.bead, row.quantity) == (ALL, MAGNITUDE)), None)


@dataclass(frozen=True)
class Validation:
    """Coarse-grained models, judged by atomistic forces.

    Attributes
    ----------
    inputs : Inputs
        Of the in-distribution set.
    reference : Description
    reference_forces : BeadForces
    shared_atoms : bool
        Whether beads share atoms, so that forces are no plain sums.
    judged : tuple of Judged
    settings, provenance : dict
    """

    inputs: Inputs
    reference: Description = field(repr=False)
    reference_forces: BeadForces = field(repr=False)
    shared_atoms: bool
    judged: tuple[Judged, ...]
    settings: dict[str, Any] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    @property
    def failures(self) -> dict[str, tuple[Failure, ...]]:
        """Draws that failed, by label."""
        return {j.label: j.failures for j in self.judged if j.failures}

    @property
    def in_distribution(self) -> Judged:
        """The baseline of all that is not minimised in addition."""
        return next(j for j in self.judged if j.kind == "in-distribution")

    def baseline(self, judged: Judged) -> Judged | None:
        """The in-distribution set that was drawn and refined alike; None of atomistic structures."""
        return next((j for j in self.judged if j.kind == "in-distribution" and j.choice and judged.choice
                     and j.choice.refine == judged.choice.refine), None)


@dataclass(frozen=True)
class Rank:
    """A coarse-grained model in its place.

    Attributes
    ----------
    judged : Judged
    difference, error : float, bits
        From the divergence of the one before, and its standard error; NaN for the first.
    """

    judged: Judged
    difference: float = float("nan")
    error: float = float("nan")

    @property
    def apart(self) -> bool:
        """Whether it can be told from the one before."""
        return bool(self.difference > _APART * self.error)


def rankings(found: Validation) -> dict[str, list[Rank]]:
    """Coarse-grained models by the divergence of |F| from the reference's, the best first; by level of refinement."""
    by_level: dict[str, list[Rank]] = {}
    for judged in sorted((j for j in found.judged if j.kind == "cg" and j.rows), key=lambda j: j.headline.divergence):
        ranks = by_level.setdefault(judged.choice.refine, [])
        own, last = judged.headline, ranks[-1].judged.headline if ranks else None
        ranks.append(Rank(judged) if last is None else Rank(
            judged, own.divergence - last.divergence, float(np.hypot(own.error, last.error))))
    return by_level


def ranking_text(ranks: list[Rank]) -> str:
    """In one line."""
    words = []
    for rank in ranks:
        own = rank.judged.headline
        sign = "" if not words else " < " if rank.apart else " ~ "
        words.append(f"{sign}{rank.judged.label} {own.divergence:.3f} +- {own.error:.3f}")
    return "".join(words)


QUANTITIES = (
    Quantity("divergence", "JSD of |F|, bits", floor="floor"),
    Quantity("error", "  standard error", None),
    Quantity("times_baseline", "  times in-distribution", None),
    Quantity("worst_type", "  worst bead type", None),
    Quantity("component", "JSD of components", None),
    Quantity("beyond", "forces beyond, %", None),
    Quantity("high", "|F|, 99 %, kJ/mol/nm", None),
    Quantity("auc", "AUC by frame", None),
    Quantity("bead_rmsd_drawn", "bead RMSD as drawn, nm", None),
    Quantity("bead_rmsd", "bead RMSD, nm", None),
    Quantity("contacts", "close contacts", None),
    Quantity("tail", "g(r) tail", None),
    Quantity("chi2_bm", "chi2_BM, (kJ/mol/nm)^2", None),
    Quantity("unsound", "unsound draws, %", None),
    Quantity("failed", "failed draws", None),
)


def numbers(judged: Judged, found: Validation) -> dict[str, float]:
    """Every number about one set that a table may show, by key; those that do not exist are NaN or absent."""
    values = {"failed": float(len(judged.failures)), "bead_rmsd_drawn": judged.drawn_rmsd, "chi2": judged.chi2,
              "chi2_bm": judged.chi2_bm}
    if not judged.rows:
        return values
    own = judged.headline
    of_types = [r for r in judged.rows if r.bead != ALL and r.quantity == MAGNITUDE]
    component = next(r for r in judged.rows if r.bead == ALL and r.quantity != MAGNITUDE)
    values |= {"divergence": own.divergence, "error": own.error, "floor": own.floor, "floor_sd": own.floor_sd,
               "worst_type": max(r.divergence for r in of_types), "worst_type_floor": max(r.floor for r in of_types),
               "component": component.divergence, "component_floor": component.floor, "beyond": 100 * own.beyond,
               "high": own.high, "contacts": float(np.mean(judged.description.defects["close contacts"])),
               "tail": near_tail(found.reference, judged.description, len(heavy_atoms(found.inputs.target)))}
    if judged.choice is not None and judged.choice.refine != "none":
        values["unsound"] = 100.0 * len(judged.unsound) / len(judged.ensemble)
    if judged.description.bead_rmsd is not None:
        values["bead_rmsd"] = float(np.sqrt(np.mean(judged.description.bead_rmsd ** 2)))
    baseline = found.baseline(judged)
    if baseline is not None and baseline.rows and baseline is not judged:
        values["times_baseline"] = own.divergence / baseline.headline.divergence
        values["auc"] = detection(baseline.frame_scores, judged.frame_scores)
    return values


def near_tail(reference: Description, judged: Description, n_heavy: int) -> float:
    """The tail of g(r) towards small distances: how many times as many pairs of heavy atoms (beyond three bonds) as in
    the reference are nearer than the distance below which it has one pair for 1000 heavy atoms.

    Parameters
    ----------
    reference, judged : Description
    n_heavy : int
        Heavy atoms of a structure.
    """
    own, other = (sum(d.radial[f"{HEAVY} {where}"] for where in ("intra", "inter")).mean(axis=0).cumsum() / 2
                  for d in (reference, judged))
    at = int(np.searchsorted(own, _TAIL_PAIRS * n_heavy / 1000))
    return float(other[at] / own[at]) if at < min(len(own), len(other)) else float("nan")


def summary_table(found: Validation) -> Table:
    """The summary: the floor first."""
    rows = [(judged.label, numbers(judged, found)) for judged in found.judged]
    first = next((values for _, values in rows if "floor" in values), {})
    floor = {"divergence": first.get("floor"), "worst_type": first.get("worst_type_floor"),
             "component": first.get("component_floor"), "error": first.get("floor_sd"), "beyond": 0.1, "tail": 1.0,
             "contacts": float(np.mean(found.reference.defects["close contacts"]))}
    headline = next((j.headline for j in found.judged if j.rows), None)
    floor |= {} if headline is None else {"high": headline.high_reference}
    shown = tuple(q for q in QUANTITIES if any(not np.isnan(values.get(q.key, np.nan)) for _, values in rows)
                  and (q.key != "failed" or found.failures))
    return Table(shown, ((FLOOR, floor), *rows), frozenset())
