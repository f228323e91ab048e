"""The numbers of a judgement of trajectories as files: ``scores.json`` and ``scores.csv``; docs/kinetics.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from openmm_backmap.analysis.evaluation.scores import plain, write_json_and_csv
from openmm_backmap.analysis.kinetics.observables import CHECKS
from openmm_backmap.analysis.kinetics.results import Judged, Judgement, Kinetics, numbers, overlaps, summary_table

FORMAT, VERSION = "openmm_backmap trajectories", 1
COLUMNS = ("label", "kind", "name", "value", "error", "floor", "floor_sd", "low", "high")


def write_scores(found: Judgement, folder: Path) -> None:
    """Write ``scores.json`` and ``scores.csv`` into ``folder``, in place of older ones."""
    rows = (row for judged in (found.reference, *found.judged) for row in _rows(judged, found))
    write_json_and_csv(folder, as_json(found), COLUMNS, rows)


def as_json(found: Judgement) -> dict[str, Any]:
    """Everything that was found, as plain values; numbers that do not exist are null, infinite ones ``"inf"``."""
    return plain({
        "format": FORMAT, "version": VERSION, "provenance": found.provenance, "settings": found.settings,
        "time_unit": found.time_unit, "frame": found.spacing, "lags_frames": found.lags,
        "coordinates": found.coordinates.names, "floor": summary_table(found).rows[0][1],
        "reference": _label(found.reference, found),
        "judged": [{**_label(judged, found), "summary": numbers(judged, found), "values": judged.values}
                   for judged in found.judged]})


def _label(judged: Judged, found: Judgement) -> dict[str, Any]:
    measured, energies = judged.measured, judged.measured.energies
    finite = energies[np.isfinite(energies)]
    return {"label": judged.label, "kind": judged.kind, "trajectories": len(measured.lengths),
            "frames": measured.n_frames, "populations": judged.populations, "bead_rmsd_nm": measured.bead_rmsd,
            "energy": {"mean": finite.mean() if len(finite) else np.nan, "sd": finite.std() if len(finite) else np.nan,
                       "infinite_frames": len(energies) - len(finite)},
            "mean_displacement_nm": {kind: {name: counts.mean(name) for name in counts.tables}
                                     for kind, counts in measured.moves.items()},
            "displacement_factors": judged.move_scales, "markov": _markov(judged.kinetics, found),
            "wrong": dict(zip(CHECKS, measured.wrong.tolist()))}


def _markov(kinetics: Kinetics, found: Judgement) -> dict[str, Any]:
    times = found.times(kinetics)
    return {"timescales": times[0], "lower": times[1], "upper": times[2], "factor": kinetics.scale,
            "overlap": overlaps(found.times(found.reference.kinetics), times), "cells": len(kinetics.model.states),
            "cosines": kinetics.similarity, "by_lag": kinetics.by_lag * found.spacing * kinetics.scale}


def _rows(judged: Judged, found: Judgement) -> Iterator[dict[str, Any]]:
    """Rows of ``scores.csv`` about one label."""
    for kind, name, *values in _values(judged, found):
        yield {"label": judged.label, "kind": kind, "name": name,
               **{column: value for column, value in zip(COLUMNS[3:], values) if not np.isnan(value)}}


def _values(judged: Judged, found: Judgement) -> Iterator[tuple]:
    if judged.kind != "reference":
        yield from (("summary", name, value) for name, value in numbers(judged, found).items())
    for name, value in judged.values.items():
        kind, _, of = name.partition(":")
        yield kind if of else "divergence", of or name, value.value, value.error, value.floor, value.floor_sd
    times, nan = found.times(judged.kinetics), float("nan")
    for k in range(found.n_processes):
        yield "timescale", f"{k + 1}", times[0, k], nan, nan, nan, times[1, k], times[2, k]
    for k, share in enumerate(judged.populations):
        yield "population", f"state {k + 1}", share
