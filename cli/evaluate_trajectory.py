"""``backmap-openmm evaluate-trajectory``: trajectories compared with a reference trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openmm_backmap.cli.judging import labelled
from openmm_backmap.cli.progress import Bars

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("evaluate-trajectory", context_settings={"help_option_names": ["-h", "--help"]},
               short_help="Compare the dynamics of trajectories.")
@click.argument("trajectories", nargs=-1, metavar="[LABEL=FILE]...")
@click.option("--reference", multiple=True, required=True, metavar="FILE",
              help="Atomistic trajectory to compare with, or a pattern in quotes; several are independent runs of the "
                   "same dynamics, and are not joined.")
@click.option("--independent", multiple=True, metavar="FILE",
              help="Another atomistic run, judged beside the others: it says what a perfect method would score.")
@click.option("--chemistry", required=True, help="Shipped name or file.")
@click.option("--topology", type=_FILE, help="Structure that names the atoms of trajectories.")
@click.option("--out", type=click.Path(path_type=Path), required=True,
              help="Folder of the results: report.html, scores.json, scores.csv, figures/.")
@click.option("--lag", type=click.IntRange(1), default=5, show_default=True, help="Of the Markov models, frames.")
@click.option("--processes", type=click.IntRange(1, 20), default=3, show_default=True,
              help="Slowest processes to compare.")
@click.option("--cells", type=click.IntRange(2, 5000), default=100, show_default=True, help="Of the Markov models.")
@click.option("--frame-ps", type=click.FloatRange(0, min_open=True), metavar="PS",
              help="Time between frames. [default: what the reference's files say]")
@click.option("--normalise", multiple=True, metavar="LABEL",
              help="A label whose clock is another, as of a coarse-grained run: its slowest timescale and its mean "
                   "displacement are made those of the reference. May be repeated.")
@click.option("--alias", "aliases", multiple=True, metavar="OLD=NEW",
              help="Read a name of a residue or atom as another, or a file of such lines; may be repeated.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 2), default=1, show_default=True)
@click.option("--platform", help="OpenMM platform of the energies. [default: what is fastest for the molecule]")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no summary.")
def evaluate_trajectory(trajectories: tuple[str, ...], **options: Any) -> int:
    """Compare trajectories of one molecule with an atomistic reference: energies, free-energy surfaces, Markov models
    and displacements between frames. Frames must be as far apart in time as the reference's.

    \b
    Examples:
      backmap-openmm evaluate-trajectory --reference test.xtc --topology adp.pdb --chemistry adp \\
          flow=flow.xtc library=library.xtc --independent other.xtc --out runs/kinetics
      backmap-openmm evaluate-trajectory --reference 'test_*.dcd' --topology adp.pdb --chemistry adp \\
          --frame-ps 1 flow=flow_1.dcd flow=flow_2.dcd --out runs/kinetics
      backmap-openmm evaluate-trajectory --reference test.xtc --topology chignolin.pdb --chemistry chignolin \\
          --processes 2 --cells 150 cg=backmapped.xtc --normalise cg --out runs/kinetics

    A label that is given again adds a trajectory, which is not joined to the others. Trajectories are read once, in
    pieces: memory holds a few numbers a frame.
    """
    from openmm_backmap.analysis.kinetics.judge import judge_trajectories

    with Bars(options["quiet"]) as bars:
        found = judge_trajectories(
            options["reference"], labelled("", "FILE", trajectories), out=options["out"],
            chemistry=options["chemistry"], independent=options["independent"], topology=options["topology"],
            aliases=options["aliases"], lag=options["lag"], n_processes=options["processes"],
            n_cells=options["cells"], frame_ps=options["frame_ps"], normalise=options["normalise"],
            seed=options["seed"], platform=options["platform"], progress=bars)
    if not options["quiet"]:
        _say(found, options["out"])
    return 0


def _say(found, out: Path) -> None:
    from openmm_backmap.analysis.evaluation.results import as_text
    from openmm_backmap.analysis.kinetics.results import summary_table

    click.echo(as_text(summary_table(found)))
    click.echo(f"wrote {out / 'report.html'}, {out / 'scores.json'}, {out / 'scores.csv'}, {out / 'figures'}")
