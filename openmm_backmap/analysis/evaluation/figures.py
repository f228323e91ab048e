"""Figures of an evaluation: the reference is grey, each ensemble has one colour throughout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.analysis import page
from openmm_backmap.analysis.describe import WINDOWS, Description
from openmm_backmap.analysis.energies import ENERGIES
from openmm_backmap.analysis.evaluation.judging import NotDone
from openmm_backmap.analysis.evaluation.results import FLOOR, HEADLINE, Evaluation, Judged, Quantity, summary_table
from openmm_backmap.analysis.radial import radial_distribution
from openmm_backmap.analysis.relaxation import Relaxation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5a3c", "#000000")
GREY = "#b8bec4"
_COLUMNS = 4
_LEGEND_INCHES = 1.9  # a label of 20 letters with its handle
_MOST_TYPES = 24
_LEAST = 1e-4
_TITLES = {"bond": "bond length (nm)", "angle": "angle (degrees)", "dihedral": "dihedral (degrees)",
           "improper": "out-of-plane angle (degrees)"}


def figures(evaluation: Evaluation) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure, one by one: only what there are results for.

    Parameters
    ----------
    evaluation : Evaluation
    """
    shown = [judged for judged in evaluation.judged if judged.description is not None]
    if shown:
        yield ("divergences", "Divergence of every distribution from the reference, logarithmic. The grey bars reach "
               "from 0 to the floor and two of its spreads beyond: within them, a point cannot be told from sampling.",
               _divergences(evaluation, shown))
        for kind in WINDOWS:
            names = _worst_types(kind, evaluation.reference, shown)
            if names:
                left = len(evaluation.reference.histograms[kind]) - len(names)
                yield (f"distributions_{kind}", f"Distributions: {_TITLES[kind]}, by type. Grey: the reference."
                       + (f" The {left} types that diverge least are left out." if left else ""),
                       _distributions(kind, names, evaluation, shown))
        yield ("energies", "Energies of single molecules; half of a pair's energy goes to the molecule of either atom. "
               "Grey: the reference. What lies outside of the window is counted in the divergence, and given here as a "
               "share.", _energies(evaluation, shown))
        yield ("radial", "g(r) by pairs of atom types, between molecules and within (beyond three bonds). Grey: the "
               "reference.", _radial(evaluation, shown))
    yield from _others(evaluation)


def _others(evaluation: Evaluation) -> Iterator[tuple[str, str, Figure]]:
    tested = [j for j in evaluation.judged if j.two_sample is not None and not isinstance(j.two_sample, NotDone)]
    if tested:
        yield ("two_sample", "How well a classifier tells environments of atoms from those of the reference: 0.5 is "
               "not at all, 1 always. Grey: the same between parts of the reference. Bars are standard errors.",
               _two_sample(evaluation, tested))
    drawn = [j for j in evaluation.judged if j.diversity is not None and not isinstance(j.diversity, NotDone)]
    if drawn:
        from openmm_backmap.analysis import diversity

        yield ("diversity", "How far draws of one frame are from each other, and from the atomistic structure behind "
               "the frame where it is known. Right draws are as far from the one as from the other.",
               diversity.figure([j.diversity for j in drawn]))
    if evaluation.landscape is not None and not isinstance(evaluation.landscape, NotDone):
        from openmm_backmap.analysis import landscape

        yield ("landscape", "Environments on a map of their structure (sketch-map), the populations of its clusters, "
               "and the clusters that the environments of one monomer of one frame fall into before and after.",
               landscape.figure(evaluation.landscape))
    if isinstance(evaluation.start, Relaxation):
        yield ("relaxation", "Potential energy in dynamics from structures as they are. Grey: from the atomistic "
               "structures; the band is mean and standard deviation over the last half of these.",
               _relaxation(evaluation))


def colour(evaluation: Evaluation, judged: Judged) -> str:
    """The colour of an ensemble in all figures."""
    place = evaluation.judged.index(judged)
    if len(evaluation.judged) <= len(COLOURS):
        return COLOURS[place]
    import matplotlib

    return matplotlib.colors.to_hex(matplotlib.colormaps["tab20"](place % 20))


