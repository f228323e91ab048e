"""``backmap-openmm cg-model``: coarse-grained force fields, made from atomistic frames and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openmm_backmap.cli.progress import resumable

_HELP = {"help_option_names": ["-h", "--help"]}
_FILE = click.Path(path_type=Path, dir_okay=False)
_POSITIVE = click.FloatRange(0, min_open=True)
_SEED = click.IntRange(0, 2**31 - 2)


@click.group(context_settings=_HELP, short_help="Make and run coarse-grained force fields.")
def cg_model() -> None:
    """Make coarse-grained force fields by Boltzmann inversion, and run them in OpenMM.

    \b
    Examples:
      backmap-openmm cg-model fit 'runs/octane/melt_1/frame_*.gro' --chemistry octane --out octane-ibi
      backmap-openmm cg-model run octane-ibi -o cg.xtc --ps 100 --every 1
    """


@cg_model.command(context_settings=_HELP, short_help="Make a model of atomistic frames.")
@click.argument("reference", nargs=-1, required=True, metavar="ATOMS...")
@click.option("--chemistry", required=True, help="Shipped name or chemistry file.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Folder of the model: model.yaml, start.gro, system.xml, figures.")
@click.option("--iterations", type=click.IntRange(0, 999), default=10, show_default=True,
              help="Corrections after the direct inversion; 0 leaves it at that.")
@click.option("--without", multiple=True, metavar="TERM",
              help="Leave out angles, dihedrals, impropers or a single term ('angle A-B-B'); may be repeated.")
@click.option("--constrain-bonds", is_flag=True, help="Bonds of fixed (mean) length, in place of potentials.")
@click.option("--direct-bonded", is_flag=True, help="Correct pairs only; bonded potentials stay as directly inverted.")
@click.option("--pressure-correction", type=float, metavar="BAR",
              help="Also correct pairs towards this pressure, linearly. [default: no]")
@click.option("--cutoff", type=_POSITIVE, default=1.2, show_default=True, metavar="NM",
              help="Of pairs; half the box at most.")
@click.option("--exclude", type=click.IntRange(0, 20), default=3, show_default=True, metavar="BONDS",
              help="Beads up to so many bonds apart have no pair potential.")
@click.option("--ps", type=_POSITIVE, default=50.0, show_default=True, help="Run of each iteration.")
@click.option("--temperature", type=_POSITIVE, metavar="K", help="[default: that of the chemistry]")
@click.option("--topology", type=_FILE, help="Structure that names the atoms of trajectories.")
@click.option("--alias", "aliases", multiple=True, metavar="OLD=NEW",
              help="Read a name of a residue or atom as another, or a file of such lines; may be repeated.")
@click.option("--seed", type=_SEED, default=1, show_default=True)
@click.option("--platform", help="OpenMM platform. [default: the fastest that works]")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no table.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def fit(reference: tuple[str, ...], chemistry: str, out: Path, **options: Any) -> None:
    """Make a force field of beads from atomistic structures ATOMS (files, folders, patterns in quotes).

    Bonds, angles, dihedrals and impropers by Boltzmann inversion, pairs from g(r); each iteration runs the model and
    corrects it by what it got wrong. A fit that was interrupted goes on when the same command is given again, and one
    that is done goes on with more --iterations.

    \b
    Examples:
      backmap-openmm cg-model fit 'runs/octane/melt_1/frame_*.gro' --chemistry octane --out octane-ibi
      backmap-openmm cg-model fit runs/tmbt/melt_1 --chemistry tmbt --constrain-bonds --out A
      backmap-openmm cg-model fit runs/tmbt/melt_1 --chemistry tmbt --without dihedrals --out C
    """
    from openmm_backmap.chemistry import load_chemistry, parse_aliases
    from openmm_backmap.coarse import FitSettings, fit_model

    settings = FitSettings(
        iterations=options["iterations"], without=options["without"], constrain_bonds=options["constrain_bonds"],
        direct_bonded=options["direct_bonded"], pressure_bar=options["pressure_correction"],
        cutoff_nm=options["cutoff"], excluded_bonds=options["exclude"], ps=options["ps"],
        temperature_K=options["temperature"], seed=options["seed"])
    with resumable(options["quiet"]) as bars:
        _, scores = fit_model(reference, load_chemistry(chemistry), out, settings, topology=options["topology"],
                              aliases=parse_aliases(options["aliases"]), platform=options["platform"], progress=bars)
    if not options["quiet"]:
        _say(scores, out)


@cg_model.command(context_settings=_HELP, short_help="Run a model to a trajectory.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--cg", type=_FILE, metavar="BEADS",
              help="Structure to begin with, of any number of molecules. [default: start.gro of the model's folder]")
@click.option("-o", "--out", type=_FILE, required=True,
              help="Trajectory (.xtc, .trr, .dcd); a .gro of the same name tells its beads.")
@click.option("--ps", type=_POSITIVE, default=100.0, show_default=True, help="Length of the run.")
@click.option("--every", type=_POSITIVE, default=1.0, show_default=True, metavar="PS", help="Time between frames.")
@click.option("--temperature", type=_POSITIVE, metavar="K", help="[default: the model's]")
@click.option("--seed", type=_SEED, default=1, show_default=True)
@click.option("--system", type=_FILE, metavar="XML", help="Also write the openmm.System.")
@click.option("--overwrite", is_flag=True, help="Replace output files that exist.")
@click.option("--platform", help="OpenMM platform. [default: the fastest that works]")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def run(model: Path, cg: Path | None, out: Path, **options: Any) -> None:
    """Run MODEL (a folder of 'cg-model fit', or a model.yaml) at constant volume.

    A run that was interrupted goes on when the same command is given again.

    \b
    Examples:
      backmap-openmm cg-model run octane-ibi -o cg.xtc --ps 100 --every 1
      backmap-openmm cg-model run octane-ibi --cg start.gro -o cg.dcd --temperature 400 --seed 2
      backmap-openmm cg.xtc --topology cg.gro --model fragment-octane -o atoms.xtc
    """
    from openmm_backmap.coarse import RunSettings, load_cg_model, run_model
    from openmm_backmap.errors import InputError

    loaded = load_cg_model(model)
    if cg is None:
        cg = (model if model.is_dir() else model.parent) / "start.gro"
        if not cg.is_file():
            raise InputError(f"{cg} does not exist: give a structure to begin with as --cg")
    settings = RunSettings(options["ps"], options["every"], options["temperature"], options["seed"])
    with resumable(options["quiet"]) as bars:
        files = run_model(loaded, cg, out, settings, system=options["system"], platform=options["platform"],
                          overwrite=options["overwrite"], progress=bars)
    if not options["quiet"]:
        click.echo(f"wrote {', '.join(map(str, files))}")


def _say(scores, out: Path) -> None:
    first, last = scores[0].iteration, scores[-1].iteration
    click.echo(f"{'term':20}{'direct':>10}{f'iteration {last}':>14}{'floor':>10}")
    for begin in (s for s in scores if s.iteration == first):
        end = next(s for s in scores if s.iteration == last and s.term == begin.term)
        click.echo(f"{begin.term:20}{begin.divergence:10.4f}{end.divergence:14.4f}{end.floor:10.4f}")
    click.echo("Jensen-Shannon divergence (bits) from the target, of pairs mean difference of g(r); floor: halves of "
               f"the target\npressure at the end {scores[-1].pressure_bar:.0f} bar\n"
               f"wrote {out / 'model.yaml'}, {out / 'start.gro'}, {out / 'system.xml'}, {out / 'convergence.png'}")
