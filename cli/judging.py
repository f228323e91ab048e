"""What the commands that judge share: words of the form LABEL=FILE, draws that failed, and what a run depended on."""

from __future__ import annotations

import click


def labelled(option: str, what: str, words: tuple[str, ...]) -> dict[str, list[str]]:
    """Paths by label; a label may be given again."""
    found: dict[str, list[str]] = {}
    for word in words:
        label, sign, path = word.partition("=")
        if not sign or not label or not path:
            raise click.BadParameter(f"{option} {word}: write LABEL={what}")
        found.setdefault(label, []).append(path)
    return found


def exit_code(found) -> int:
    """0, or 1 after telling of draws that failed."""
    for label, failures in found.failures.items():
        click.echo(f"Error: {label}: {len(failures)} draw(s) failed, the first: {failures[0].frame}, draw "
                   f"{failures[0].draw}: {failures[0].reason}", err=True)
    return 1 if found.failures else 0


def say_provenance(found) -> None:
    """Versions, machine and settings."""
    for key, value in {**found.provenance, **found.settings}.items():
        click.echo(f"  {key:24}{value}")
