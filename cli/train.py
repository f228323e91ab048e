"""``backmap-openmm train``: a model of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from openmm_backmap.cli.progress import resumable

_DATA = click.Path(path_type=Path, exists=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, short_help="Train a model.")
@click.argument("data", nargs=-1, required=True, type=_DATA)
@click.option("--validation", multiple=True, required=True, type=_DATA,
              help="Snapshots to judge by, never trained on; may be repeated.")
@click.option("--chemistry", "chemistries", multiple=True, default=("sps",), show_default=True,
              help="Shipped name or file of the chemistry; may be repeated.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The model (.pt).")
@click.option("--settings", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Settings (.yaml or .json).")
@click.option("--start", metavar="MODEL", help="Begin with the weights of this model (shipped name or file).")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint beside --out.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Stop after so many minutes.")
@click.option("--device", help="Torch device. [default: cuda where there is one]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 2), help="Overrides the settings' seed.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def train(data: tuple[Path, ...], validation: tuple[Path, ...], chemistries: tuple[str, ...], out: Path,
          settings: Path | None, start: str | None, resume: bool, minutes: float | None, device: str | None,
          seed: int | None, quiet: bool, verbose: bool) -> None:
    """Train a model on atomistic structures DATA (files, folders of them, or a data set of 'compile').

    \b
    Example:
      backmap-openmm train runs/sps/melt_1 --validation runs/sps/melt_2 --out mine.pt --minutes 60
    """
    from openmm_backmap.training.train import train_from_files

    with resumable(quiet, "the same command with --resume goes on from the last checkpoint") as bars:
        train_from_files(data, validation, out, chemistry=chemistries, settings_file=settings, resume=resume,
                         start=start, minutes=minutes, device=device, seed=seed, progress=bars)
