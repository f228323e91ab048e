"""CG force fields made, spoiled, run, and judged by the atomistic forces on backmapped structures (thesis, ch. 6).

    python benchmarks/validation.py --case tmbt --frames 'runs/tmbt/melt_2/frame_*.gro' --model tmbt

The frames, of a melt that the model was not trained on, are what CG models are fitted to; every other one is the
reference of forces, and the others are the in-distribution set. Makes ``docs/validation-tmbt.md`` with its figures.
"""

from __future__ import annotations

import functools
import shlex
import shutil
import sys
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import click
import numpy as np
from measure import this_machine
from pages import markdown_table

from openmm_backmap import __version__
from openmm_backmap.analysis.evaluation.draws import slug
from openmm_backmap.analysis.evaluation.results import number_text
from openmm_backmap.analysis.forces.results import Validation, numbers, ranking_text, rankings, summary_table
from openmm_backmap.analysis.forces.validate import validate
from openmm_backmap.chemistry import load_chemistry
from openmm_backmap.cli.progress import Bars
from openmm_backmap.coarse import CGModel, FitSettings, RunSettings, fit_model, run_model
from openmm_backmap.coarse.fit import Score
from openmm_backmap.errors import BackmapError
from openmm_backmap.io.atomistic import find_files
from openmm_backmap.io.writers import replacing
from openmm_backmap.model_file import load_model

DOCS = Path(__file__).parents[1] / "docs"
SHRUNK = 0.9
_EVERY_PS = 2.5
# Frames of each set that are minimised instead, and of the fragment baseline.
_FEW = 3
FIGURES = {"forces": "forces on beads", "divergences": "divergences of forces", "frames": "large forces by frame"}
COLUMNS = ("divergence", "error", "times_baseline", "worst_type", "beyond", "auc", "bead_rmsd_drawn", "bead_rmsd",
           "contacts", "tail", "chi2_bm", "unsound", "failed")


@dataclass(frozen=True)
class Case:
    """The CG models of a chemistry; the first is the one that is spoiled, of which ``removed`` is left out."""

    title: str
    models: dict[str, FitSettings]
    removed: str


_TMBT = FitSettings(iterations=4, ps=10, direct_bonded=True)
_CUMENE = FitSettings(iterations=5, ps=15)
CASES = {
    "tmbt": Case("Tris-meta-biphenyl-triazine", {
        "A": replace(_TMBT, constrain_bonds=True), "B": _TMBT, "C": replace(_TMBT, without=("dihedrals",))},
        "dihedral B-A-B-B"),
    "cumene": Case("Cumene", {"IBI": _CUMENE, "direct": replace(_CUMENE, iterations=0)}, "angle A-A-B"),
}


@click.command()
@click.option("--case", "name", type=click.Choice(list(CASES)), required=True)
@click.option("--frames", multiple=True, required=True, help="Atomistic frames; files, folders or patterns.")
@click.option("--model", required=True, help="What backmaps: shipped name or model file.")
@click.option("--ps", type=float, default=25, show_default=True, help="Run of each CG model.")
@click.option("--n", "n_frames", type=int, default=6, show_default=True, help="Frames of each set that are backmapped.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--workers", type=int, default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="[default: runs/validation-CASE]")
@click.option("--docs", type=click.Path(path_type=Path, file_okay=False), default=DOCS, show_default=True)
def main(name: str, frames: tuple[str, ...], model: str, ps: float, n_frames: int, seed: int, workers: int,
         out: Path | None, docs: Path) -> None:
    """Fit, spoil, run, backmap, judge; a run that was interrupted goes on."""
    case, out = CASES[name], out or Path("runs") / f"validation-{name}"
    out.mkdir(parents=True, exist_ok=True)
    try:
        with Bars() as bars:
            fits = {label: fit_model(frames, load_chemistry(name), out / label, settings, progress=bars)
                    for label, settings in case.models.items()}
            base = next(iter(fits))
            models = {label: (label, fit[0]) for label, fit in fits.items()}
            models |= {label: (base, one) for label, one in spoiled(base, fits[base][0], case.removed).items()}
            runs = {label: run(one, out, label, start, RunSettings(ps, _EVERY_PS, seed=seed), bars)
                    for label, (start, one) in models.items()}
            cg = {label: [path] for label, path in runs.items()}
            # A model that transfers brings the chemistry that it was trained on first.
            own = load_model(model).chemistry.name == name
            judge = functools.partial(
                validate, frames, model, cg, chemistry=None if own else name,
                cg_systems={label: path.with_suffix(".xml") for label, path in runs.items()},
                cg_topology=runs[base].with_suffix(".gro"), seed=seed, workers=workers, progress=bars)
            found = judge(n_frames=n_frames, out=out / "validation")
            minimised = judge(n_frames=_FEW, refine="minimize", out=out / "minimised")
            baseline = validate(frames, "fragment", chemistry=name, n_frames=_FEW, seed=seed, workers=workers,
                                out=out / "baseline", progress=bars)
    except BackmapError as error:
        raise click.ClickException(str(error)) from None
    write_page(name, case, {label: scores for label, (_, scores) in fits.items()}, found, minimised, baseline, out,
               docs, len(find_files(frames)), ps)
    click.echo(f"{docs / f'validation-{name}.md'} written")


