"""The page of an evaluation: one self-contained HTML file, and its figures as .png files."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

import numpy as np

from openmm_backmap.analysis import page, viewer
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.evaluation.figures import figures, summary_figure
from openmm_backmap.analysis.evaluation.judging import NotDone
from openmm_backmap.analysis.evaluation.results import Evaluation, Judged, Table, number_text, summary_table, verdict
from openmm_backmap.analysis.relaxation import Relaxation, verdicts
from openmm_backmap.io.writers import replacing

Progress = Callable[[str, int, int], None]
_WORST = 12
_MOST_VIEWS = 7
_MOST_FAILURES = 10
_VIEW_ATOMS = 20_000
_HOW = """<p>Each row is an ensemble of structures. <b>angles</b> and <b>dihedrals</b>: Jensen-Shannon divergence of the
distribution of each type from the reference's, in bits, mean over the types; <b>LJ energy</b>: the same of the
Lennard-Jones energy of single molecules; <b>g(r)</b>: mean absolute difference of the radial distribution function of
heavy atoms; <b>Psi</b>: sum over bonds, angles and dihedrals of the integral of |p &minus; p<sub>reference</sub>|;
<b>classifier AUC</b>: how well a classifier tells the ensemble's environments from the reference's, 0.5 is not at all;
<b>map</b>: divergence of where environments lie on a map of their structure; <b>diversity</b>: how much draws for the
same beads differ, as a share of how much they should; <b>bead RMSD</b>: how far the atoms' own beads are from those
given. Defects are counted by structure. <b>MD to band</b>: time until the potential energy of dynamics, started without
any preparation, stays in the reference's band.</p>
<p>The first row, <i>reference against itself</i>, is the floor: what remains between two random parts of the reference,
of the size of what is judged. A number near the floor means that these structures do not show a difference; it does
not mean that there is none. With few reference structures the floor is high, and little can be told.</p>"""
_SELF = """<p><b>Here the frames that were backmapped are those of the reference itself.</b> A backmapped structure and
the reference then share their beads, so that all that the beads decide agrees, and numbers may lie below the floor. To
judge how models do on what they are not compared with, give other structures by --held-out.</p>"""
_HELD = """<p>The row <i>held out</i> holds the atomistic structures behind the frames that were backmapped: what a
perfect model would score.</p>"""


def write_page(evaluation: Evaluation, folder: Path, progress: Progress | None = None) -> None:
    """Write ``report.html`` and ``figures/*.png`` into ``folder``, in place of older ones.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
    progress : callable, optional
    """
    table = summary_table(evaluation)
    title = f"Evaluation: {', '.join(judged.label for judged in evaluation.judged)}"
    body = [f"<h1>{html.escape(title)}</h1>", _what(evaluation), "<h2>Summary</h2>", _summary(table),
            "<p>&#9733; marks the best.</p>", _plain_words(evaluation), *_bars(evaluation, folder),
            "<h2>How to read it</h2>", _HOW, _about_frames(evaluation), "<h2>Figures</h2>",
            *_figures(evaluation, folder, progress), viewer.library()]
    if progress:
        progress("writing the page", 0, 2)
    views = 0
    if evaluation.inputs.paired is not None:
        body += ["<h2>Atomistic structure of the first frame</h2>", _view(evaluation, evaluation.inputs.paired)]
        views += 1
    for judged in evaluation.judged:
        shown = judged.ensemble is not None and judged.kind != "held out" and views < _MOST_VIEWS
        views += shown
        body += [f"<h2>{html.escape(judged.label)}</h2>", _details(evaluation, judged),
                 _view(evaluation, judged.ensemble) if shown else ""]
    body += ["<h2>Run</h2>", _run(evaluation)]
    with replacing(folder / "report.html", overwrite=True) as part:
        part.write_text(page.document(title, body), encoding="utf-8")
    if progress:
        progress("writing the page", 2, 2)


def _about_frames(evaluation: Evaluation) -> str:
    if evaluation.inputs.held_out is not None:
        return _HELD
    return _SELF if (evaluation.inputs.reference.frame < len(evaluation.inputs.frames)).any() else ""


def _what(evaluation: Evaluation) -> str:
    inputs = evaluation.inputs
    target = inputs.target
    held = "" if inputs.held_out is None else f", {len(inputs.held_out)} held out"
    return (f"<p>{html.escape(target.chemistry.title)}. {len(inputs.reference)} reference structures{held}, of "
            f"{len(target.chains):,} molecules, "
            f"{target.n_atoms:,} atoms, {target.n_beads:,} beads; {len(inputs.frames)} coarse-grained frame(s), "
            f"{evaluation.settings['n_samples']} draw(s) each.</p>")


def _summary(table: Table) -> str:
    """Statistics first, then soundness and cost: one table would be too wide to read."""
    halves = [[q for q in table.quantities if (q.floor is not None or q.key == "diversity") == statistics]
              for statistics in (True, False)]
    parts = []
    for quantities in filter(None, halves):
        rows = []
        for k, (label, values) in enumerate(table.rows):
            texts = [number_text(values.get(q.key)) + ("\u00a0\u2605" if (k, q.key) in table.best else "")
                     for q in quantities]
            rows.append([label, *(page.Bad(text) if q.key == "failed" and values.get(q.key) else page.Number(text)
                                  for q, text in zip(quantities, texts, strict=True))])
        parts.append(page.table(["", *(q.title for q in quantities)], rows))
    return "".join(parts)


def _plain_words(evaluation: Evaluation) -> str:
    """What a number cannot say: dynamics that fail, draws that came to nothing, analyses that were not possible."""
    lines = []
    if isinstance(evaluation.start, Relaxation):
        lines += [f"dynamics from atomistic structures: {text}" for text in (
            verdicts(evaluation.start, evaluation.band) if evaluation.band else evaluation.start.failures)]
    lines += [f"dynamics from {j.label}: {verdict(j, evaluation.band)}" for j in evaluation.judged
              if verdict(j, evaluation.band)]
    for judged in evaluation.judged:
        lines += [f"{judged.label}: no {what.replace('_', ' ')}: {found.reason}" for what, found in (
            ("two_sample", judged.two_sample), ("diversity", judged.diversity)) if isinstance(found, NotDone)]
        if judged.failures:
            n = int(evaluation.settings["n_samples"]) * len(evaluation.inputs.frames)
            lines.append(f"{judged.label}: {len(judged.failures)} of {n} draws failed; its numbers lack them")
    if isinstance(evaluation.landscape, NotDone):
        lines.append(f"no landscape: {evaluation.landscape.reason}")
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _bars(evaluation: Evaluation, folder: Path) -> list[str]:
    if all(judged.comparison is None for judged in evaluation.judged):
        return []
    return [kept_image(summary_figure(evaluation), "summary", "The headline divergences as multiples of the "
                       "floor, logarithmic.", folder)]


def _figures(evaluation: Evaluation, folder: Path, progress: Progress | None) -> list[str]:
    parts = []
    for name, caption, drawn in figures(evaluation):
        if progress:
            progress("drawing figures", len(parts), len(parts) + 2)
        parts.append(kept_image(drawn, name, caption, folder))
    return parts


def kept_image(drawn, name: str, caption: str, folder: Path) -> str:
    """A figure inside the page, and as ``folder/figures/name.png``."""
    (folder / "figures").mkdir(exist_ok=True)
    with replacing(folder / "figures" / f"{name}.png", overwrite=True) as part:
        drawn.savefig(part, dpi=150, format="png")
    return page.image(drawn, caption)


def _view(evaluation: Evaluation, ensemble: Ensemble) -> str:
    beads = evaluation.inputs.frames.beads[ensemble.frame[0]] if ensemble.beads is None else ensemble.beads[0]
    caption = f"{ensemble.name}: {evaluation.inputs.frames.names[ensemble.frame[0]]}."
    return viewer.structure_view(ensemble.target, ensemble.positions[0], beads, ensemble.box(0), caption, _VIEW_ATOMS)


def _details(evaluation: Evaluation, judged: Judged) -> str:
    parts = []
    if judged.choice is not None:
        n = 0 if judged.ensemble is None else len(judged.ensemble)
        parts.append(page.table(None, [
            ("model", judged.choice.model), ("family", judged.choice.family), ("refinement", judged.choice.refine),
            ("SHA-256", judged.choice.sha256 or "-"), ("structures", n), ("seconds a structure", judged.seconds)]))
    if judged.failures:
        rows = [(f.frame, f.draw, page.Bad(f.reason)) for f in judged.failures[:_MOST_FAILURES]]
        more = len(judged.failures) - len(rows)
        parts += ["<p>Draws that failed" + (f" ({more} more not listed)" if more else "") + ":</p>",
                  page.table(("frame", "draw", "why"), rows)]
    if judged.comparison is None:
        return "".join([*parts, "<p>There is no structure to judge.</p>"])
    worst = sorted((row for row in judged.comparison.rows if np.isfinite(row.divergence)),
                   key=lambda row: row.divergence, reverse=True)[:_WORST]
    parts += ["<p>Where it differs most (bits; means and spreads in the unit given):</p>", page.table(
        ("kind", "type", "divergence", "floor", "mean", "reference", "spread", "reference", "unit"),
        [(row.kind, row.name, *(page.Number(number_text(x)) for x in (
            row.divergence, row.floor, row.mean, row.mean_reference, row.sd, row.sd_reference)), row.unit)
         for row in worst]), _defects(judged)]
    return "".join(parts)


def _defects(judged: Judged) -> str:
    found = judged.description
    rows = [(name, float(np.mean(counts)), int(np.max(counts)), found.opportunities[name])
            for name, counts in found.defects.items()]
    if judged.comparison.turnable:
        rows.append(("dihedrals turned against the reference", judged.comparison.turned / len(found),
                     judged.comparison.turned, judged.comparison.turnable))
    return page.table(("defect", "mean of a structure", "most", "out of"), rows)


def _run(evaluation: Evaluation) -> str:
    rows = [(key, value) for key, value in evaluation.provenance.items() if not isinstance(value, dict)]
    rows += [(f"{key}: {name}", value) for key, content in evaluation.provenance.items() if isinstance(content, dict)
             for name, value in content.items()]
    settings = evaluation.settings
    rows += [(key.replace("_", " "), settings[key]) for key in ("chemistry", "seed", "n_samples")]
    rows += [("frames", ", ".join(settings["frames"][:20]) + (", ..." if len(settings["frames"]) > 20 else ""))]
    if evaluation.relax_settings is not None:
        rows += [("dynamics", f"{evaluation.relax_settings.length_ps:g} ps, NVT, "
                  f"{evaluation.relax_settings.timestep_ps:g} ps a step")]
    return page.table(None, rows) + "<p>All numbers are in scores.json and scores.csv beside this page, with the " \
                                    "SHA-256 of every file that was read.</p>"
