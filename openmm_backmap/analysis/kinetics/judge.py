"""Trajectories of one molecule compared with a reference trajectory, however they were made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from openmm_backmap import __version__
from openmm_backmap.analysis.evaluate import provenance
from openmm_backmap.analysis.evaluation.draws import check_labels
from openmm_backmap.analysis.kinetics.blocks import Value, compared
from openmm_backmap.analysis.kinetics.energies import FrameEnergies
from openmm_backmap.analysis.kinetics.markov import (
    cells_of,
    implied_timescales,
    markov_model,
    metastable_states,
    similarity,
)
from openmm_backmap.analysis.kinetics.measure import BLOCKS, Measured, measure
from openmm_backmap.analysis.kinetics.moves import ALL, kinds_of_moves
from openmm_backmap.analysis.kinetics.observables import Observables, observables_of
from openmm_backmap.analysis.kinetics.reading import Trajectories, open_trajectories
from openmm_backmap.analysis.kinetics.results import INDEPENDENT, Judged, Judgement, Kinetics
from openmm_backmap.analysis.kinetics.surface import (
    Coordinates,
    coordinates_of,
    largest_difference,
    mean_difference,
)
from openmm_backmap.chemistry import load_chemistry, parse_aliases
from openmm_backmap.errors import InputError
from openmm_backmap.statistics import jensen_shannon

Progress = Callable[[str, int, int], None]
REFERENCE = "reference"
_ENERGY_BINS, _OUTSIDE = 50, 1e-3
_LAGS = (1, 2, 5, 10, 20, 50, 100)
_HALF_SAMPLES = 20


def judge_trajectories(reference: Sequence[str | Path], trajectories: Mapping[str, Sequence[str | Path]], *,
                       out: str | Path, chemistry: str | Path, independent: Sequence[str | Path] = (),
                       topology: str | Path | None = None, aliases: Sequence[str] = (), lag: int = 5,
                       n_processes: int = 3, n_cells: int = 100, frame_ps: float | None = None,
                       normalise: Sequence[str] = (), seed: int = 1, platform: str | None = None,
                       progress: Progress | None = None) -> Judgement:
    """Compare trajectories with a reference, and write ``report.html``, ``scores.json``, ``scores.csv`` and
    ``figures/`` into ``out``.

    Parameters
    ----------
    reference : paths
        Atomistic trajectories of one molecule; several are independent of each other.
    trajectories : dict of str to paths
        What is judged, by label.
    out : path
        Folder of the results.
    chemistry : str or Path
        Shipped name or file.
    independent : paths, optional
        Atomistic trajectories that are judged as well, to tell what another run of the same dynamics scores.
    topology : path, optional
        A structure that names the atoms of trajectories.
    aliases : sequence of str, optional
        ``OLD=NEW`` names in files.
    lag : int
        Of the Markov models, frames; also of the slow coordinates, where they are needed.
    n_processes : int
        Slowest processes that are compared; one more metastable state is.
    n_cells : int
        Of the Markov models.
    frame_ps : float, optional
        Time between frames; what the reference's files say without it.
    normalise : sequence of str
        Labels whose clock is another, as of a coarse-grained run: their timescales are multiplied so that the slowest,
        and their displacements so that the mean, is the reference's.
    seed : int
    platform : str, optional
        OpenMM platform of the energies.
    progress : callable, optional
        ``progress(stage, done, total)``.

    Raises
    ------
    InputError, ChemistryError, UnknownNameError
        Files that cannot be used or do not fit each other.
    """
    from openmm_backmap.analysis.kinetics.page import write_page
    from openmm_backmap.analysis.kinetics.scores import write_scores

    labels = ([INDEPENDENT] if independent else []) + list(trajectories)
    _check(labels, trajectories, normalise, Path(out))
    known = load_chemistry(chemistry)
    opening = dict(chemistry=known, topology=topology, aliases=parse_aliases(aliases))
    own = open_trajectories(REFERENCE, reference, strict=True, **opening)
    opened = [open_trajectories(INDEPENDENT, independent, strict=True, **opening)] if independent else []
    opened += [open_trajectories(label, paths, **opening) for label, paths in trajectories.items()]
    for runs in opened:
        if runs.target.chains != own.target.chains:
            raise InputError(f"{runs.sources[0].path}: holds another molecule than the reference "
                             f"{own.sources[0].path}")
    settings = {"chemistry": known.name, "chemistry_sha256": known.sha256, "lag_frames": lag, "cells": n_cells,
                "processes": n_processes, "seed": seed, "normalised": list(normalise), "frame_ps": frame_ps,
                "openmm_backmap": __version__,
                "files": {runs.label: [str(s.path) for s in runs.sources] for runs in (own, *opened)}}
    measured, observables = _measured(own, opened, FrameEnergies(own.target, platform), progress)
    found = _Comparison(measured, observables, settings, progress).judgement(frame_ps)
    Path(out).mkdir(parents=True, exist_ok=True)
    write_scores(found, Path(out))
    write_page(found, Path(out), progress)
    return found


def _check(labels: list[str], trajectories: Mapping, normalise: Sequence[str], out: Path) -> None:
    """Refuse, before any work is done, what cannot end well."""
    if not labels:
        raise InputError("nothing to judge: give trajectories as LABEL=FILE, or an independent run")
    check_labels(labels)
    strangers = sorted(set(normalise) - set(trajectories))
    if strangers:
        raise InputError(f"{strangers[0]!r} is to be normalised, and is the label of no trajectory")
    if out.exists() and (not out.is_dir() or any(out.iterdir()) and not (out / "scores.json").exists()):
        raise InputError(f"{out} is there and is no folder of such results; use another --out")


def _measured(own: Trajectories, opened: Sequence[Trajectories], energies: FrameEnergies,
              progress: Progress | None) -> tuple[list[Measured], Observables]:
    first = next(own.pieces(0))
    observables = observables_of(own.target, first.positions)
    moves = kinds_of_moves(own.target, first.positions, first.boxes)
    found = [measure(own, observables, energies, moves, None, progress)]
    return found + [measure(runs, observables, energies, moves, found[0], progress) for runs in opened], observables


class _Comparison:
    """Everything that is found from what was measured; the reference is the first."""

    def __init__(self, measured: list[Measured], observables: Observables, settings: dict[str, Any],
                 progress: Progress | None):
        self.measured, self.observables, self.settings = measured, observables, settings
        self.tell = progress or (lambda *_: None)
        self.reference, self.lag = measured[0], settings["lag_frames"]
        self.n_processes, self.seed = settings["processes"], settings["seed"]
        self.lags = tuple(sorted({*_LAGS, self.lag}))
        self.coordinates: Coordinates = coordinates_of(self.reference, observables.dihedrals is not None, self.lag)

    def judgement(self, frame_ps: float | None) -> Judgement:
        planes = [self.coordinates.of(m) for m in self.measured]
        model = cells_of(self.coordinates.points(planes[0]), self.settings["cells"], self.seed)
        cells = [model.transform(self.coordinates.points(plane)) for plane in planes]
        kinetics = self._kinetics(cells)
        states = metastable_states(kinetics[0].model, self.n_processes + 1, self.settings["cells"])
        surfaces = [self.coordinates.counts(plane, m.block) for plane, m in zip(planes, self.measured)]
        judged = [Judged(m.label, self._kind(m.label), m, surface, self._populations(states[c]), k, {})
                  for m, surface, c, k in zip(self.measured, surfaces, cells, kinetics)]
        compared = [judged[0]]
        for k, one in enumerate(judged[1:], 1):
            self.tell("comparing", k, len(judged) - 1)
            compared.append(self._with_values(one, judged[0]))
        spacing = frame_ps or self.reference.spacing_ps
        return Judgement(
            compared[0], tuple(compared[1:]), self._halves(cells[0]),
            np.array([self._populations(states[part]) for part in np.array_split(cells[0], 2)]), self.coordinates,
            self.lags, spacing or 1.0, "ps" if spacing else "frames", self.observables.check_sizes, self.settings,
            provenance())

    def _kind(self, label: str) -> str:
        return {REFERENCE: "reference", INDEPENDENT: "independent"}.get(label, "judged")

    def _populations(self, state: np.ndarray) -> np.ndarray:
        """Shares (n_states,) of frames; those in cells that the reference does not connect are in none."""
        return np.bincount(state[state >= 0], minlength=self.n_processes + 1) / len(state)

    def _kinetics(self, cells: list[np.ndarray]) -> list[Kinetics]:
        found: list[Kinetics] = []
        for k, (measured, cell) in enumerate(zip(self.measured, cells)):
            self.tell("Markov models", k, len(cells) + 1)
            paths = measured.split(cell)
            model = markov_model(paths, self.lag, self.n_processes, self.seed, measured.label)
            first = found[0].model if found else model
            scale = first.timescales[0] / model.timescales[0] if measured.label in self.settings["normalised"] else 1.0
            found.append(Kinetics(model, float(scale), similarity(first, model),
                                  implied_timescales(paths, self.lags, self.n_processes)))
        return found

    def _halves(self, cell: np.ndarray) -> Kinetics:
        """The later half of the reference against the earlier."""
        self.tell("Markov models", len(self.measured), len(self.measured) + 1)
        owner = np.repeat(np.arange(len(self.reference.lengths)), self.reference.lengths)
        models = []
        for part in np.array_split(np.arange(len(cell)), 2):
            paths = [cell[part[owner[part] == k]] for k in np.unique(owner[part])]
            models.append(markov_model(paths, self.lag, self.n_processes, self.seed, "half of the reference",
                                       _HALF_SAMPLES))
        return Kinetics(models[1], 1.0, similarity(*models), np.empty((0, self.n_processes)))

    def _with_values(self, judged: Judged, reference: Judged) -> Judged:
        own, other = reference.measured, judged.measured
        edges = energy_edges(own.energies)
        tables = [energy_counts(m.energies, edges, m.block) for m in (own, other)]
        values = {"energy": compared(*tables, jensen_shannon)}
        surfaces = reference.surface, judged.surface
        values |= {"surface_largest": compared(*surfaces, largest_difference),
                   "surface_mean": compared(*surfaces, mean_difference),
                   "surface": compared(*(s.reshape(BLOCKS, -1) for s in surfaces), jensen_shannon)}
        scaled = judged.label in self.settings["normalised"]
        scales = {}
        for kind, counts in own.moves.items():
            theirs = other.moves[kind]
            scales[kind] = counts.mean(ALL) / theirs.mean(ALL) if scaled else 1.0
            values |= {f"{kind}:{name}": _moved(counts, theirs, name, scales[kind]) for name in counts.tables}
        return replace(judged, values=values, move_scales=scales)


def _moved(own, theirs, name: str, scale: float) -> Value:
    edges = own.edges(name)
    return compared(own.coarse(name, edges), theirs.coarse(name, edges, scale), jensen_shannon)


def energy_edges(energies: np.ndarray) -> np.ndarray:
    """Bins of equal width, kJ/mol, between what one in a thousand of the reference's energies is below and above."""
    finite = energies[np.isfinite(energies)]
    low, high = np.quantile(finite, (_OUTSIDE, 1 - _OUTSIDE))
    return np.linspace(low, max(high, low + 1e-3), _ENERGY_BINS + 1)


def energy_counts(energies: np.ndarray, edges: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Frames in each bin, (n_blocks, n_bins + 2), the first and last below and above all edges."""
    n = len(edges) + 1
    keys = block * n + np.searchsorted(edges, energies, side="right")
    return np.bincount(keys, minlength=BLOCKS * n).reshape(BLOCKS, n)
