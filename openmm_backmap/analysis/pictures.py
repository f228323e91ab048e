"""Drawings of a result: all atoms, one chain with its beads, and histograms of what its geometry is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.analysis import page
from openmm_backmap.analysis.expectations import Expectation
from openmm_backmap.chemistry import Target
from openmm_backmap.geometry.periodic import molecules_into_box

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from openmm_backmap.backmapper import Backmapped

ELEMENT_COLOURS = {"H": "#e8e8e8", "C": "#5b6670", "N": "#3b6fd4", "O": "#d43b3b", "S": "#d4b23b"}
OTHER_COLOUR = "#c060c0"
BEAD_COLOURS = ("#f2b01e", "#12a5a0", "#7fb83d", "#d2649a", "#8a7fd1", "#8c8c8c")
BEAD_RADIUS_NM = 0.2
MOLECULE_COLOURS = ("#3b6aa0", "#c8453b", "#4c8f46", "#8a5fa8", "#8a6248", "#5d6670", "#c06c9c", "#7d8c2e", "#6d9bd1",
                    "#b3743a")
_RADII_NM = {"H": 0.08, "C": 0.13, "N": 0.12, "O": 0.12, "S": 0.15}
_OTHER_RADIUS_NM = 0.13
# Seen a little from above, so that a box shows its depth.
_VIEW = np.array([[0.92, 0.0, -0.39], [-0.13, 0.94, -0.31], [0.37, 0.34, 0.87]])
_FOUND, _EXPECTED = "#2a7fb8", "#d1662a"
_COLUMNS = 4
_BINS = 40


def system_figure(result: Backmapped) -> Figure:
    """All atoms of the first sample as spheres, molecules tinted, the box around them."""
    figure = page.figure(7, 7)
    axes = figure.add_subplot()
    target = result.target
    positions = molecules_into_box(result.positions[0], result.box, target.molecule_of_atom)
    tints = np.array([_rgb(colour) for colour in MOLECULE_COLOURS])[target.molecule_of_atom % len(MOLECULE_COLOURS)]
    light = np.where(np.array(target.elements) == "H", 0.7, 0.1)[:, None]
    _spheres(axes, positions, _per_element(target, _RADII_NM, _OTHER_RADIUS_NM), tints * (1 - light) + light)
    if result.box is not None:
        _draw_box(axes, result.box)
    return _bare(axes, figure)


def chain_figure(result: Backmapped) -> Figure:
    """The first molecule: sticks, small spheres, and its beads as translucent spheres around them."""
    from matplotlib.collections import LineCollection

    figure = page.figure(7, 5)
    axes = figure.add_subplot()
    target = result.target
    atoms, beads = np.flatnonzero(target.molecule_of_atom == 0), np.flatnonzero(target.molecule_of_bead == 0)
    centre = result.positions[0][atoms].mean(0)
    # Seen along its thinnest direction, the chain covers itself the least.
    turn = np.linalg.svd(result.positions[0][atoms] - centre, full_matrices=False)[2]
    x, r = (result.positions[0] - centre) @ turn.T, (result.beads - centre) @ turn.T
    bonds = target.bonds[target.molecule_of_atom[target.bonds[:, 0]] == 0]
    axes.add_collection(LineCollection(x[bonds][..., :2], colors="#8a949c", linewidths=2, zorder=1))
    colours = np.array([_rgb(ELEMENT_COLOURS.get(target.elements[a], OTHER_COLOUR)) for a in atoms])
    radii = 0.4 * _per_element(target, _RADII_NM, _OTHER_RADIUS_NM)[atoms]
    _spheres(axes, x[atoms], radii, colours, view=np.eye(3), zorder=2)
    tints = np.array([_rgb(BEAD_COLOURS[t % len(BEAD_COLOURS)]) for t in target.bead_type[beads]])
    _spheres(axes, r[beads], np.full(len(beads), BEAD_RADIUS_NM), tints, view=np.eye(3), zorder=3, alpha=0.3)
    return _bare(axes, figure)


def expectation_figure(expectations: Sequence[Expectation]) -> Figure:
    """A small plot for each: histogram found, and the Gaussian or (constrained) the length expected."""
    n_rows = -(-len(expectations) // _COLUMNS)
    figure = page.figure(11, 2.1 * n_rows + 0.4)
    panels = figure.subplots(n_rows, _COLUMNS, squeeze=False).ravel()
    for axes, expected in zip(panels, expectations):
        low, high = _span(expected)
        density, edges = np.histogram(expected.values, bins=_BINS, range=(low, high), density=True)
        axes.stairs(density, edges, fill=True, color=_FOUND, alpha=0.6, label="found")
        if expected.spread:
            x = np.linspace(low, high, 200)
            z = (x - expected.mean) / expected.spread
            axes.plot(x, np.exp(-z * z / 2) / (expected.spread * np.sqrt(2 * np.pi)), color=_EXPECTED, label="expected")
        else:
            axes.axvline(expected.mean, color=_EXPECTED, label="expected")
        axes.set_title(expected.name, fontsize=9, color="#b00020" if expected.remarks else "black")
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.locator_params(axis="x", nbins=4)
        axes.set(yticks=[], xlim=(low, high))
        axes.set_xlabel(expected.unit, fontsize=8)
    for axes in panels[len(expectations):]:
        axes.axis("off")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    return figure


def _span(expected: Expectation) -> tuple[float, float]:
    """What a plot of ``expected`` shows: all values found, and what is expected at all well."""
    margin = 4 * expected.spread or 2e-3 * abs(expected.mean)
    return (min(expected.mean - margin, expected.values.min()), max(expected.mean + margin, expected.values.max()))


def deviation_figure(deviations: Mapping[str, np.ndarray], marks: Mapping[str, float]) -> Figure:
    """Histograms of distances, nm, by bead type, with lines where ``marks`` say."""
    figure = page.figure(7, 3)
    axes = figure.add_subplot()
    most = max(max(values.max() for values in deviations.values()), *marks.values())
    edges = np.linspace(0, 1.05 * most or 1.0, _BINS + 1)
    for k, (name, values) in enumerate(deviations.items()):
        axes.hist(values, bins=edges, histtype="stepfilled", alpha=0.5, label=name, color=BEAD_COLOURS[k % len(
            BEAD_COLOURS)])
    for style, (name, value) in zip(("--", ":"), marks.items()):
        axes.axvline(value, linestyle=style, color="black", linewidth=1, label=f"{name} ({value:.2g} nm)")
    axes.set(xlabel="distance of M(r) from its bead (nm)", ylabel="beads", xlim=(0, edges[-1]))
    axes.legend(frameon=False, fontsize=8)
    return figure


def dihedral_figure(found: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of dihedral angles, degrees, by type: a small plot for each."""
    n_rows = -(-len(found) // _COLUMNS)
    figure = page.figure(11, 1.9 * n_rows)
    panels = figure.subplots(n_rows, _COLUMNS, squeeze=False).ravel()
    for axes, (name, values) in zip(panels, found.items()):
        density, edges = np.histogram(values, bins=72, range=(-180, 180), density=True)
        axes.stairs(density, edges, fill=True, color=_FOUND, alpha=0.6)
        axes.set_title(name, fontsize=9)
        axes.set(yticks=[], xlim=(-180, 180), xticks=range(-180, 181, 90))
        axes.tick_params(labelsize=7)
        axes.set_xlabel("degrees", fontsize=8)
    for axes in panels[len(found):]:
        axes.axis("off")
    return figure


def packed_colours(colours: Sequence[str]) -> np.ndarray:
    """``#rrggbb`` as integers 0xRRGGBB, shape (n,)."""
    return np.array([int(colour.lstrip("#"), 16) for colour in colours], dtype=np.int64)


def box_edges(box: np.ndarray) -> np.ndarray:
    """The twelve edges (12, 2, 3), nm, of ``box`` (3, 3)."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    edges = [(a, b) for a, b in combinations(range(8), 2) if np.abs(corners[a] - corners[b]).sum() == 1]
    return (corners @ box)[np.array(edges)]


def _per_element(target: Target, table: dict[str, float], other: float) -> np.ndarray:
    return np.array([table.get(element, other) for element in target.elements])


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


def _spheres(axes: Axes, positions: np.ndarray, radii: np.ndarray, colours: np.ndarray, *,
             view: np.ndarray = _VIEW, zorder: float = 1, alpha: float = 1.0) -> None:
    """Discs in the order of their depth, farther ones paler: quick, and clear enough for thousands of atoms."""
    from matplotlib.collections import EllipseCollection

    seen = positions @ view.T
    order = np.argsort(seen[:, 2])
    depth = np.ptp(seen[:, 2]) or 1.0
    fog = 0.45 * (seen[:, 2].max() - seen[order, 2])[:, None] / depth
    faces = np.c_[np.clip(colours[order] * (1 - fog) + fog, 0, 1), np.full(len(order), alpha)]
    edges = np.c_[faces[:, :3] * 0.6, np.full(len(order), alpha)]
    size = 2 * radii[order]
    axes.add_collection(EllipseCollection(
        size, size, np.zeros(len(order)), units="xy", offsets=seen[order, :2], offset_transform=axes.transData,
        facecolors=faces, edgecolors=edges, linewidths=0.3, zorder=zorder))
    axes.update_datalim(np.concatenate([seen[:, :2] - radii.max(), seen[:, :2] + radii.max()]))


def _draw_box(axes: Axes, box: np.ndarray) -> None:
    from matplotlib.collections import LineCollection

    seen = (box_edges(box) @ _VIEW.T)[..., :2]
    axes.add_collection(LineCollection(seen, colors="#303030", linewidths=0.8, zorder=3))
    axes.update_datalim(seen.reshape(-1, 2))


def _bare(axes: Axes, figure: Figure) -> Figure:
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.axis("off")
    return figure
