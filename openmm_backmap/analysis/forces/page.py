"""The page of a validation: one self-contained HTML file, its figures as .png files, the worst places as .gro files."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

from openmm_backmap.analysis import page, viewer
from openmm_backmap.analysis.evaluation.page import kept_image
from openmm_backmap.analysis.evaluation.results import number_text
from openmm_backmap.analysis.forces.figures import figures
from openmm_backmap.analysis.forces.results import Judged, Validation, ranking_text, rankings, summary_table
from openmm_backmap.analysis.forces.scores import worst_name
from openmm_backmap.analysis.forces.view import worst_view
from openmm_backmap.analysis.forces.worst import Worst, surroundings, write_worst
from openmm_backmap.io.writers import replacing

Progress = Callable[[str, int, int], None]
_MOST_VIEWS = 8
_MOST_FAILURES = 10
_HOW = """<p>A coarse-grained model may match every distribution that it was fitted to and still make conformations that
no atoms can fill. So its frames are backmapped, the atomistic force field gives the forces on the atoms, and these are
projected on the beads (Stieffenhofer, thesis, chapter 6). <b>JSD of |F|</b>: Jensen-Shannon divergence, in bits, of the
distribution of the force on a bead from that of atomistic structures; also of the type of bead that fares worst, and
of the Cartesian components. <b>forces beyond</b>: share of forces larger than what one in a thousand of the reference
exceeds (0.1 % is right). <b>AUC by frame</b>: probability that a frame of this set has more large forces (beyond
what one in twenty of the reference exceeds) than a frame of the in-distribution set: 0.5 is no difference, 1 is that
every frame gives the model away.
<b>bead RMSD</b>: distance of the atoms' own beads from those given, as the generator drew them and after refinement.
<b>close contacts</b>: pairs of heavy atoms nearer than 0.25 nm, of a structure. <b>g(r) tail</b>: how many times as
many pairs of heavy atoms as in the reference are nearer than the distance below which it has one pair for 1000 heavy
atoms. <b>unsound draws</b>: share of structures that MD cannot start from (a force beyond 20 000 kJ/mol/nm, a ring that
is pierced, bonds that cannot have their lengths); they are judged like the others. Beads are held where they were given
by springs as stiff as time steps can follow.</p>
<p>The first row, <i>reference against itself</i>, is the floor: what random parts of the reference have among
themselves. <i>held out</i> are the atomistic structures themselves, what perfect backmapping would score.
<i>in-distribution</i> are their beads, backmapped: the baseline. What it has above the floor is due to the model that
backmaps; what the others have above it is due to the coarse-grained models.</p>"""
_MINIMISED = """<p>Structures that were <i>minimised</i> are no sample at a temperature: their forces differ from the
reference's on right beads, too.</p>"""
_SUMMED = "The force on a bead is the sum of those on its atoms."
_SHARED = ("Beads share atoms here: the force on a bead is the sum of those on the atoms that it owns, set right by "
           "what shared atoms do to the positions of beads, so that its mean is that of the mean force.")


def write_page(found: Validation, folder: Path, progress: Progress | None = None) -> None:
    """Write ``report.html``, ``figures/*.png`` and ``worst/*.gro`` into ``folder``, in place of older ones.

    Parameters
    ----------
    found : Validation
    folder : Path
    progress : callable, optional
    """
    tell = progress or (lambda *_: None)
    cg = [judged for judged in found.judged if judged.kind == "cg"]
    title = "Validation: " + "; ".join(j.label for j in cg or found.judged if not j.label.endswith(", minimised"))
    body = [f"<h1>{html.escape(title)}</h1>", _what(found), "<h2>Summary</h2>", _summary(found), _ranking(found),
            _failures(found), _unsound(found), "<h2>How to read it</h2>", _HOW,
            _MINIMISED if any(j.choice and j.choice.refine == "minimize" for j in found.judged) else "",
            "<h2>Figures</h2>"]
    for k, (name, caption, drawn) in enumerate(figures(found)):
        tell("drawing figures", k, 4)
        body.append(kept_image(drawn, name, caption, folder))
    body += ["<h2>Worst conformations</h2>", viewer.library()]
    views = 0
    for k, judged in enumerate(found.judged):
        tell("writing the page", k, len(found.judged))
        shown = judged.kind == "cg" and views < _MOST_VIEWS
        views += shown
        body.append(_worst(judged, folder, shown))
    body += ["<h2>By type of bead</h2>", _by_type(found), "<h2>Run</h2>", _run(found)]
    with replacing(folder / "report.html", overwrite=True) as part:
        part.write_text(page.document(title, body), encoding="utf-8")
    tell("writing the page", len(found.judged), len(found.judged))


