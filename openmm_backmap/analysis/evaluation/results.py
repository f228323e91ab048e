"""What an evaluation found, and the numbers of it that a table shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_backmap.analysis.defects import DEFECTS
from openmm_backmap.analysis.describe import Description
from openmm_backmap.analysis.divergence import Comparison
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.evaluation.draws import Choice, Failure
from openmm_backmap.analysis.evaluation.inputs import Inputs
from openmm_backmap.analysis.evaluation.judging import NotDone
from openmm_backmap.analysis.relaxation import Band, Relaxation, RelaxSettings, time_to_band, verdicts

if TYPE_CHECKING:
    from openmm_backmap.analysis.diversity import Diversity
    from openmm_backmap.analysis.landscape import Landscape
    from openmm_backmap.analysis.two_sample import TwoSample

FLOOR = "reference against itself"


@dataclass(frozen=True)
class Judged:
    """One ensemble and all that was found about it; None where it was not asked for, or where there are no structures.

    Attributes
    ----------
    label : str
    kind : str
        ``held out``, ``model`` or ``structures``.
    ensemble : Ensemble or None
        None where every draw of the model failed.
    choice : Choice or None
        Of a model.
    failures : tuple of Failure
    seconds : float
        Mean time of a draw; NaN where nothing was drawn here.
    """

    label: str
    kind: str
    ensemble: Ensemble | None
    choice: Choice | None = None
    failures: tuple[Failure, ...] = ()
    seconds: float = float("nan")
    description: Description | None = field(default=None, repr=False)
    comparison: Comparison | None = field(default=None, repr=False)
    two_sample: TwoSample | NotDone | None = None
    diversity: Diversity | NotDone | None = None
    relaxation: Relaxation | NotDone | None = None


@dataclass(frozen=True)
class Evaluation:
    """Models, held-out structures and structures of others, compared with a reference.

    Attributes
    ----------
    inputs : Inputs
    reference : Description
    judged : tuple of Judged
    landscape : Landscape, NotDone or None
    start : Relaxation or None
        Dynamics from atomistic structures: those behind the coarse-grained frames where they are known, else the
        first of the reference.
    band : Band or None
        Where the energy of ``start`` lies.
    relax_settings : RelaxSettings or None
    settings, provenance : dict
    """

    inputs: Inputs
    reference: Description = field(repr=False)
    judged: tuple[Judged, ...]
    landscape: Landscape | NotDone | None
    start: Relaxation | NotDone | None
    band: Band | None
    relax_settings: RelaxSettings | None
    settings: dict[str, Any] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    @property
    def failures(self) -> dict[str, tuple[Failure, ...]]:
        """Draws that failed, by label."""
        return {j.label: j.failures for j in self.judged if j.failures}


@dataclass(frozen=True)
class Quantity:
    """A column of the table.

    Attributes
    ----------
    key : str
    title : str
    best : float or None
        The value nearest to this is the best; None where there is no better.
    floor : str or None
        Key of the same between parts of the reference.
    same : float
        Values that differ by less are equally good.
    """

    key: str
    title: str
    best: float | None = 0.0
    floor: str | None = None
    same: float = 1e-12


QUANTITIES = (
    Quantity("angle_mean", "angles", floor="angle_mean_floor"),
    Quantity("dihedral_mean", "dihedrals", floor="dihedral_mean_floor"),
    Quantity("lennard_jones_energy", "LJ energy", floor="lennard_jones_energy_floor"),
    Quantity("radial", "g(r)", floor="radial_floor"),
    Quantity("psi", "Psi", floor="psi_floor"),
    Quantity("auc", "classifier AUC", 0.5, "auc_floor"),
    Quantity("landscape", "map", floor="landscape_floor"),
    Quantity("diversity", "diversity", None),
    Quantity("bead_rmsd", "bead RMSD, nm", same=1e-4),
    *(Quantity(name, name) for name in DEFECTS),
    Quantity("relaxation", "MD to band, ps"),
    Quantity("seconds", "s a structure", None),
    Quantity("failed", "failed draws"),
)


#: keys of the divergences that are shown as multiples of the floor
HEADLINE = ("angle_mean", "dihedral_mean", "lennard_jones_energy", "radial", "psi")


def numbers(judged: Judged, evaluation: Evaluation) -> dict[str, float]:
    """Every number about one ensemble that a table may show, by key.

    Defects are means over structures; ``relaxation`` is the mean time to the band (ps), infinite where a run does not
    get there; NaN stands for what could not be found.
    """
    found: dict[str, float] = {"failed": float(len(judged.failures)), "seconds": judged.seconds}
    if judged.comparison is not None:
        found |= judged.comparison.summary()
    if judged.description is not None:
        found |= {name: float(np.mean(counts)) for name, counts in judged.description.defects.items()}
        if judged.description.bead_rmsd is not None:
            found["bead_rmsd"] = float(np.mean(judged.description.bead_rmsd))
    found |= _two_sample(judged) | _diversity(judged) | _landscape(judged.label, evaluation.landscape)
    if isinstance(judged.relaxation, Relaxation) and evaluation.band is not None:
        found["relaxation"] = float(np.mean(time_to_band(judged.relaxation, evaluation.band)))
    return found


def _two_sample(judged: Judged) -> dict[str, float]:
    test = judged.two_sample
    if test is None or isinstance(test, NotDone):
        return {}
    return {"auc": test.auc, "auc_floor": test.floor_auc, "auc_error": test.error, "auc_floor_error": test.floor_error}


def _diversity(judged: Judged) -> dict[str, float]:
    found = judged.diversity
    if found is None or isinstance(found, NotDone):
        return {}
    return {"diversity": found.ratio, "diversity_error": found.ratio_error}


def _landscape(label: str, found: Landscape | NotDone | None) -> dict[str, float]:
    part = None if found is None or isinstance(found, NotDone) else next(
        (mapped for mapped in found.judged if mapped.name == label), None)
    if part is None or part.surface is None:
        return {}
    return {"landscape": part.surface.divergence, "landscape_floor": part.surface.floor}


def verdict(judged: Judged, band: Band | None) -> str:
    """What dynamics did, in words; empty where there were none."""
    if isinstance(judged.relaxation, NotDone):
        return judged.relaxation.reason
    return "" if judged.relaxation is None or band is None else "; ".join(verdicts(judged.relaxation, band))


@dataclass(frozen=True)
class Table:
    """The summary: what was compared, one row an ensemble, the floor first.

    Attributes
    ----------
    quantities : tuple of Quantity
        Those of which there is a number.
    rows : tuple of (str, dict of str to float)
    best : frozenset of (int, str)
        Row and key of the best value among models and structures.
    """

    quantities: tuple[Quantity, ...]
    rows: tuple[tuple[str, dict[str, float]], ...]
    best: frozenset[tuple[int, str]]


def summary_table(evaluation: Evaluation) -> Table:
    """The summary of an evaluation."""
    found = [(j.label, numbers(j, evaluation)) for j in evaluation.judged]
    # The floor depends on how many structures are judged: it is that of the models.
    first = next((values for j, (_, values) in zip(evaluation.judged, found) if j.kind == "model" and j.comparison),
                 next((values for _, values in found if "psi" in values), {}))
    floor = {q.key: first[q.floor] for q in QUANTITIES if q.floor in first}
    floor |= {name: float(np.mean(counts)) for name, counts in evaluation.reference.defects.items()}
    if isinstance(evaluation.start, Relaxation) and evaluation.band is not None:
        floor["relaxation"] = float(np.mean(time_to_band(evaluation.start, evaluation.band)))
    rows = ((FLOOR, floor), *found)
    shown = tuple(q for q in QUANTITIES if any(not np.isnan(values.get(q.key, np.nan)) for _, values in found)
                  and (q.key != "failed" or evaluation.failures))
    rivals = [k for k, j in enumerate(evaluation.judged, 1) if j.kind != "held out"]
    best = frozenset((k, q.key) for q in shown if q.best is not None for k in _nearest(rows, rivals, q))
    return Table(shown, rows, best)


def _nearest(rows, rivals: list[int], quantity: Quantity) -> list[int]:
    """The rows whose value is best; none where there is nothing to choose."""
    distance = {k: abs(rows[k][1][quantity.key] - quantity.best) for k in rivals
                if np.isfinite(rows[k][1].get(quantity.key, np.nan))}
    least = min(distance.values(), default=0.0)
    winners = [k for k, value in distance.items() if value <= least + quantity.same]
    return winners if len(winners) < len(rivals) else []


def as_text(table: Table) -> str:
    """The table for a terminal; a star marks the best."""
    head = ["", *(q.title for q in table.quantities)]
    lines = [head]
    for k, (label, values) in enumerate(table.rows):
        lines.append([label, *(number_text(values.get(q.key)) + ("*" if (k, q.key) in table.best else " ")
                               for q in table.quantities)])
    # A wide table is turned: quantities down, ensembles across.
    columns = list(zip(*lines))
    widths = [max(len(row[k].strip()) for row in columns) + 2 for k in range(len(lines))]
    return "\n".join("".join(cell.ljust(width) if k == 0 else cell.rjust(width) for k, (cell, width) in enumerate(
        zip(row, widths, strict=True))).rstrip() for row in columns)


def number_text(value: float | None) -> str:
    """A number as short as it may be; ``-`` where there is none."""
    if value is None or np.isnan(value):
        return "-"
    if np.isinf(value):
        return "not reached"
    if abs(value) < 1e-6:
        return "0"
    if abs(value) >= 1e6:
        return f"{value:.1e}"
    return f"{value:.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"
