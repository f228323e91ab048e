"""Names in files to names that a chemistry knows, as users give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from openmm_backmap.errors import InputError


def parse_aliases(items: Iterable[str]) -> dict[str, str]:
    """Names in files to names that the chemistry knows, for residues and beads alike.

    Parameters
    ----------
    items : iterable of str
        Each ``OLD=NEW``, or the path of a file with one such line per alias. There, a ``#`` at the start of a line or
        after a blank begins a comment. A ``#`` within a name stands for an optional number: ``P#=S#``.
    """
    aliases: dict[str, str] = {}
    for item in items:
        if Path(item).is_file():
            for number, line in enumerate(Path(item).read_text(errors="replace").splitlines(), 1):
                line = re.sub(r"(^|\s)#.*", "", line).strip()
                if line:
                    _add_alias(aliases, line, f"{item}, line {number}")
        elif "=" in item:
            _add_alias(aliases, item, "alias")
        else:
            raise InputError(f"alias {item!r} is neither OLD=NEW nor a file that exists")
    return aliases


def _add_alias(aliases: dict[str, str], text: str, where: str) -> None:
    old, _, new = (part.strip() for part in text.partition("="))
    if not old or not new or "=" in new or len(old.split()) > 1 or len(new.split()) > 1:
        raise InputError(f"{where}: {text!r} is not an alias; write OLD=NEW")
    if ("#" in new) and ("#" not in old):
        raise InputError(f"{where}: {text!r}: the # of {new} needs a # in {old} to take its number from")
    if aliases.setdefault(old, new) != new:
        raise InputError(f"{where}: {old} is already an alias of {aliases[old]}")


def name_pattern(pattern: str) -> re.Pattern:
    """Matches names of which ``#`` is an optional number, its only group."""
    return re.compile(re.escape(pattern).replace(re.escape("#"), "([0-9]*)", 1))


def rename(name: str, aliases: Mapping[str, str]) -> str:
    """``name`` after ``aliases``; one that is spelt out goes before one with a ``#``."""
    if name in aliases:
        return aliases[name]
    for old, new in aliases.items():
        if "#" in old and (found := name_pattern(old).fullmatch(name)):
            return new.replace("#", found.group(1))
    return name
