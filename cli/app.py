"""The group of all commands; without a verb it does the main job."""

from __future__ import annotations

from importlib import import_module

import click

from openmm_backmap import __version__

_OWN = ("--help", "-h", "--version")
_COMMANDS = ("run", "cg-model", "compile", "evaluate", "evaluate-trajectory", "models", "reference", "train",
             "validate-cg")


class MainJobGroup(click.Group):
    """A group whose first word may be left out: ``backmap-openmm cg.pdb`` is ``backmap-openmm run cg.pdb``.

    A command is imported when it is asked for: training runs where what the others need is not installed.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        module = name.replace("-", "_")
        return getattr(import_module(f"openmm_backmap.cli.{module}"), module) if name in _COMMANDS else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in _COMMANDS and args[0] not in _OWN:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        run = self.get_command(ctx, "run")
        run.format_help(click.Context(run, info_name=ctx.info_name), formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=MainJobGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="backmap-openmm")
def app() -> None:
    """Coarse-grained structures back to atoms."""
