"""``backmap-openmm compile``: snapshots to one file to train from, on a machine that has only torch and numpy."""

from __future__ import annotations

from pathlib import Path

import click

from openmm_backmap.cli.progress import Bars


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, short_help="Make a data set to train from.")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--chemistry", "chemistries", multiple=True, default=("sps",), show_default=True,
              help="Shipped name or file of the chemistry; may be repeated.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), required=True,
              help="The data set (.npz).")
@click.option("--energies", is_flag=True, help="With the energies that the priors of the dbm family ask for.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def compile(data: tuple[Path, ...], chemistries: tuple[str, ...], out: Path, energies: bool, overwrite: bool,
            quiet: bool, verbose: bool) -> None:
    """Read atomistic structures DATA (files, or folders of them) and write one data set for training.

    \b
    Example:
      backmap-openmm compile runs/octane/melt_1 runs/cumene/melt_1 --chemistry octane --chemistry cumene --energies
        -o train.npz
    """
    from openmm_backmap.training.sources import compile_from_files

    with Bars(quiet) as bars:
        compile_from_files(data, chemistries, out, energies=energies, overwrite=overwrite, progress=bars)
