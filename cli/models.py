"""``backmap-openmm models``: what comes with the package."""

from __future__ import annotations

from typing import Any

import click


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]},
             short_help="List the shipped models.")
@click.pass_context
def models(ctx: click.Context) -> None:
    """List the models that come with the package; 'models show NAME' tells all about one.

    \b
    Examples:
      backmap-openmm models
      backmap-openmm models show sps
    """
    if ctx.invoked_subcommand is None:
        _list()


def _list() -> None:
    from openmm_backmap.generators.base import untrained_families
    from openmm_backmap.model_file import load_model, shipped_models

    names = shipped_models()
    if not names:
        click.echo("no models are shipped with this installation; give --model the path of a model file")
    for name in names:
        model = load_model(name)
        click.echo(f"{name:16} {model.family:10} {model.chemistry.title}")
    for family in untrained_families():
        click.echo(f"{family:16} {'untrained':10} a baseline for any chemistry: give --chemistry with it")


@models.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name")
def show(name: str) -> None:
    """Family, chemistry, numbers and card of the model NAME (or of a model file)."""
    from openmm_backmap.model_file import load_model, shipped_models

    model = load_model(name)
    parameters = sum(weight.numel() for weight in model.weights.values())
    click.echo(f"model       {name}\nfamily      {model.family} ({parameters:,} parameters)\n"
               f"chemistry   {model.chemistry.title}\n"
               f"beads       {', '.join(model.chemistry.bead_types)}\n"
               f"temperature {model.chemistry.temperature_K:g} K\nsha256      {model.sha256}")
    for line in _lines(model.provenance):
        click.echo(line)
    path = shipped_models().get(name)
    card = path.with_suffix(".md") if path else None
    if card and card.is_file():
        click.echo("\n" + card.read_text())


def _lines(content: Any, indent: str = "") -> list[str]:
    """Nested mappings as indented ``key value`` lines."""
    lines = []
    for key, value in content.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key:{max(1, 12 - len(indent))}} {value}")
    return lines
