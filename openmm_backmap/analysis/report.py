"""One self-contained page about a result, and a picture of it."""

from __future__ import annotations

import html
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.analysis import page
from openmm_backmap.chemistry import Target
from openmm_backmap.geometry.internal import (
    angles_of,
    bond_angles,
    bond_lengths,
    by_type,
    dihedral_angles,
    dihedrals_of,
)
from openmm_backmap.geometry.periodic import molecules_into_box
from openmm_backmap.io.writers import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from openmm_backmap.backmapper import Backmapped

_COLOURS = {"H": "#e8e8e8", "C": "#5b6670", "N": "#3b6fd4", "O": "#d43b3b", "S": "#d4b23b"}
_RADII_NM = {"H": 0.08, "C": 0.13, "N": 0.12, "O": 0.12, "S": 0.15}
_BEAD_COLOURS = ("#e08a1e", "#2a7fb8", "#4a9d4a", "#a04a9d", "#b03030", "#707070")
_BEAD_RADIUS_NM = 0.2
_KINDS_SHOWN = 6
# Seen a little from above, so that a box shows its depth.
_VIEW = np.array([[0.92, 0.0, -0.39], [-0.13, 0.94, -0.31], [0.37, 0.34, 0.87]])


def write_report(path: str | Path, result: Backmapped, *, overwrite: bool = False) -> None:
    """Write a page of HTML that needs nothing else: settings, energies, checks, distributions and pictures.

    Parameters
    ----------
    path : str or Path
    result : Backmapped
        Pictures and energies are those of its first sample; checks are listed for each.
    """
    name = str(result.provenance.get("input", ""))
    body = [f"<h1>Backmapped: {html.escape(name)}</h1>", _what(result), "<h2>Run</h2>",
            page.table(None, result.provenance.items())]
    if result.diagnostics:
        body += ["<h2>Energies (kJ/mol)</h2>", _energies(result), "<h2>Checks</h2>", _checks(result)]
    else:
        body += ["<p>The atoms are as the generator drew them: neither projected nor refined.</p>"]
    body += ["<h2>Structure</h2>", page.image(_system_figure(result), "all atoms"),
             page.image(_chain_figure(result), "one chain: atoms and, translucent, their beads"),
             "<h2>Distributions</h2>", page.image(_distributions(result), "bonds, angles and dihedrals by type")]
    with replacing(path, overwrite) as part:
        part.write_text(page.document(name, body), encoding="utf-8")


def write_picture(path: str | Path, result: Backmapped, *, overwrite: bool = False) -> None:
    """Write a picture (.png) of all atoms of the first sample."""
    with replacing(path, overwrite) as part:
        _system_figure(result).savefig(part, dpi=150, format="png")


def _what(result: Backmapped) -> str:
    n_samples, n_atoms, _ = result.positions.shape
    return (f"<p>{n_atoms:,} atoms in {len(result.target.chains):,} molecules for {len(result.beads):,} beads; "
            f"{n_samples} sample(s).</p>")


def _energies(result: Backmapped) -> str:
    report = result.diagnostics[0]
    rows = [(name, before, report.energies_after[name]) for name, before in report.energies_before.items()]
    rows.append(("total", sum(report.energies_before.values()), sum(report.energies_after.values())))
    rows.append(("largest force (kJ/mol/nm)", report.largest_force_before, report.largest_force_after))
    return page.table(("force", "before", "after"), rows)


def _checks(result: Backmapped) -> str:
    head = ("sample", "bead RMSD drawn (nm)", "bead RMSD (nm)", "bond error (nm)", "close contacts", "inverted centres",
            "pierced rings", "seconds")
    rows = [(k + 1, r.bead_rmsd_given, r.bead_rmsd, r.bond_error, r.close_contacts[1], r.inverted_centres[1],
             r.pierced_rings[1], sum(r.seconds.values())) for k, r in enumerate(result.diagnostics)]
    unsound = any(r.inverted_centres[1] or r.pierced_rings[1] for r in result.diagnostics)
    return page.table(head, rows) + ("<p class=bad>Inverted centres or pierced rings: do not start a simulation from "
                                     "these atoms.</p>" if unsound else "")


