"""``backmap-openmm validate-cg``: coarse-grained models judged by atomistic forces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openmm_backmap.cli.judging import exit_code, labelled, say_provenance
from openmm_backmap.cli.progress import resumable

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("validate-cg", context_settings={"help_option_names": ["-h", "--help"]},
               short_help="Judge CG force fields by atomistic forces.")
@click.option("--reference", multiple=True, required=True, metavar="ATOMS",
              help="Atomistic structures to compare with: a file, a folder, or a pattern in quotes; may be repeated.")
@click.option("-m", "--model", required=True, metavar="MODEL[@REFINE]",
              help="What backmaps: shipped model, model file or family.")
@click.option("--cg", multiple=True, metavar="LABEL=BEADS",
              help="Frames of a coarse-grained simulation; a label given again adds files.")
@click.option("--cg-system", "cg_systems", multiple=True, metavar="LABEL=XML",
              help="The coarse-grained force field of that label as an OpenMM System (.xml), for chi^2_BM.")
@click.option("--held-out", multiple=True, metavar="ATOMS",
              help="Atomistic structures to map and backmap as the in-distribution set. [default: every other "
                   "structure of the reference]")
@click.option("--chemistry", help="Shipped name or file. [default: that of the model; families need it]")
@click.option("--out", type=click.Path(path_type=Path), required=True,
              help="Folder of the results: report.html, scores.json, scores.csv, figures/, worst/, forces/.")
@click.option("-n", "--samples", type=click.IntRange(1), default=1, show_default=True, help="Draws for each frame.")
@click.option("--frames", type=click.IntRange(1),
              help="Backmap at most so many frames of each set, spread evenly. [default: all]")
@click.option("--refine", type=click.Choice(["none", "minimize", "equilibrate"]),
              help="How far atoms are refined. [default: what suits the model]")
@click.option("--also-minimised", is_flag=True,
              help="Backmap everything a second time with minimisation, to see what it hides.")
@click.option("--temperature", type=click.FloatRange(0, min_open=True), metavar="K",
              help="Of refinement. [default: that of the chemistry]")
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
def validate_cg(**options: Any) -> int:
    """Backmap frames of coarse-grained simulations, and compare the atomistic forces on their beads with those in
    atomistic structures: conformations that no atoms can fill show as a tail of large forces.

    \b
    Examples:
      backmap-openmm validate-cg --reference 'runs/sps/melt_1/frame_*.gro' --model sps --cg ibi=ibi.xtc \\
          --cg direct=direct.xtc --cg-topology cg.gro --out runs/validate
      backmap-openmm validate-cg --reference runs/melt_1 --held-out runs/melt_2 --model sps --frames 20 \\
          --cg a=a.gro --cg-system a=a.xml --also-minimised --out runs/validate
      backmap-openmm validate-cg --reference runs/octane --model fragment-octane --cg ibi=ibi.gro --out runs/octane-ibi

    The in-distribution set (atomistic structures, mapped and backmapped) is the baseline: what is above the floor there
    is due to the model that backmaps, not to a coarse-grained one. Beads are held where they are given, and structures
    that a run would refuse are judged like the others: they tell most.

    A validation that was interrupted goes on when the same command is given again, and trajectories may be added to it.
    The exit code is 1 if a draw failed; everything else is done and written nevertheless.
    """
    from openmm_backmap.analysis.evaluation.processes import default_workers
    from openmm_backmap.analysis.forces.validate import validate

    cg = labelled("--cg", "BEADS", options["cg"])
    systems = {label: paths[-1] for label, paths in labelled("--cg-system", "XML", options["cg_systems"]).items()}
    with resumable(options["quiet"]) as bars:
        found = validate(
            options["reference"], options["model"], cg, out=options["out"], held_out=options["held_out"],
            cg_systems=systems, chemistry=options["chemistry"], n_samples=options["samples"],
            n_frames=options["frames"], refine=options["refine"], also_minimised=options["also_minimised"],
            seed=options["seed"], temperature=options["temperature"], topology=options["topology"],
            cg_topology=options["cg_topology"], aliases=options["aliases"],
            workers=options["workers"] or default_workers(), platform=options["platform"], device=options["device"],
            progress=bars)
    if not options["quiet"]:
        _say(found, options["out"], options["verbose"])
    return exit_code(found)


def _say(found, out: Path, verbose: bool) -> None:
    from openmm_backmap.analysis.evaluation.results import as_text, number_text
    from openmm_backmap.analysis.forces.results import ranking_text, rankings, summary_table

    click.echo(as_text(summary_table(found)))
    for level, ranks in rankings(found).items():
        if len(ranks) > 1:
            click.echo(f"ranking ({level}), the best first: {ranking_text(ranks)}")
    for judged in found.judged:
        if judged.kind == "cg" and judged.worst:
            worst = judged.worst[0]
            click.echo(f"worst of {judged.label}: {worst.frame}, molecule {worst.molecule + 1}, bead {worst.name}: "
                       f"{number_text(worst.force)} kJ/mol/nm; {worst.nearest}")
    if verbose:
        say_provenance(found)
    click.echo(f"wrote {out / 'report.html'}, {out / 'scores.json'}, {out / 'scores.csv'}, {out / 'figures'}, "
               f"{out / 'worst'}, {out / 'forces'}")
