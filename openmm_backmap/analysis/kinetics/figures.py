"""Figures of a judgement of trajectories: the reference is grey, each label has one colour throughout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.analysis import page
from openmm_backmap.analysis.evaluation.figures import COLOURS, GREY, grid, legend
from openmm_backmap.analysis.kinetics.moves import ALL, FRAME
from openmm_backmap.analysis.kinetics.results import Judged, Judgement
from openmm_backmap.analysis.kinetics.surface import HIGHEST_KT, free_energies

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ENERGY_BINS = 80
_SHOWN_KT = 8.0
_DARK = "#555b61"


def figures(found: Judgement) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure, one by one."""
    yield ("energies", "Potential energy of the molecule. Grey: the reference. What lies outside of the window is "
           "given as a share.", _energies(found))
    yield ("surfaces", f"Free-energy surfaces, kT, the lowest bin of each at 0. Differences are taken where the "
           f"reference lies below {HIGHEST_KT:g} kT (white line).", _surfaces(found))
    yield ("timescales", "Implied timescales, with the middle 95 % of the posterior. Below the grey line, which is the "
           "lag, a process is over before it is seen.", _timescales(found))
    yield ("lags", "Implied timescales of models at other lags, of greatest likelihood: a model is sound where they "
           "stay the same. Each panel is a process; grey: the reference.", _lags(found))
    yield ("similarity", "Cosines between the processes of the reference (rows) and of each label (columns).",
           _similarity(found))
    yield ("displacements", "Displacements of atoms between consecutive frames: in the laboratory, and with the beads "
           "of the two frames laid on each other. Grey: the reference.", _displacements(found))
    yield ("states", "Populations of the metastable states of the reference.", _states(found))


def _colour(found: Judgement, judged: Judged) -> str:
    return COLOURS[found.judged.index(judged) % len(COLOURS)]


def _energies(found: Judgement) -> Figure:
    drawn = page.figure(8, 4)
    axes = drawn.subplots()
    own = found.reference.measured.energies
    low, high = np.quantile(own[np.isfinite(own)], (1e-4, 1 - 1e-4))
    edges = np.linspace(low - 0.1 * (high - low), high + 0.3 * (high - low), _ENERGY_BINS + 1)
    notes = []
    for judged in (found.reference, *found.judged):
        energies = judged.measured.energies
        counts = np.histogram(energies, edges)[0]
        density = counts / len(energies) / np.diff(edges)
        style = {"fill": True, "color": GREY} if judged is found.reference else {"color": _colour(found, judged)}
        axes.stairs(density, edges, label=judged.label, **style)
        outside = 1 - counts.sum() / len(energies)
        notes += [f"{judged.label}: {outside:.1%} outside"] if outside > 1e-3 else []
    axes.set(xlabel="potential energy (kJ/mol)", ylabel="density", title="; ".join(notes))
    axes.title.set_fontsize(9)
    legend(drawn, axes)
    return drawn


def _surfaces(found: Judgement) -> Figure:
    shown = (found.reference, *found.judged)
    drawn, panels = grid(len(shown), wide=3.4, high=3.1)
    x, y = found.coordinates.edges
    middle = [(edges[1:] + edges[:-1]) / 2 for edges in (x, y)]
    own = free_energies(found.reference.surface.sum(axis=0))
    for axes, judged in zip(panels, shown):
        counts = judged.surface.sum(axis=0)
        energy = free_energies(counts)
        energy = np.where(counts > 0, energy - energy.min(), np.nan)
        image = axes.pcolormesh(x, y, energy.T, vmin=0, vmax=_SHOWN_KT, cmap="viridis")
        axes.contour(*middle, (own - own.min()).T, levels=[HIGHEST_KT], colors="white", linewidths=0.8)
        axes.set(title=judged.label, xlabel=found.coordinates.names[0], ylabel=found.coordinates.names[1])
    drawn.colorbar(image, ax=panels, label="free energy (kT)")
    return drawn


