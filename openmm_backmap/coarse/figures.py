"""Figures of a fit: distributions and potentials of an iteration, and how the divergences fell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.analysis import page
from openmm_backmap.coarse.distributions import Distributions
from openmm_backmap.coarse.graph import PAIR
from openmm_backmap.coarse.model import KINDS, UNITS, CGModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4
_GREY, _BLUE, _ORANGE = "#b8bec4", "#0072b2", "#d55e00"
_HIGHEST_KJ = 30.0


def iteration_figure(model: CGModel, target: Distributions, run: Distributions) -> Figure:
    """Every term: the distribution of its variable, target (grey) and run (blue), and below it the potential."""
    names = list(target.x)
    n_rows = -(-len(names) // _COLUMNS)
    columns = min(len(names), _COLUMNS)
    figure = page.figure(3 * columns, 3.6 * n_rows)
    panels = figure.subplots(2 * n_rows, columns, squeeze=False)
    for axes in panels.ravel():
        axes.axis("off")
    for k, name in enumerate(names):
        above, below = (panels[2 * (k // columns) + row, k % columns] for row in (0, 1))
        x, kind = target.x[name], name.split()[0]
        above.axis("on")
        above.fill_between(x, target.curve(name), color=_GREY, label="target")
        above.plot(x, run.curve(name), color=_BLUE, label="run")
        seen = x[(target.total(name) + run.total(name)) > 0]
        window = (0.0, x[-1]) if kind == PAIR or not len(seen) else (seen[0], seen[-1] + 1e-9)
        above.set(title=name, xlim=window, ylabel="g(r)" if kind == PAIR else "", ylim=(0, None))
        term = next((t for t in model.terms if t.name == name), None)
        if term is None:
            above.set_xlabel(f"{UNITS[kind]} (no potential)")
            continue
        below.axis("on")
        shown = (term.x >= window[0]) & (term.x <= window[1])
        energy = np.where(shown & (term.energy < _HIGHEST_KJ), term.energy, np.nan)
        below.plot(term.x, energy, color=_ORANGE)
        below.set(xlim=window, xlabel=UNITS[kind], ylabel="kJ/mol")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure


def convergence_figure(scores: Sequence) -> Figure:
    """Divergence of every term by iteration; dotted, its sampling floor."""
    figure = page.figure(9, 3.6)
    panels = figure.subplots(1, 2)
    for axes, wanted, label in ((panels[0], lambda kind: kind != PAIR, "Jensen-Shannon divergence (bits)"),
                                (panels[1], lambda kind: kind == PAIR, "mean difference of g(r)")):
        names = [n for n in dict.fromkeys(s.term for s in scores) if wanted(n.split()[0])]
        for k, name in enumerate(sorted(names, key=lambda n: KINDS.index(n.split()[0]))):
            rows = [s for s in scores if s.term == name]
            axes.plot([s.iteration for s in rows], [s.divergence for s in rows], "o-", color=f"C{k}", markersize=3,
                      label=name)
            if np.isfinite(rows[0].floor):
                axes.axhline(rows[0].floor, color=f"C{k}", linestyle=":", linewidth=1)
        axes.set(xlabel="iteration", ylabel=label, yscale="log")
        if names:
            axes.legend(fontsize=7, frameon=False)
    panels[1].set_title("dotted: sampling floor", fontsize=8)
    return figure
