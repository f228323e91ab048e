"""The numbers of a validation as files: ``scores.json``, ``scores.csv``, and the forces behind them.

``docs/validate-cg.md`` describes all.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from openmm_backmap.analysis.evaluation.draws import slug
from openmm_backmap.analysis.evaluation.scores import plain, write_json_and_csv
from openmm_backmap.analysis.forces.matching import mean_forces
from openmm_backmap.analysis.forces.results import QUANTITIES, Judged, Validation, numbers, ranking_text, rankings
from openmm_backmap.analysis.kept import save_arrays

FORMAT, VERSION = "openmm_backmap validation", 1
COLUMNS = ("label", "refine", "kind", "bead", "name", "value", "error", "floor", "floor_sd", "median",
           "median_reference", "high", "high_reference", "beyond")


def write_scores(found: Validation, folder: Path) -> None:
    """Write ``scores.json`` and ``scores.csv`` into ``folder``, in place of older ones."""
    rows = (row for judged in found.judged for row in csv_rows(judged, found))
    write_json_and_csv(folder, as_json(found), COLUMNS, rows)


def write_forces(found: Validation, folder: Path) -> None:
    """Write ``forces/LABEL.npz``: beads, boxes and mean forces on beads by frame, as force matching needs them."""
    for judged in found.judged:
        if judged.forces is None or judged.ensemble.beads is None:
            continue
        first = np.unique(judged.ensemble.frame, return_index=True)[1]
        arrays = {"beads": judged.ensemble.beads[first], "forces": mean_forces(judged.forces),
                  "bead_type": np.array(judged.forces.bead_types)[judged.forces.bead_type],
                  "draws": np.unique(judged.ensemble.frame, return_counts=True)[1]}
        if judged.ensemble.boxes is not None:
            arrays["boxes"] = judged.ensemble.boxes[first]
        save_arrays(folder / "forces" / f"{slug(judged.label)}.npz", **arrays)


def as_json(found: Validation) -> dict[str, Any]:
    """Everything that was found, as plain values; numbers that do not exist are null, infinite ones ``"inf"``."""
    target = found.inputs.target
    return plain({
        "format": FORMAT, "version": VERSION, "provenance": found.provenance, "settings": found.settings,
        "system": {"chemistry": target.chemistry.name, "molecules": len(target.chains), "atoms": target.n_atoms,
                   "beads": target.n_beads, "beads_share_atoms": found.shared_atoms},
        "reference": {"structures": len(found.inputs.reference)},
        "ranking": {level: {"text": ranking_text(ranks), "models": [
            {"label": rank.judged.label, "divergence": rank.judged.headline.divergence,
             "error": rank.judged.headline.error, "difference": rank.difference, "difference_error": rank.error,
             "told_from_the_one_before": rank.apart} for rank in ranks]} for level, ranks in rankings(found).items()},
        "judged": [_judged(judged, found) for judged in found.judged]})


def _judged(judged: Judged, found: Validation) -> dict[str, Any]:
    return {"label": judged.label, "kind": judged.kind, "model": judged.choice,
            "structures": 0 if judged.ensemble is None else len(judged.ensemble), "failures": judged.failures,
            "unsound": judged.unsound, "summary": numbers(judged, found), "distributions": judged.rows,
            "frame_scores": judged.frame_scores,
            "worst": [{**asdict(worst), "file": f"worst/{worst_name(judged, k)}.gro"}
                      for k, worst in enumerate(judged.worst)]}


def worst_name(judged: Judged, k: int) -> str:
    """Name of the file of the ``k``-th worst conformation, without its ending."""
    return f"{slug(judged.label)}_{k + 1}"


def csv_rows(judged: Judged, found: Validation) -> list[dict[str, Any]]:
    """Rows of ``scores.csv`` about one set: the numbers of the table, then every distribution."""
    values = numbers(judged, found)
    same = {"label": judged.label, "refine": judged.choice.refine if judged.choice else ""}
    rows = [{**same, "kind": "summary", "name": q.key, "value": values[q.key], "floor": values.get(q.floor, "")}
            for q in QUANTITIES if not np.isnan(values.get(q.key, np.nan))]
    return rows + [{**same, "kind": "force", "name": row.quantity, "value": row.divergence,
                    **{key: getattr(row, key) for key in COLUMNS if hasattr(row, key)}} for row in judged.rows]