def grid(n: int, wide: float = 3.0, high: float = 2.2, columns: int = _COLUMNS) -> tuple[Figure, list[Axes]]:
    """A figure of ``n`` panels, inches each."""
    columns = min(columns, n)
    rows = -(-n // columns)
    drawn = page.figure(max(wide * columns, 5), high * rows + 0.5)
    axes = drawn.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[n:]:
        unused.axis("off")
    return drawn, list(axes[:n])


def legend(drawn: Figure, axes: Axes) -> None:
    """One legend above all panels, with what ``axes`` has labels for."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, int(drawn.get_figwidth() / _LEGEND_INCHES))
    drawn.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)


def _worst_types(kind: str, reference: Description, shown: list[Judged]) -> list[str]:
    worst = {row.name: 0.0 for row in shown[0].comparison.rows if row.kind == kind}
    for row in (row for judged in shown for row in judged.comparison.rows if row.kind == kind):
        worst[row.name] = max(worst[row.name], row.divergence)
    return sorted(sorted(worst, key=worst.get, reverse=True)[:_MOST_TYPES])


def _divergences(evaluation: Evaluation, shown: list[Judged]) -> Figure:
    of_floor = next((judged for judged in shown if judged.kind == "model"), shown[0])
    rows = [row for row in of_floor.comparison.rows if np.isfinite(row.divergence)]
    rows = rows if len(rows) <= 60 else sorted(rows, key=lambda row: -row.divergence)[:60]
    order = {(row.kind, row.name): k for k, row in enumerate(reversed(rows))}
    drawn = page.figure(9, 1.5 + 0.24 * len(rows))
    axes = drawn.add_subplot()
    for judged in shown:
        points = [(max(row.divergence, _LEAST), order[row.kind, row.name]) for row in judged.comparison.rows
                  if (row.kind, row.name) in order]
        axes.scatter(*np.array(points).T, color=colour(evaluation, judged), label=judged.label, s=22, zorder=3)
    reach = [np.nan_to_num(row.floor + 2 * row.floor_sd) for row in rows]
    axes.barh([order[row.kind, row.name] for row in rows], reach, color=GREY, label=FLOOR, zorder=1)
    axes.set(xscale="log", xlim=(_LEAST / 2, 1.2), xlabel="Jensen-Shannon divergence (bits)",
             yticks=list(order.values()), ylim=(-0.7, len(rows) - 0.3))
    axes.set_yticklabels([f"{kind}  {name}" for kind, name in order], fontsize=8)
    axes.grid(axis="x", color="#e4e4e4", zorder=0)
    legend(drawn, axes)
    return drawn


def _panels(n: int, draw: Callable[[int, Axes], None], xlabel: Callable[[int], str]) -> Figure:
    drawn, panels = grid(n)
    for k, axes in enumerate(panels):
        draw(k, axes)
        axes.set_yticks([])
        axes.set_xlabel(xlabel(k), fontsize=8)
        axes.tick_params(labelsize=8)
    legend(drawn, panels[0])
    return drawn


def _distributions(kind: str, names: list[str], evaluation: Evaluation, shown: list[Judged]) -> Figure:
    edges, reference = evaluation.reference.edges[kind], evaluation.reference

    def draw(k: int, axes: Axes) -> None:
        tables = [reference.histograms[kind][names[k]], *(j.description.histograms[kind][names[k]] for j in shown)]
        _steps(axes, [table.sum(axis=0)[:-1] for table in tables], edges, _styles(evaluation, shown))
        axes.set_title(names[k], fontsize=9)

    return _panels(len(names), draw, lambda k: _TITLES[kind])


def _styles(evaluation: Evaluation, shown: list[Judged]) -> list[dict]:
    """How each ensemble is drawn, wherever it is."""
    return [{"label": j.label, "color": colour(evaluation, j), "linewidth": 1.2} for j in shown]


def _steps(axes: Axes, counts: list[np.ndarray], edges: np.ndarray, styles: list[dict]) -> None:
    """Densities over the part of the window that any of them fills; the first is the reference."""
    filled = np.flatnonzero(sum(count / max(count.sum(), 1) for count in counts) > 1e-4)
    low, high = (max(filled[0] - 2, 0), min(filled[-1] + 3, len(edges) - 1)) if len(filled) else (0, len(edges) - 1)
    for k, count in enumerate(counts):
        density = (count / max(count.sum(), 1) / np.diff(edges))[low:high]
        if k == 0:
            axes.stairs(density, edges[low:high + 1], fill=True, color=GREY, label="reference")
        else:
            axes.stairs(density, edges[low:high + 1], **styles[k - 1])


def _energies(evaluation: Evaluation, shown: list[Judged]) -> Figure:
    reference = evaluation.reference
    names = [name for name in ENERGIES if np.ptp(reference.energies[name]) > 0]

    def draw(k: int, axes: Axes) -> None:
        values = reference.energies[names[k]].ravel()
        others = [j.description.energies[names[k]].ravel() for j in shown]
        # Unsound structures have energies beyond all bounds: the window is that of the reference, widened.
        middle, reach = np.median(values), 1.5 * np.ptp(values)
        edges = np.linspace(middle - reach, middle + reach, 61)
        counts = [np.histogram(v[np.isfinite(v)], bins=edges)[0] for v in (values, *others)]
        _steps(axes, counts, edges, _styles(evaluation, shown))
        outside = [1 - count.sum() / max(len(v), 1) for count, v in zip(counts, (values, *others), strict=True)]
        notes = [f"{judged.label}: {share:.0%} outside" for judged, share in zip(shown, outside[1:], strict=True)
                 if share > 0.005]
        axes.text(0.98, 0.97, "\n".join(notes), transform=axes.transAxes, ha="right", va="top", fontsize=7)
        axes.set_title(names[k], fontsize=9)

    return _panels(len(names), draw, lambda k: "kJ/mol a molecule")


def _radial(evaluation: Evaluation, shown: list[Judged]) -> Figure:
    reference, styles = evaluation.reference, _styles(evaluation, shown)
    names = [name for name in reference.radial if reference.radial[name].any()]

    def draw(k: int, axes: Axes) -> None:
        for m, description in enumerate([reference, *(j.description for j in shown)]):
            edges = description.edges["radial"]
            g = radial_distribution(description.radial[names[k]], description.radial_density[names[k]], edges)
            middle = (edges[1:] + edges[:-1]) / 2
            if m == 0:
                axes.fill_between(middle, g, color=GREY, label="reference", linewidth=0)
                axes.set_ylim(0, 1.6 * max(g.max(), 0.1))
            else:
                axes.plot(middle, g, **styles[m - 1])
        axes.set_title(names[k], fontsize=9)

    return _panels(len(names), draw, lambda k: "r (nm)")


def _two_sample(evaluation: Evaluation, tested: list[Judged]) -> Figure:
    drawn = page.figure(8, 1.2 + 0.45 * len(tested))
    axes = drawn.add_subplot()
    for k, judged in enumerate(reversed(tested)):
        test = judged.two_sample
        axes.errorbar(test.floor_auc, k + 0.12, xerr=test.floor_error, fmt="s", color=GREY, capsize=3)
        axes.errorbar(test.auc, k - 0.12, xerr=test.error, fmt="o", color=colour(evaluation, judged), capsize=3)
    axes.axvline(0.5, color="#808080", linewidth=0.8)
    axes.set(xlim=(0.4, 1.02), xlabel="area under the ROC curve", yticks=range(len(tested)),
             yticklabels=[judged.label for judged in reversed(tested)], ylim=(-0.6, len(tested) - 0.4))
    return drawn


def _relaxation(evaluation: Evaluation) -> Figure:
    drawn = page.figure(9, 4.5)
    axes = drawn.add_subplot()
    if evaluation.band is not None:
        low, high = (evaluation.band.mean + sign * evaluation.band.sd for sign in (-1, 1))
        axes.axhspan(low, high, color="#e6e9ec", zorder=0)
    runs = [(evaluation.start, "#707880", "atomistic")]
    runs += [(j.relaxation, colour(evaluation, j), j.label) for j in evaluation.judged
             if isinstance(j.relaxation, Relaxation) and j.relaxation is not evaluation.start]
    for run, tint, label in runs:
        label += " (fails)" if any(run.failures) else ""
        for k, energies in enumerate(run.energies):
            axes.plot(run.times, energies, color=tint, linewidth=1, label=label if k == 0 else None)
    values = np.concatenate([run.energies[:, 1:].ravel() for run, _, _ in runs])
    values = values[np.isfinite(values)]
    if len(values):
        centre = np.median(evaluation.start.energies[np.isfinite(evaluation.start.energies)])
        # What shoots up at the start must not flatten the rest.
        reach = np.percentile(np.abs(values - centre), 98) * 1.3 + 1
        axes.set_ylim(centre - reach, centre + reach)
    axes.set(xlabel="time (ps)", ylabel="potential energy (kJ/mol)", xlim=(0, evaluation.start.times[-1]))
    axes.legend(frameon=False, fontsize=9)
    return drawn


def summary_figure(evaluation: Evaluation) -> Figure:
    """The headline numbers as multiples of the floor."""
    table = summary_table(evaluation)
    wanted: list[Quantity] = [q for q in table.quantities if q.key in HEADLINE and table.rows[0][1].get(q.key)]
    drawn = page.figure(9, 3.2)
    axes = drawn.add_subplot()
    width = 0.8 / max(len(evaluation.judged), 1)
    for k, judged in enumerate(evaluation.judged):
        values = table.rows[k + 1][1]
        heights = [values.get(q.key, np.nan) / table.rows[0][1][q.key] for q in wanted]
        axes.bar(np.arange(len(wanted)) + (k - (len(evaluation.judged) - 1) / 2) * width, heights, 0.9 * width,
                 color=colour(evaluation, judged), label=judged.label)
    axes.axhline(1, color="#404040", linewidth=1)
    axes.set(yscale="log", ylabel="times the floor", xticks=range(len(wanted)),
             xticklabels=[q.title for q in wanted])
    axes.grid(axis="y", color="#e4e4e4", zorder=0)
    axes.set_axisbelow(True)
    legend(drawn, axes)
    return drawn
