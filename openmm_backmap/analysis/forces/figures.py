"""Figures of a validation: the reference is grey, each set has one colour throughout, minimised ones are dashed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.analysis import page
from openmm_backmap.analysis.evaluation.figures import COLOURS, GREY, grid, legend
from openmm_backmap.analysis.forces.distributions import ALL, MAGNITUDE, types_of, values_of
from openmm_backmap.analysis.forces.results import Judged, Validation
from openmm_backmap.analysis.radial import HEAVY, radial_distribution

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 80
_FARTHEST = 1e3  # times the largest force of the reference
_RADIAL_NM = 0.45


def figures(found: Validation) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure, one by one."""
    shown = [judged for judged in found.judged if judged.rows]
    yield ("forces", "Distributions of the force on a bead, by logarithm of its size. Grey: the reference. A tail to "
           "the right is atoms that have no room (the last bin has all that is beyond); a shift to the left is "
           "structures that were minimised.",
           _distributions(found, shown))
    yield ("divergences", "Divergence of the distribution of |F| on all beads from the reference's, with standard "
           "errors. Grey: what parts of the reference have among themselves, two spreads about the mean.",
           _divergences(shown))
    yield ("frames", "Large forces of each frame: share of its beads with a larger force than one in twenty of the "
           "reference. Where the frames of a set lie above those of the in-distribution set, a single one gives the "
           "model away.", _frames(shown))
    yield ("radial", "g(r) of heavy atoms (beyond three bonds) at small distances. Grey: the reference.",
           _radial(found, shown))


def _style(shown: list[Judged], judged: Judged) -> dict:
    sets = list(dict.fromkeys(j.label.removesuffix(", minimised") for j in shown))
    place = sets.index(judged.label.removesuffix(", minimised"))
    minimised = judged.choice is not None and judged.label.endswith(", minimised")
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": "--" if minimised else "-"}


def _distributions(found: Validation, shown: list[Judged]) -> Figure:
    beads = types_of(found.reference_forces)
    beads = [ALL, *beads] if len(beads) > 1 else beads
    drawn, panels = grid(len(beads), wide=4.2, high=3.0, columns=3)
    for axes, bead in zip(panels, beads, strict=True):
        own = values_of(found.reference_forces, bead, MAGNITUDE).ravel()
        others = [values_of(j.forces, bead, MAGNITUDE).ravel() for j in shown]
        highest = max(np.max(x[np.isfinite(x)], initial=0.0) for x in (own, *others))
        edges = np.geomspace(max(np.quantile(own, 1e-3), own.max() * 1e-4),
                             min(max(highest, own.max()), own.max() * _FARTHEST), _BINS + 1)
        width = np.diff(np.log10(edges))
        axes.stairs(np.histogram(own, edges)[0] / own.size / width, edges, fill=True, color=GREY, label="reference")
        for judged, values in zip(shown, others, strict=True):
            counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
            axes.stairs(counts / values.size / width, edges, label=judged.label, **_style(shown, judged))
        axes.set(xscale="log", yscale="log", title=bead, xlabel="|F| (kJ/mol/nm)", ylabel="density of log |F|")
        # Labels of minor ticks would lie on one another where the axis is short.
        axes.xaxis.set_minor_formatter("")
    legend(drawn, panels[0])
    return drawn


def _divergences(shown: list[Judged]) -> Figure:
    drawn = page.figure(8, 1.2 + 0.35 * len(shown))
    axes = drawn.subplots()
    own = [judged.headline for judged in shown]
    axes.axvspan(max(own[0].floor - 2 * own[0].floor_sd, 0), own[0].floor + 2 * own[0].floor_sd, color=GREY)
    for k, (judged, row) in enumerate(zip(shown, own, strict=True)):
        axes.errorbar(row.divergence, k, xerr=None if np.isnan(row.error) else row.error, marker="o", capsize=3,
                      color=_style(shown, judged)["color"])
    axes.set(yticks=range(len(shown)), yticklabels=[judged.label for judged in shown], xlabel="divergence (bits)",
             xscale="log")
    axes.invert_yaxis()
    return drawn


def _frames(shown: list[Judged]) -> Figure:
    drawn = page.figure(8, 1.2 + 0.35 * len(shown))
    axes = drawn.subplots()
    for k, judged in enumerate(shown):
        axes.plot(100 * judged.frame_scores, np.full(len(judged.frame_scores), k), "o", alpha=0.6,
                  color=_style(shown, judged)["color"])
    axes.set(yticks=range(len(shown)), yticklabels=[judged.label for judged in shown],
             xlabel="large forces of a frame, %")
    axes.axvline(5, color=GREY, zorder=0)
    axes.invert_yaxis()
    return drawn


def _radial(found: Validation, shown: list[Judged]) -> Figure:
    drawn = page.figure(8, 4)
    axes = drawn.subplots()
    for judged in (None, *shown):
        d = found.reference if judged is None else judged.description
        edges = d.edges["radial"]
        g = radial_distribution(sum(d.radial[f"{HEAVY} {where}"] for where in ("intra", "inter")),
                                d.radial_density[f"{HEAVY} intra"], edges)
        n = int(np.searchsorted(edges, _RADIAL_NM))
        style = {"fill": True, "color": GREY, "label": "reference"} if judged is None else \
            {"label": judged.label, **_style(shown, judged)}
        axes.stairs(g[:n], edges[:n + 1], **style)
    axes.set(xlabel="r (nm)", ylabel="g(r)", yscale="symlog")
    axes.set_yscale("symlog", linthresh=1e-3)
    legend(drawn, axes)
    return drawn