def _system_figure(result: Backmapped) -> Figure:
    """All atoms of the first sample as spheres, molecules tinted, the box around them."""
    import matplotlib

    figure = page.figure(7, 7)
    axes = figure.add_subplot()
    target = result.target
    positions = molecules_into_box(result.positions[0], result.box, target.molecule_of_atom)
    tints = matplotlib.colormaps["tab10"](np.arange(len(target.chains)) % 10)[:, :3]
    light = np.where(np.array(target.elements) == "H", 0.7, 0.1)[:, None]
    colours = tints[target.molecule_of_atom] * (1 - light) + light
    _spheres(axes, positions, _per_element(target, _RADII_NM, 0.13), colours)
    if result.box is not None:
        _draw_box(axes, result.box)
    return _bare(axes, figure)


def _chain_figure(result: Backmapped) -> Figure:
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
    colours = np.array([_rgb(_COLOURS.get(target.elements[a], "#c060c0")) for a in atoms])
    _spheres(axes, x[atoms], 0.4 * _per_element(target, _RADII_NM, 0.13)[atoms], colours, view=np.eye(3), zorder=2)
    tints = np.array([_rgb(_BEAD_COLOURS[t % len(_BEAD_COLOURS)]) for t in target.bead_type[beads]])
    _spheres(axes, r[beads], np.full(len(beads), _BEAD_RADIUS_NM), tints, view=np.eye(3), zorder=3, alpha=0.3)
    return _bare(axes, figure)


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

    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    edges = [(a, b) for a, b in combinations(range(8), 2) if np.abs(corners[a] - corners[b]).sum() == 1]
    seen = (corners @ box @ _VIEW.T)[:, :2]
    axes.add_collection(LineCollection(seen[np.array(edges)], colors="#303030", linewidths=0.8, zorder=3))
    axes.update_datalim(seen)


def _bare(axes: Axes, figure: Figure) -> Figure:
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.axis("off")
    return figure


def _distributions(result: Backmapped) -> Figure:
    """Histograms over all samples, by the types of the atoms; the most frequent types of each kind."""
    target = result.target
    figure = page.figure(11, 9)
    axes = figure.subplots(3, 2, gridspec_kw={"width_ratios": [3, 1]})
    kinds = (("bond length (nm)", target.bonds, bond_lengths, None),
             ("angle (degrees)", angles_of(target), bond_angles, None),
             ("dihedral (degrees)", dihedrals_of(target), dihedral_angles, (-180, 180)))
    for (plot, legend), (label, members, measure, span) in zip(axes, kinds, strict=True):
        found = {name: measure(result.positions[:, rows]).ravel() for name, rows in _frequent(target, members)}
        edges = _bins(np.concatenate(list(found.values())), span)
        for name, values in found.items():
            density, _ = np.histogram(values, bins=edges, density=True)
            plot.stairs(density, edges, label=name)
        plot.set(xlabel=label, ylabel="density")
        legend.axis("off")
        legend.legend(*plot.get_legend_handles_labels(), loc="center left", fontsize=8, frameon=False)
    return figure


def _bins(values: np.ndarray, span: tuple[float, float] | None) -> np.ndarray:
    """Edges of 90 bins; where bonds are constrained, values may all but agree."""
    low, high = span or (values.min(), values.max())
    margin = 0.01 * max(high - low, 1e-3 * abs(high)) if span is None else 0.0
    return np.linspace(low - margin, high + margin, 91)


def _frequent(target: Target, members: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The most frequent types of ``members`` (n, 2 to 4), those without hydrogen first: name and rows."""
    light = np.array(target.elements) == "H"
    types = by_type(target, members)
    return sorted(types.items(), key=lambda item: (light[item[1][0]].any(), -len(item[1])))[:_KINDS_SHOWN]