def _what(found: Validation) -> str:
    inputs, target = found.inputs, found.inputs.target
    return (f"<p>{html.escape(target.chemistry.title)}. {len(inputs.reference)} reference structures and "
            f"{len(inputs.held_out)} held out, of {len(target.chains):,} molecules, {target.n_atoms:,} atoms, "
            f"{target.n_beads:,} beads. Backmapped by {html.escape(found.settings['model']['model'])}, refinement: "
            f"{found.in_distribution.choice.refine}; {found.settings['n_samples']} draw(s) a frame. "
            f"{_SHARED if found.shared_atoms else _SUMMED}</p>")


def _summary(found: Validation) -> str:
    """Quantities down, sets across; sets that are minimised in addition have a table of their own, or it grows wide."""
    table, parts = summary_table(found), []
    for minimised in (False, True):
        sets = [(label, values) for label, values in table.rows if label.endswith(", minimised") == minimised]
        rows = [[q.title.strip(), *(page.Number(number_text(values.get(q.key))) for _, values in sets)]
                for q in table.quantities]
        parts.append(page.table(["", *(label for label, _ in sets)], rows) if sets else "")
    return "".join(parts)


def _ranking(found: Validation) -> str:
    lines = [f"<p>Ranking by JSD of |F| ({html.escape(level)}), the best first: <b>{html.escape(ranking_text(ranks))}"
             "</b></p>" for level, ranks in rankings(found).items() if len(ranks) > 1]
    return "".join([*lines, "<p>After ~, a model cannot be told from the one before (less than two standard "
                            "errors).</p>" if lines else ""])


def _failures(found: Validation) -> str:
    rows = [(label, f.frame, f.draw, page.Bad(f.reason)) for label, failures in found.failures.items()
            for f in failures[:_MOST_FAILURES]]
    return "<p>Draws that failed; the numbers lack them:</p>" + page.table(("set", "frame", "draw", "why"), rows) \
        if rows else ""


def _unsound(found: Validation) -> str:
    rows = [(judged.label, f.frame, f.draw, page.Bad(f.reason)) for judged in found.judged
            for f in judged.unsound[:_MOST_FAILURES]]
    return ("<p>Draws that MD cannot start from: a run refuses them, here they are judged with the others:</p>"
            + page.table(("set", "frame", "draw", "why"), rows)) if rows else ""


def _worst(judged: Judged, folder: Path, shown: bool) -> str:
    if not judged.worst:
        return ""
    rows, views = [], ""
    for k, worst in enumerate(judged.worst):
        near = surroundings(judged.ensemble, worst)
        path = write_worst(folder / "worst", worst_name(judged, k), near)
        rows.append((worst.frame, worst.molecule + 1, worst.name, page.Number(number_text(worst.force)),
                     " ".join(f"{x:.3f}" for x in worst.position), worst.nearest, f"worst/{path.name}"))
        if shown and not k:
            views = worst_view(near, _caption(judged, worst))
    return (f"<h3>{html.escape(judged.label)}</h3>" + page.table(
        ("frame", "molecule", "bead", "|F|, kJ/mol/nm", "where, nm", "nearest atoms", "file"), rows) + views)


def _caption(judged: Judged, worst: Worst) -> str:
    return (f"{judged.label}: {worst.frame}, molecule {worst.molecule + 1} around its bead {worst.name}, |F| = "
            f"{number_text(worst.force)} kJ/mol/nm. Red bar: {worst.nearest}.")


def _by_type(found: Validation) -> str:
    rows = [(judged.label, row.bead, row.quantity, *(page.Number(number_text(x)) for x in (
        row.divergence, row.error, row.floor, row.median, row.median_reference, row.high, row.high_reference,
        100 * row.beyond))) for judged in found.judged for row in judged.rows]
    return page.table(("set", "bead", "quantity", "JSD", "error", "floor", "median", "reference", "99 %", "reference",
                       "beyond, %"), rows) + "<p>Divergences in bits, forces in kJ/mol/nm.</p>"


def _run(found: Validation) -> str:
    rows = [(key, value) for key, value in found.provenance.items() if not isinstance(value, dict)]
    rows += [(name, value) for content in found.provenance.values() if isinstance(content, dict)
             for name, value in content.items()]
    rows += [(key.replace("_", " "), found.settings[key]) for key in ("chemistry", "seed", "n_samples")]
    rows += [("model", found.settings["model"]["model"]), ("SHA-256", found.settings["model"]["sha256"] or "-")]
    return page.table(None, rows) + (
        "<p>All numbers are in scores.json and scores.csv beside this page; mean forces on beads, for force matching, "
        "in forces/.</p>")
