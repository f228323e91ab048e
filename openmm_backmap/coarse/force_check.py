"""What a learned force field makes of its molecule: a run, and its distributions beside those of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.analysis import page
from openmm_backmap.chemistry import Target
from openmm_backmap.coarse.blocks import Progress
from openmm_backmap.coarse.copies import Copies, CopiesSettings, beginning
from openmm_backmap.coarse.graph import bonded_terms
from openmm_backmap.coarse.model import UNITS
from openmm_backmap.coarse.neural_file import NeuralModel
from openmm_backmap.geometry.internal import bond_angles, bond_lengths, dihedral_angles
from openmm_backmap.statistics import jensen_shannon

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COPIES, _EVERY_PS, _BEFORE = 100, 0.5, 0.2
_BINS, _COLUMNS = 72, 4
_VALUES = {"bond": bond_lengths, "angle": bond_angles, "dihedral": dihedral_angles, "improper": dihedral_angles}
_GREY, _BLUE = "#b8bec4", "#0072b2"


@dataclass(frozen=True)
class TermScore:
    """One term: Jensen-Shannon divergence (bits) of the run from the reference, and of the one half of the reference
    from the other."""

    term: str
    divergence: float
    floor: float


def check_run(model: NeuralModel, ps: float, seed: int, platform: str | None, progress: Progress) -> np.ndarray:
    """Beads (n_frames, n_beads, 3), nm, of 100 molecules in a run of ``ps``; a fifth of it goes before."""
    settings = CopiesSettings((1 + _BEFORE) * ps, min(_EVERY_PS, ps), seed=seed, copies=COPIES)
    dynamics = Copies(model, settings, platform)
    dynamics.start(beginning(model, settings), np.random.default_rng(seed))
    before, frames = int(_BEFORE / (1 + _BEFORE) * settings.n_frames), []
    for k, state in enumerate(dynamics.frames(settings.n_frames)):
        progress("run of the model", k, settings.n_frames)
        if k >= before:
            frames.append(state.positions.reshape(COPIES, -1, 3))
    return np.concatenate(frames)


def term_scores(target: Target, reference: np.ndarray, run: np.ndarray) -> list[TermScore]:
    """Every bonded term of beads (n_frames, n_beads, 3), nm; the halves of the reference are its first and its last."""
    half, scores = len(reference) // 2, []
    for name, members in bonded_terms(target).items():
        ours, theirs = _values(name, run, members), _values(name, reference, members)
        edges = _edges(name, theirs, ours)
        counts = [np.histogram(values, edges)[0] for values in (theirs, ours, theirs[:half], theirs[half:])]
        scores.append(TermScore(name, jensen_shannon(*counts[:2]), jensen_shannon(*counts[2:])))
    return scores


def distributions_figure(target: Target, reference: np.ndarray, run: np.ndarray) -> Figure:
    """Every bonded term, reference (grey) and run (blue)."""
    terms = bonded_terms(target)
    rows = -(-len(terms) // _COLUMNS)
    figure = page.figure(3 * _COLUMNS, 2.2 * rows)
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, (name, members) in zip(panels, terms.items()):
        ours, theirs = _values(name, run, members), _values(name, reference, members)
        edges = _edges(name, theirs, ours)
        for found, color, fill, label in ((theirs, _GREY, True, "reference"), (ours, _BLUE, False, "run")):
            axes.stairs(*np.histogram(found, edges, density=True), color=color, fill=fill, label=label)
        axes.set_title(name, fontsize=7)
        axes.set(xlabel=UNITS[name.split()[0]], yticks=[])
    for axes in panels[len(terms):]:
        axes.axis("off")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure


def _values(name: str, x: np.ndarray, members: np.ndarray) -> np.ndarray:
    return _VALUES[name.split()[0]](x[:, members])


def _edges(name: str, *values: Sequence[np.ndarray]) -> np.ndarray:
    if name.split()[0] in ("dihedral", "improper"):
        return np.linspace(-180.0, 180.0, _BINS + 1)
    return np.linspace(min(v.min() for v in values), max(v.max() for v in values), _BINS + 1)
