"""``backmap-openmm reference``: all-atom reference data, made from nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from openmm_backmap.cli.progress import Bars, resumable
from openmm_backmap.reference.exchange import EXCHANGES, exchange_recipe, run_exchange, sampled_start
from openmm_backmap.reference.melt import recipe, run_melt
from openmm_backmap.reference.peptide import RECIPES, SOLVENTS, peptide_recipe, run_peptide

_DEFAULT = "[default: the recipe's]"
#: options that say nothing about the one kind of recipe or the other
_OF_MELTS = ("chains", "length", "pressure")
_OF_PEPTIDES = ("solvent", "exchange")


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, short_help="Make all-atom reference data.")
@click.argument("chemistry")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Folder of the results: melt_1/frame_0001.gro, ...; of a peptide run_1/trajectory.xtc.")
@click.option("--runs", "--melts", "runs", type=click.IntRange(1), default=2, show_default=True,
              help="Independent runs, with the seeds SEED, SEED + 1, ...: one to train on, one to test.")
@click.option("--chains", type=click.IntRange(1), help=f"Molecules; melts only. {_DEFAULT}")
@click.option("--length", type=click.IntRange(1), help=f"Monomers of a chain; melts only. {_DEFAULT}")
@click.option("--pressure", type=float, help=f"bar; melts only. {_DEFAULT}")
@click.option("--solvent", type=click.Choice(SOLVENTS), help="Peptides only. [default: implicit]")
@click.option("--exchange", type=click.FloatRange(0, min_open=True),
              help=f"chignolin only: ns of replica exchange, each replica, before the runs. {_DEFAULT}")
@click.option("--temperature", type=click.FloatRange(0, min_open=True),
              help="K. [default: that of the chemistry]")
@click.option("--equilibrate", type=click.FloatRange(0),
              help=f"ps before the first snapshot, at constant pressure for melts. {_DEFAULT}")
@click.option("--interval", type=click.FloatRange(0, min_open=True), help=f"ps between snapshots. {_DEFAULT}")
@click.option("--snapshots", type=click.IntRange(1), help=f"Snapshots of each run. {_DEFAULT}")
@click.option("--seed", type=click.IntRange(0, 2**31 - 2), default=1, show_default=True)
@click.option("--platform", help="OpenMM platform. [default: the fastest that works]")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def reference(chemistry: str, out: Path, **options: Any) -> None:
    """Build, equilibrate and sample molecules of CHEMISTRY (a shipped name or a chemistry file).

    A run that was interrupted goes on where it was when the same command is given again. Recipes: sps is a melt of 12
    chains of 10 monomers, octane and cumene of 80 molecules, tmbt of 64. adp is a peptide in solution, 200 ns with a
    frame every 1 ps. chignolin folds: replica exchange (100 ns, six replicas) finds its states, and runs of 100 ns,
    with a frame every 10 ps, start in turn from structures found, from its two hairpins, and grown at random.

    \b
    Examples:
      backmap-openmm reference sps --out runs/sps
      backmap-openmm reference octane --out runs/octane --chains 215
      backmap-openmm reference sps --out runs/cold --temperature 453
      backmap-openmm reference adp --out runs/adp
      backmap-openmm reference adp --out runs/adp-water --solvent explicit --snapshots 20000
      backmap-openmm reference chignolin --out runs/chignolin --runs 20 --snapshots 1000
    """
    peptide = chemistry in RECIPES
    refused = () if chemistry in EXCHANGES else ("exchange",) if peptide else _OF_PEPTIDES
    _refuse(chemistry, options, (*refused, *(_OF_MELTS if peptide else ())), "peptide" if peptide else "melt")
    with resumable(options["quiet"]) as bars:
        (_peptides if peptide else _melts)(chemistry, out, options, bars)


def _melts(chemistry: str, out: Path, options: dict[str, Any], bars: Bars) -> None:
    for k in range(options["runs"]):
        settings = recipe(chemistry, n_chains=options["chains"], n_monomers=options["length"],
                          pressure_bar=options["pressure"], **_changes(options, k))
        run_melt(settings, out / f"melt_{k + 1}", options["platform"], bars)


def _peptides(chemistry: str, out: Path, options: dict[str, Any], bars: Bars) -> None:
    runs = [peptide_recipe(chemistry, solvent=options["solvent"], **_changes(options, k))
            for k in range(options["runs"])]
    if chemistry in EXCHANGES:
        settings = exchange_recipe(chemistry, temperature_K=options["temperature"], seed=options["seed"])
        if options["exchange"]:
            settings = replace(settings, n_snapshots=max(1, round(1000 * options["exchange"] / settings.interval_ps)))
        run_exchange(settings, out / "exchange", options["platform"], bars)
    for k, run in enumerate(runs):
        start = sampled_start(out / "exchange", run.seed) if chemistry in EXCHANGES else None
        run_peptide(run, out / f"run_{k + 1}", options["platform"], bars, start)


def _changes(options: dict[str, Any], k: int) -> dict[str, Any]:
    return dict(temperature_K=options["temperature"], equilibrate_ps=options["equilibrate"],
                interval_ps=options["interval"], n_snapshots=options["snapshots"], seed=options["seed"] + k)


def _refuse(chemistry: str, options: dict[str, Any], names: tuple[str, ...], kind: str) -> None:
    given = [f"--{name}" for name in names if options[name] is not None]
    if given:
        raise click.UsageError(f"{', '.join(given)}: not for {chemistry}, which is a {kind}; leave it out")
