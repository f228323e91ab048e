"""``backmap-openmm evaluate``: models compared with an atomistic reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openmm_backmap.cli.judging import exit_code, labelled, say_provenance
from openmm_backmap.cli.progress import resumable

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, short_help="Compare models with a reference.")
@click.option("--reference", multiple=True, required=True, metavar="ATOMS",
              help="Atomistic structures to compare with: a file, a folder, or a pattern in quotes; may be repeated.")
@click.option("-m", "--model", "models", multiple=True, metavar="[LABEL=]MODEL[@REFINE]",
              help="Shipped model, model file or family to judge; may be repeated. @none, @minimize or @equilibrate "
                   "says how far its atoms are refined.")
@click.option("--held-out", multiple=True, metavar="ATOMS",
              help="Atomistic structures that are no part of the reference: their beads are backmapped, and they are "
                   "judged as a model is, which says what a perfect one would score.")
@click.option("--cg", multiple=True, metavar="BEADS",
              help="Coarse-grained frames to backmap. [default: the mapped held-out, else reference structures]")
@click.option("--structures", multiple=True, metavar="LABEL=ATOMS",
              help="Structures made elsewhere, to be judged beside the models; one for each frame, in their order.")
@click.option("--chemistry", help="Shipped name or file. [default: that of the first model; families need it]")
@click.option("--out", type=click.Path(path_type=Path), required=True,
              help="Folder of the results: report.html, scores.json, scores.csv, figures/.")
@click.option("-n", "--samples", type=click.IntRange(1), default=1, show_default=True,
              help="Draws for each frame; two or more also tell diversity.")
@click.option("--frames", type=click.IntRange(1), help="Backmap at most so many frames, spread evenly. [default: all]")
@click.option("--refine", type=click.Choice(["none", "minimize", "equilibrate"]),
              help="For models that do not say it after @. [default: what suits the model]")
@click.option("--temperature", type=click.FloatRange(0, min_open=True), metavar="K",
              help="Of refinement and of --relax. [default: that of the chemistry]")
@click.option("--relax", type=click.FloatRange(0.4), metavar="PS",
              help="Also run molecular dynamics for so many ps from the first structure of each, and tell when its "
                   "energy is the reference's.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 2), default=1, show_default=True)
@click.option("--topology", type=_FILE, help="Structure that names the atoms of trajectories.")
@click.option("--cg-topology", type=_FILE, help="Structure that names the beads of trajectories.")
@click.option("--alias", "aliases", multiple=True, metavar="OLD=NEW",
              help="Read a name of a residue, atom or bead as another, or a file of such lines; may be repeated.")
@click.option("--workers", type=click.IntRange(1), help="Processes. [default: one a core, one where there is a GPU]")
@click.option("--platform", help="OpenMM platform. [default: the fastest that works]")
@click.option("--device", help="Torch device. [default: cuda where there is one]")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no summary.")
@click.option("-v", "--verbose", is_flag=True, help="Say more; show tracebacks.")
def evaluate(**options: Any) -> int:
    """Backmap with one or several models and compare the results with atomistic structures.

    \b
    Examples:
      backmap-openmm evaluate --reference runs/melt_1 --held-out runs/melt_2 --model sps --out runs/eval
      backmap-openmm evaluate --reference 'runs/melt_*' --frames 4 --samples 2 --model sps --model sps@none \\
          --model geometric --chemistry sps --out runs/eval
      backmap-openmm evaluate --reference ref.gro --cg cg.gro --chemistry sps --structures other=aa.gro --out cmp

    With --reference alone, its own structures are mapped and backmapped: quick to set up, but then models are compared
    with what they were given, and the floor says only what sampling does. --held-out is the stricter test.

    An evaluation that was interrupted goes on when the same command is given again, and models may be added to it.
    The exit code is 1 if a draw failed; everything else is done and written nevertheless.
    """
    from openmm_backmap.analysis.evaluate import evaluate as run
    from openmm_backmap.analysis.evaluation.processes import default_workers

    structures = labelled("--structures", "ATOMS", options["structures"])
    with resumable(options["quiet"]) as bars:
        evaluation = run(
            options["reference"], options["models"], out=options["out"], held_out=options["held_out"],
            cg=options["cg"], structures=structures, chemistry=options["chemistry"], n_samples=options["samples"],
            n_frames=options["frames"], refine=options["refine"], seed=options["seed"],
            temperature=options["temperature"], relax_ps=options["relax"], topology=options["topology"],
            cg_topology=options["cg_topology"], aliases=options["aliases"],
            workers=options["workers"] or default_workers(), platform=options["platform"], device=options["device"],
            progress=bars)
    if not options["quiet"]:
        _say(evaluation, options["out"], options["verbose"])
    return exit_code(evaluation)


def _say(evaluation, out: Path, verbose: bool) -> None:
    from openmm_backmap.analysis.evaluation.results import as_text, summary_table, verdict

    click.echo(as_text(summary_table(evaluation)))
    for judged in evaluation.judged:
        if text := verdict(judged, evaluation.band):
            click.echo(f"dynamics from {judged.label}: {text}")
    if verbose:
        say_provenance(evaluation)
    click.echo(f"wrote {out / 'report.html'}, {out / 'scores.json'}, {out / 'scores.csv'}, {out / 'figures'}")
