"""The numbers of an evaluation as files: ``scores.json`` with all of them, ``scores.csv`` one row a quantity.

``docs/evaluate.md`` describes both.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openmm_backmap.analysis.evaluation.judging import NotDone
from openmm_backmap.analysis.evaluation.results import QUANTITIES, Evaluation, Judged, numbers, verdict
from openmm_backmap.analysis.relaxation import Relaxation, time_to_band
from openmm_backmap.io.writers import replacing

FORMAT, VERSION = "openmm_backmap evaluation", 1
COLUMNS = ("label", "kind", "name", "value", "floor", "floor_sd", "mean_reference", "mean", "sd_reference", "sd",
           "unit")
# Longer arrays (coordinates of maps, histograms) stay in the .npz files of the folder.
_LONGEST = 512
_UNITS = {"bead_rmsd": "nm", "relaxation": "ps", "seconds": "s"}


def write_scores(evaluation: Evaluation, folder: Path) -> None:
    """Write ``scores.json`` and ``scores.csv`` into ``folder``, in place of older ones."""
    rows = (row for judged in evaluation.judged for row in csv_rows(judged, evaluation))
    write_json_and_csv(folder, as_json(evaluation), COLUMNS, rows)


def write_json_and_csv(folder: Path, content: dict[str, Any], columns: Sequence[str],
                       rows: Iterable[dict[str, Any]]) -> None:
    """``scores.json`` of plain values, and ``scores.csv``, empty where a row lacks a column."""
    with replacing(folder / "scores.json", overwrite=True) as part:
        part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with replacing(folder / "scores.csv", overwrite=True) as part, open(part, "w", newline="",
                                                                        encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything that was found, as plain values; numbers that do not exist are null, infinite ones ``"inf"``."""
    inputs = evaluation.inputs
    return plain({
        "format": FORMAT, "version": VERSION, "provenance": evaluation.provenance, "settings": evaluation.settings,
        "system": {"chemistry": inputs.target.chemistry.name, "molecules": len(inputs.target.chains),
                   "atoms": inputs.target.n_atoms, "beads": inputs.target.n_beads},
        "reference": {"structures": len(inputs.reference), "defects": _defects(evaluation.reference)},
        "frames": [{"name": name, "atomistic_structure_known": inputs.paired is not None and k in inputs.paired.frame}
                   for k, name in enumerate(inputs.frames.names)],
        "judged": [_judged(judged, evaluation) for judged in evaluation.judged],
        "landscape": evaluation.landscape,
        "relaxation": None if evaluation.start is None else {
            "settings": asdict(evaluation.relax_settings), "band": evaluation.band,
            "reference": _relaxation(evaluation.start, evaluation)}})


def _judged(judged: Judged, evaluation: Evaluation) -> dict[str, Any]:
    comparison = judged.comparison
    return {
        "label": judged.label, "kind": judged.kind, "model": judged.choice,
        "structures": 0 if judged.ensemble is None else len(judged.ensemble),
        "seconds_per_structure": judged.seconds, "failures": judged.failures,
        "summary": numbers(judged, evaluation),
        "distributions": None if comparison is None else comparison.rows,
        "radial": None if comparison is None else comparison.radial,
        "psi": None if comparison is None else {"value": comparison.psi, "floor": comparison.psi_floor,
                                                "floor_sd": comparison.psi_floor_sd},
        "defects": None if judged.description is None else _defects(judged.description),
        "bead_rmsd_nm": None if judged.description is None else judged.description.bead_rmsd,
        "two_sample": judged.two_sample, "diversity": judged.diversity,
        "relaxation": None if judged.relaxation is None else _relaxation(judged.relaxation, evaluation),
        "relaxation_verdict": verdict(judged, evaluation.band) or None}


def _defects(description) -> dict[str, Any]:
    return {name: {"per_structure": counts, "out_of": description.opportunities[name]}
            for name, counts in description.defects.items()}


def _relaxation(relaxation: Relaxation | NotDone, evaluation: Evaluation) -> Any:
    if isinstance(relaxation, NotDone):
        return relaxation
    found = {"times_ps": relaxation.times, "energies_kJ_mol": relaxation.energies, "failures": relaxation.failures}
    if evaluation.band is not None:
        found["time_to_band_ps"] = time_to_band(relaxation, evaluation.band)
    return found


def plain(value: Any) -> Any:
    """``value`` as JSON has it."""
    if is_dataclass(value):
        content = {field.name: getattr(value, field.name) for field in fields(value)}
        return {name: plain(item) for name, item in content.items()
                if not (isinstance(item, np.ndarray) and item.size > _LONGEST)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else "inf" if value > 0 else "-inf"
    return str(value) if isinstance(value, Path) else value


def csv_rows(judged: Judged, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of ``scores.csv`` about one ensemble: the headline numbers, then every distribution."""
    values = numbers(judged, evaluation)
    rows = [{"label": judged.label, "kind": "summary", "name": q.key, "value": values[q.key],
             "floor": values.get(q.floor, ""), "unit": _UNITS.get(q.key, "")} for q in QUANTITIES
            if not np.isnan(values.get(q.key, np.nan))]
    if judged.comparison is not None:
        rows += [{"label": judged.label, "value": row.divergence, **{
            key: getattr(row, key) for key in COLUMNS if hasattr(row, key)}} for row in judged.comparison.rows]
        rows += [{"label": judged.label, "kind": "radial", "name": row.name, "value": row.difference,
                  "floor": row.floor, "floor_sd": row.floor_sd} for row in judged.comparison.radial]
    return rows
