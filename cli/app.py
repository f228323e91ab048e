"""The group of all commands; without a verb it does the main job."""

from __future__ import annotations

import click

from openmm_backmap import __version__
from openmm_backmap.cli.evaluate import evaluate
from openmm_backmap.cli.models import models
from openmm_backmap.cli.reference import reference
from openmm_backmap.cli.run import run
from openmm_backmap.cli.train import train

_OWN = ("--help", "-h", "--version")


class MainJobGroup(click.Group):
    """A group whose first word may be left out: ``backmap-openmm cg.pdb`` is ``backmap-openmm run cg.pdb``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in _OWN:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        run_ctx = click.Context(run, info_name=ctx.info_name)
        run.format_help(run_ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=MainJobGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="backmap-openmm")
def app() -> None:
    """Coarse-grained structures back to atoms."""


app.add_command(run)
app.add_command(evaluate)
app.add_command(models)
app.add_command(reference)
app.add_command(train)