def _timescales(found: Judgement) -> Figure:
    drawn = page.figure(8, 4)
    axes = drawn.subplots()
    shown = (found.reference, *found.judged)
    for k, judged in enumerate(shown):
        times = found.times(judged.kinetics)
        place = np.arange(1, found.n_processes + 1) + 0.6 * ((k + 0.5) / len(shown) - 0.5)
        axes.errorbar(place, times[0], yerr=np.abs(times[1:] - times[0]), fmt="o", capsize=4, label=judged.label,
                      color=_DARK if judged is found.reference else _colour(found, judged))
    axes.axhline(found.reference.kinetics.model.lag * found.spacing, color=GREY)
    axes.set(xticks=range(1, found.n_processes + 1), xlabel="process", yscale="log",
             ylabel=f"timescale ({found.time_unit})")
    _whole_decades(axes, [found.times(judged.kinetics) for judged in shown])
    legend(drawn, axes)
    return drawn


def _whole_decades(axes: Axes, values: list[np.ndarray]) -> None:
    """A logarithmic axis from a power of ten, so that it has labels however little values differ."""
    values = np.concatenate([np.ravel(value) for value in values])
    values = values[np.isfinite(values) & (values > 0)]
    axes.set_ylim(10.0 ** np.floor(np.log10(values.min())), 1.5 * values.max())
    axes.yaxis.set_minor_formatter("")


def _lags(found: Judgement) -> Figure:
    drawn, panels = grid(found.n_processes, wide=3.2, high=2.6)
    lags = np.array(found.lags) * found.spacing
    for process, axes in enumerate(panels):
        for judged in (found.reference, *found.judged):
            own = judged is found.reference
            axes.plot(lags, judged.kinetics.by_lag[:, process] * found.spacing * judged.kinetics.scale, marker="o",
                      markersize=3, label=judged.label, color=_DARK if own else _colour(found, judged))
        axes.fill_between(lags, lags, color=GREY, alpha=0.5)
        axes.set(xscale="log", yscale="log", title=f"process {process + 1}", xlabel=f"lag ({found.time_unit})",
                 ylabel=f"timescale ({found.time_unit})")
        axes.xaxis.set_minor_formatter("")
        axes.yaxis.set_minor_formatter("")
    legend(drawn, panels[0])
    return drawn


def _similarity(found: Judgement) -> Figure:
    shown = [("halves of the reference", found.halves), *((j.label, j.kinetics) for j in found.judged)]
    drawn, panels = grid(len(shown), wide=2.6, high=2.5)
    for axes, (label, kinetics) in zip(panels, shown):
        axes.imshow(kinetics.similarity, vmin=0, vmax=1, cmap="Greys")
        for (i, j), value in np.ndenumerate(kinetics.similarity):
            if np.isfinite(value):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.5 else "black")
        ticks = range(found.n_processes)
        axes.set(xticks=ticks, yticks=ticks, xticklabels=[k + 1 for k in ticks], yticklabels=[k + 1 for k in ticks])
        axes.set_title(label, fontsize=10)
    return drawn


def _displacements(found: Judgement) -> Figure:
    kinds = list(found.reference.measured.moves)
    drawn, panels = grid(2 * len(kinds), wide=4.4, high=3.0, columns=2)
    for axes, (kind, name) in zip(panels, [(kind, name) for kind in kinds for name in (ALL, FRAME)]):
        own = found.reference.measured.moves[kind]
        edges = own.edges(name) * 1.3
        for judged in (found.reference, *found.judged):
            table = judged.measured.moves[kind].coarse(name, edges, judged.move_scales.get(kind, 1.0)).sum(axis=0)
            density = table[:-1] / max(table.sum(), 1) / np.diff(edges)
            style = {"fill": True, "color": GREY} if judged is found.reference else {"color": _colour(found, judged)}
            axes.stairs(density, edges, label=judged.label, **style)
        axes.set(title=f"{kind}, {name}", xlabel="displacement (nm)", ylabel="density")
    legend(drawn, panels[0])
    return drawn


def _states(found: Judgement) -> Figure:
    drawn = page.figure(8, 3.2)
    axes = drawn.subplots()
    shown = (found.reference, *found.judged)
    width = 0.8 / len(shown)
    for k, judged in enumerate(shown):
        place = np.arange(len(judged.populations)) + (k + 0.5) * width - 0.4
        axes.bar(place, judged.populations, width, label=judged.label,
                 color=GREY if judged is found.reference else _colour(found, judged))
    n = len(found.reference.populations)
    axes.set(xticks=range(n), xticklabels=[f"state {k + 1}" for k in range(n)], ylabel="population", yscale="log")
    _whole_decades(axes, [judged.populations for judged in shown])
    legend(drawn, axes)
    return drawn
