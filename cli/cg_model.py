"""``backmap-openmm cg-model``: coarse-grained force fields, made from atomistic frames and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from openmm_backmap.cli.progress import Bars, resumable

_HELP = {"help_option_names": ["-h", "--help"]}
_FILE = click.Path(path_type=Path, dir_okay=False)
_POSITIVE = click.FloatRange(0, min_open=True)
_SEED = click.IntRange(0, 2**31 - 2)
#: options that say nothing about the one kind of model or the other
_OF_INVERSION = ("without", "constrain_bonds", "direct_bonded", "pressure_correction", "cutoff",
                 "exclude", "topology", "aliases", "cg", "system")
_OF_FORCES = ("epochs", "copies", "friction")


@click.group(context_settings=_HELP, short_help="Make and run coarse-grained force fields.")
def cg_model() -> None:
    """Make coarse-grained force fields by Boltzmann inversion or from atomistic forces, and run them in OpenMM.

    \b
    Examples:
      backmap-openmm cg-model fit 'runs/octane/melt_1/frame_*.gro' --chemistry octane --out octane-ibi
      backmap-openmm cg-model run octane-ibi -o cg.xtc --ps 100 --every 1
      backmap-openmm cg-model fit runs/adp/run_1 --chemistry adp --method forces --out adp-cg
      backmap-openmm cg-model run adp-cg -o cg.xtc --copies 100 --ps 1000
    """


@cg_model.command(context_settings=_HELP, short_help="Make a model of atomistic frames.")
@click.argument("reference", nargs=-1, required=True, metavar="ATOMS...")
@click.option("--chemistry", required=True, help="Shipped name or chemistry file.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Folder of the model: model.yaml, start.gro, system.xml, figures; with --method forces model.pt, "
                   "losses, figures.")
@click.option("--method", type=click.Choice(["inversion", "forces"]), default="inversion", show_default=True,
              help="Tables by Boltzmann inversion, of anything in a box; or a small network that learns the forces on "
                   "one molecule, from folders of 'backmap-openmm reference' of a peptide. With forces, of the options "
                   "below only --epochs, --iterations, --ps, --temperature, --seed and --platform apply.")
@click.option("--epochs", type=click.IntRange(1), default=60, show_default=True,
              help="With --method forces: passes over the frames, at most.")
@click.option("--iterations", type=click.IntRange(0, 999),
              help="Corrections after the direct inversion, or of dihedrals after forces were learned; 0 leaves it at "
                   "that. [default: 10; with forces 2]")
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
@click.option("--ps", type=_POSITIVE, default=50.0, show_default=True,
              help="Run of each iteration, or that a model of forces is looked at in.")
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
    corrects it by what it got wrong. With --method forces, a network that learns the forces on the beads of a molecule
    in solution. A fit that was interrupted goes on when the same command is given again, and one by inversion that is
    done goes on with more --iterations.

    \b
    Examples:
      backmap-openmm cg-model fit 'runs/octane/melt_1/frame_*.gro' --chemistry octane --out octane-ibi
      backmap-openmm cg-model fit runs/tmbt/melt_1 --chemistry tmbt --constrain-bonds --out A
      backmap-openmm cg-model fit runs/tmbt/melt_1 --chemistry tmbt --without dihedrals --out C
      backmap-openmm cg-model fit runs/adp/run_1 --chemistry adp --method forces --out adp-cg
    """
    learned = options.pop("method") == "forces"
    _refuse(_OF_INVERSION if learned else _OF_FORCES, "inversion" if learned else "forces")
    if options["iterations"] is None:
        options["iterations"] = 2 if learned else 10
    (_fit_forces if learned else _fit_tables)(reference, chemistry, out, options)


def _refuse(names: tuple[str, ...], kind: str) -> None:
    """Refuse options that were given, and say nothing about this kind of model."""
    context = click.get_current_context()
    given = [option.opts[-1] for option in context.command.params if option.name in names
             and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"{', '.join(given)}: for models of {kind} only; leave it out")


def _fit_forces(reference: tuple[str, ...], chemistry: str, out: Path, options: dict[str, Any]) -> None:
    from openmm_backmap.chemistry import load_chemistry
    from openmm_backmap.coarse import ForceSettings, fit_forces

    settings = ForceSettings(epochs=options["epochs"], iterations=options["iterations"], ps=options["ps"],
                             temperature_K=options["temperature"], seed=options["seed"])
    with resumable(options["quiet"]) as bars:
        fitted = fit_forces(reference, load_chemistry(chemistry), out, settings, platform=options["platform"],
                            progress=bars)
    if not options["quiet"]:
        _say_forces(fitted, out)