def spoiled(base: str, model: CGModel, removed: str) -> dict[str, CGModel]:
    """Models that are wrong on purpose, by label."""
    smaller = model
    for term in model.of_kind("pair"):
        smaller = smaller.with_term(replace(term, x=SHRUNK * term.x))
    return {f"{base}, beads {1 - SHRUNK:.0%} smaller": smaller,
            f"{base}, no {removed.split()[0]}": model.without(removed)}


def run(model: CGModel, out: Path, label: str, start: str, settings: RunSettings, bars) -> Path:
    """The trajectory of a model, from where the fit of ``start`` ended; made where it is not there."""
    trajectory = out / f"{slug(label)}.xtc"
    if not trajectory.exists():
        run_model(model, out / start / "start.gro", trajectory, settings, system=trajectory.with_suffix(".xml"),
                  progress=bars)
    return trajectory


def write_page(name: str, case: Case, scores: dict[str, list[Score]], found: Validation, minimised: Validation,
               baseline: Validation, out: Path, docs: Path, n_files: int, ps: float) -> None:
    """``validation-NAME.md`` and its figures."""
    for figure in FIGURES:
        with replacing(docs / "figures" / f"validation-{name}-{figure}.png", overwrite=True) as part:
            shutil.copyfile(out / "validation" / "figures" / f"{figure}.png", part)
    frames = len(found.in_distribution.frame_scores)
    lines = [
        f"# {case.title}: CG models judged by atomistic forces", "",
        f"CG models of {case.title.lower()} made of {n_files} atomistic frames by Boltzmann inversion, run for {ps:g} "
        f"ps each, and {frames} frames of each backmapped: [how](validate-cg.md). {date.today().isoformat()}, "
        f"openmm_backmap {__version__}, {this_machine()['processor']}. Command:", "",
        "```", f"python {shlex.join(['benchmarks/validation.py', *sys.argv[1:]])}", "```", "",
        "## Forces", "", *forces_table(found), "",
        *(f"![{title}](figures/validation-{name}-{figure}.png)" for figure, title in FIGURES.items()), "",
        "## What it shows", "", *verdicts(found, baseline), "",
        "## Are bad models found out?", "", *detections(found), "",
        "## What distributions of beads say", "",
        "Divergence of the last iteration of each fit from its target, next to its floor.", "",
        *bead_table(scores), "",
        "## Minimised instead", "",
        f"{len(minimised.in_distribution.frame_scores)} frames of each set.", "", *forces_table(minimised), "",
        *detections(minimised), ""]
    with replacing(docs / f"validation-{name}.md", overwrite=True) as part:
        part.write_text("\n".join(lines))


def forces_table(found: Validation) -> list[str]:
    """The summary of a validation, one row a set."""
    table = summary_table(found)
    wanted = [q for q in table.quantities if q.key in COLUMNS]
    rows = [[label, *(number_text(values.get(q.key)) for q in wanted)] for label, values in table.rows]
    return markdown_table(["", *(q.title.strip().replace("|", "\\|") for q in wanted)], rows)


def detections(found: Validation) -> list[str]:
    """AUC by frame of every set."""
    lines = []
    for judged in found.judged:
        values = numbers(judged, found)
        if judged.kind == "cg" and not np.isnan(values.get("auc", np.nan)):
            lines.append(f"- {judged.label}: AUC {number_text(values['auc'])} by frame, divergence "
                         f"{number_text(values['times_baseline'])} times that of the in-distribution set.")
    return lines


def bead_table(scores: dict[str, list[Score]]) -> list[str]:
    """Divergences of the terms of the last iterations, one column a model."""
    last = {label: {s.term: s for s in own if s.iteration == own[-1].iteration} for label, own in scores.items()}
    terms = dict.fromkeys(term for own in last.values() for term in own)
    rows = []
    for term in terms:
        floor = next(own[term].floor for own in last.values() if term in own)
        rows.append([term, number_text(floor),
                     *(number_text(own[term].divergence) if term in own else "" for own in last.values())])
    return markdown_table(["", "floor", *last], rows)


def verdicts(found: Validation, baseline: Validation) -> list[str]:
    """What chapter 6 says, and what came out here."""
    model, fragments = found.in_distribution, baseline.in_distribution
    own, name = model.headline, Path(model.choice.model).stem
    cg = [(judged, numbers(judged, found)) for judged in found.judged if judged.kind == "cg"]
    apart = [(j.headline.divergence - own.divergence) / np.hypot(j.headline.error, own.error) for j, _ in cg]
    return [
        f"- In distribution: {number_text(own.divergence)} +- {number_text(own.error)} bits, "
        f"{own.divergence / own.floor:.1f} times the floor, {number_text(own.floor)}.",
        f"- CG models: {min(v['times_baseline'] for _, v in cg):.1f} to {max(v['times_baseline'] for _, v in cg):.1f} "
        f"times that, each at least {min(apart):.0f} standard errors above it.",
        f"- Ranking: {ranking_text(rankings(found)[model.choice.refine])} (`<`: more than two standard errors apart).",
        f"- Single frames: the least area under the curve of a CG model is {min(v['auc'] for _, v in cg):.2f}.",
        "- Root mean square distance of beads of the in-distribution set from those given, as drawn: "
        f"`{name}` {number_text(model.drawn_rmsd)} nm, fragments and minimisation {number_text(fragments.drawn_rmsd)} "
        "(published, table 6.1: 0.0056 and 0.0423). Divergence of |F| of the fragments: "
        f"{number_text(fragments.headline.divergence)}."]


if __name__ == "__main__":
    main()
