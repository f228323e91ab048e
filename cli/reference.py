"""``backmap-openmm reference``: all-atom reference data, made from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openmm_backmap.cli.progress import resumable
from openmm_backmap.reference.melt import MeltSettings, recipe, run_melt

_DEFAULT = "[default: the recipe's]"


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, short_help="Make all-atom reference data.")
@click.argument("chemistry")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Folder of the results: melt_1/frame_0001.gro, ...")
@click.option("--melts", type=click.IntRange(1), default=2, show_default=True,
              help="Independent melts, with the seeds SEED, SEED + 1, ...")
@click.option("--chains", type=click.IntRange(1), help=f"Molecules. {_DEFAULT}")
@click.option("--length", type=click.IntRange(1), help=f"Monomers of a chain. {_DEFAULT}")
@click.option("--temperature", type=click.FloatRange(0, min_open=True),
              help="K. [default: that of the chemistry]")
@click.option("--pressure", type=float, help=f"bar. {_DEFAULT}")
@click.option("--equilibrate", type=click.FloatRange(0),
              help=f"ps at constant pressure before the first snapshot. {_DEFAULT}")
@click.option("--interval", type=click.FloatRange(0, min_open=True), help=f"ps between snapshots. {_DEFAULT}")
@click.option("--snapshots", type=click.IntRange(1), help=f"Snapshots of each melt. {_DEFAULT}")
@click.option("--seed", type=click.IntRange(0, 2**31 - 2), default=1, show_default=True)
@click.option("--platform", help="OpenMM platform. [default: the fastest that works]")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def reference(chemistry: str, out: Path, **options: Any) -> None:
    """Build, equilibrate and sample melts of CHEMISTRY (a shipped name or a chemistry file).

    A run that was interrupted goes on where it was when the same command is given again. Recipes: sps has 12 chains
    of 10 monomers, octane and cumene 80 molecules, tmbt 64.

    \b
    Examples:
      backmap-openmm reference sps --out runs/sps
      backmap-openmm reference octane --out runs/octane --chains 215
      backmap-openmm reference sps --out runs/cold --temperature 453
    """
    with resumable(options["quiet"]) as bars:
        for k in range(options["melts"]):
            run_melt(_settings(chemistry, options, k), out / f"melt_{k + 1}", options["platform"], bars)


def _settings(chemistry: str, options: dict[str, Any], k: int) -> MeltSettings:
    return recipe(
        chemistry, n_chains=options["chains"], n_monomers=options["length"],
        temperature_K=options["temperature"], pressure_bar=options["pressure"],
        equilibrate_ps=options["equilibrate"], interval_ps=options["interval"], n_snapshots=options["snapshots"],
        seed=options["seed"] + k)
