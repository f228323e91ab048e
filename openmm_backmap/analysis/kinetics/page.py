"""The page of a judgement of trajectories: one self-contained HTML file, its figures as .png files beside it."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

from openmm_backmap.analysis import page
from openmm_backmap.analysis.evaluation.page import kept_image
from openmm_backmap.analysis.evaluation.results import number_text
from openmm_backmap.analysis.kinetics.figures import figures
from openmm_backmap.analysis.kinetics.results import Judged, Judgement, overlaps, summary_table
from openmm_backmap.analysis.kinetics.surface import HIGHEST_KT, LEAST_COUNT
from openmm_backmap.io.writers import replacing

Progress = Callable[[str, int, int], None]
_FIGURES = 7
_HOW = f"""<p><b>JSD</b>: Jensen-Shannon divergence, in bits, of a distribution from the reference's: 0 for equal
ones, 1 where they do not overlap. <b>energy</b>: of the molecule alone, by the force field of the chemistry.
<b>surface</b>: free energies in bins where the reference lies below {HIGHEST_KT:g} kT and has at least {LEAST_COUNT}
frames; the largest difference, the mean, and the JSD of the populations of all bins. <b>process, cosine</b>: whether
the slow processes of the Markov model are those of the reference's (1 is the same); <b>timescale</b>: how fast they
are, and whether the middle 95 % of the posteriors overlap. <b>states, worst factor</b>: between populations of
metastable states. <b>displacement</b>: of atoms between consecutive frames, in the laboratory, and with the beads of
the two frames laid on each other: the second is blind to drift and tumbling, which beads have already. The last rows
are what can be wrong with a structure: of stereocentres, peptide bonds, methyl and methylene groups.</p>
<p>The first row, <i>reference against itself</i>, is the floor. Divergences and differences are means over all ways to
halve ten blocks of consecutive frames of the reference; as each half is smaller than the whole, they lie above what
right trajectories score on average. Cosines and populations are of its later half against its earlier; timescales and
faults are the reference's own. An <i>independent run</i> is atomistic dynamics like the reference, and says what a
perfect method would score.</p>"""


def write_page(found: Judgement, folder: Path, progress: Progress | None = None) -> None:
    """Write ``report.html`` and ``figures/*.png`` into ``folder``, in place of older ones."""
    tell = progress or (lambda *_: None)
    title = "Trajectories: " + ", ".join(judged.label for judged in found.judged)
    body = [f"<h1>{html.escape(title)}</h1>", _what(found), "<h2>Summary</h2>", _summary(found),
            "<h2>How to read it</h2>", _HOW, "<h2>Figures</h2>"]
    for k, (name, caption, drawn) in enumerate(figures(found)):
        tell("drawing figures", k, _FIGURES)
        body.append(kept_image(drawn, name, caption, folder))
    tell("drawing figures", _FIGURES, _FIGURES)
    body += ["<h2>Timescales</h2>", _timescales(found), "<h2>States</h2>", _states(found), "<h2>Displacements</h2>",
             _displacements(found), "<h2>Run</h2>", _run(found)]
    with replacing(folder / "report.html", overwrite=True) as part:
        part.write_text(page.document(title, body), encoding="utf-8")


def _what(found: Judgement) -> str:
    own = found.reference.measured
    unit = f", {found.spacing:g} ps apart" if found.time_unit == "ps" else ""
    return (f"<p>{html.escape(found.settings['chemistry'])}. Reference: {own.n_frames:,} frames in {len(own.lengths)} "
            f"trajectory(s){unit}. Markov models: {found.settings['cells']} cells, lag "
            f"{found.settings['lag_frames']} frames, over {html.escape(' and '.join(found.coordinates.names))}.</p>")


def _summary(found: Judgement) -> str:
    table = summary_table(found)
    rows = [[q.title, *(page.Number(number_text(values.get(q.key))) for _, values in table.rows)]
            for q in table.quantities]
    return page.table(["", *(label for label, _ in table.rows)], rows)


def _timescales(found: Judgement) -> str:
    own = found.times(found.reference.kinetics)
    rows = []
    for judged in (found.reference, *found.judged):
        times = found.times(judged.kinetics)
        within = overlaps(own, times)
        for k in range(found.n_processes):
            word = "" if judged is found.reference else {1.0: "yes", 0.0: page.Bad("no")}.get(float(within[k]), "-")
            rows.append((judged.label, k + 1, *(page.Number(number_text(t)) for t in times[:, k]), word,
                         page.Number(number_text(float(judged.kinetics.similarity[k, k]))), _scaled(judged)))
    return page.table(("", "process", f"timescale, {found.time_unit}", "from", "to", "within error", "cosine",
                       "normalised by"), rows)


def _scaled(judged: Judged) -> page.Number:
    return page.Number("" if judged.kinetics.scale == 1 else number_text(judged.kinetics.scale))


def _states(found: Judgement) -> str:
    own = found.reference.populations
    rows = [(judged.label, *(page.Number(f"{share:.4f}") for share in judged.populations))
            for judged in (found.reference, *found.judged)]
    return page.table(("", *(f"state {k + 1}" for k in range(len(own)))), rows)


def _displacements(found: Judgement) -> str:
    rows = []
    for judged in found.judged:
        for name, value in judged.values.items():
            kind, _, of = name.partition(":")
            if of:
                mean, reference = (m.moves[kind].mean(of) for m in (judged.measured, found.reference.measured))
                rows.append((judged.label, kind, of, *(page.Number(number_text(x)) for x in (
                    value.value, value.error, value.floor, mean * judged.move_scales[kind], reference))))
    return page.table(("", "kind", "atoms", "JSD", "error", "floor", "mean, nm", "reference, nm"), rows)


def _run(found: Judgement) -> str:
    rows = [(key, value) for key, value in found.provenance.items() if not isinstance(value, dict)]
    rows += [(name, value) for content in found.provenance.values() if isinstance(content, dict)
             for name, value in content.items()]
    rows += [(key.replace("_", " "), value) for key, value in found.settings.items()
             if key not in ("files", "openmm_backmap")]
    rows += [(f"files of {label}", ", ".join(files)) for label, files in found.settings["files"].items()]
    return page.table(None, rows) + "<p>All numbers are in scores.json and scores.csv beside this page.</p>"