def _fit_tables(reference: tuple[str, ...], chemistry: str, out: Path, options: dict[str, Any]) -> None:
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
              help="Trajectory (.xtc, .trr, .dcd); a .gro of the same name tells its beads. Of several copies "
                   "NAME_1.xtc, NAME_2.xtc, ...")
@click.option("--copies", type=click.IntRange(1), default=1, show_default=True,
              help="Molecules that do not see each other, a trajectory each; models of forces only.")
@click.option("--friction", type=_POSITIVE, default=10.0, show_default=True, metavar="1/PS",
              help="Of the solvent; models of forces only. The reference's own makes molecules turn as fast as there.")
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
    """Run MODEL (a folder of 'cg-model fit', or its model.yaml or model.pt).

    Molecules of tables run in their box at constant volume, those of learned forces each by itself, from conformations
    of their reference. A run that was interrupted goes on when the same command is given again.

    \b
    Examples:
      backmap-openmm cg-model run octane-ibi -o cg.xtc --ps 100 --every 1
      backmap-openmm cg-model run octane-ibi --cg start.gro -o cg.dcd --temperature 400 --seed 2
      backmap-openmm cg-model run adp-cg -o cg.xtc --copies 100 --ps 1000
      backmap-openmm cg.xtc --topology cg.gro --model fragment-octane -o atoms.xtc
    """
    from openmm_backmap.coarse import is_neural_model

    learned = is_neural_model(model)
    _refuse(_OF_INVERSION if learned else _OF_FORCES, "inversion" if learned else "forces")
    with resumable(options["quiet"]) as bars:
        files = (_run_copies(model, out, options, bars) if learned else _run_tables(model, cg, out, options, bars))
    if not options["quiet"]:
        names = [str(file) for file in files]
        click.echo(f"wrote {', '.join(names if len(names) < 5 else [names[0], '...', *names[-2:]])}")


def _run_copies(model: Path, out: Path, options: dict[str, Any], bars: Bars) -> list[Path]:
    from openmm_backmap.coarse import CopiesSettings, load_neural_model, run_copies

    settings = CopiesSettings(options["ps"], options["every"], options["temperature"], options["seed"],
                              options["copies"], options["friction"])
    return run_copies(load_neural_model(model), out, settings, platform=options["platform"],
                      overwrite=options["overwrite"], progress=bars)


def _run_tables(model: Path, cg: Path | None, out: Path, options: dict[str, Any], bars: Bars) -> list[Path]:
    from openmm_backmap.coarse import RunSettings, load_cg_model, run_model
    from openmm_backmap.errors import InputError

    loaded = load_cg_model(model)
    if cg is None:
        cg = (model if model.is_dir() else model.parent) / "start.gro"
        if not cg.is_file():
            raise InputError(f"{cg} does not exist: give a structure to begin with as --cg")
    settings = RunSettings(options["ps"], options["every"], options["temperature"], options["seed"])
    return run_model(loaded, cg, out, settings, system=options["system"], platform=options["platform"],
                     overwrite=options["overwrite"], progress=bars)


def _say_forces(fitted, out: Path) -> None:
    best, prior = min(fitted.losses, key=lambda row: row["held_out"]), fitted.losses[0]
    click.echo(f"forces of held-out frames: mean squared difference {best['held_out']:.0f} (kJ/mol/nm)^2 in epoch "
               f"{best['step']}, of the prior {prior['held_out']:.0f}\n{'term':44}{'run':>10}{'floor':>10}")
    for score in fitted.scores:
        click.echo(f"{score.term:44}{score.divergence:10.4f}{score.floor:10.4f}")
    click.echo("Jensen-Shannon divergence (bits) from the reference; floor: the one half of the reference from the "
               f"other\nwrote {out / 'model.pt'}, {out / 'losses.png'}, {out / 'distributions.png'}, "
               f"{out / 'scores.csv'}")


def _say(scores, out: Path) -> None:
    first, last = scores[0].iteration, scores[-1].iteration
    click.echo(f"{'term':20}{'direct':>10}{f'iteration {last}':>14}{'floor':>10}")
    for begin in (s for s in scores if s.iteration == first):
        end = next(s for s in scores if s.iteration == last and s.term == begin.term)
        click.echo(f"{begin.term:20}{begin.divergence:10.4f}{end.divergence:14.4f}{end.floor:10.4f}")
    click.echo("Jensen-Shannon divergence (bits) from the target, of pairs mean difference of g(r); floor: halves of "
               f"the target\npressure at the end {scores[-1].pressure_bar:.0f} bar\n"
               f"wrote {out / 'model.yaml'}, {out / 'start.gro'}, {out / 'system.xml'}, {out / 'convergence.png'}")
