"""Output folders that belong to one set of settings: a run that goes on adds to its own folder, and to no other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmm_backmap.errors import InputError
from openmm_backmap.io.writers import replacing


def claim(record: Path, wanted: Mapping[str, Any], other: str, *, length: str | None = None,
          shorter: str | None = None) -> None:
    """Make the folder of ``record`` that of the run which ``wanted`` says; it is made where it is not there.

    Parameters
    ----------
    record : Path
        The file that says whose the folder is, JSON.
    wanted : mapping
        All that results depend on.
    other : str
        What is said where the folder is that of another run; ``{record}``, ``{folder}`` and ``{changed}`` (the names of
        the settings that differ) are filled in.
    length : str, optional
        The setting, a whole number, that may differ: how far a run goes.
    shorter : str, optional
        What is said where the folder's run went further than the one that is wanted; ``{folder}`` and ``{length}`` are
        filled in. Without it that is no matter.

    Raises
    ------
    InputError
        The folder is that of another run, or its record is damaged.
    """
    wanted = json.loads(json.dumps(wanted))  # as it is read back: tuples are lists there
    if record.exists():
        found = _recorded(record, length)
        changed = [key for key in {**wanted, **found} if key != length and found.get(key) != wanted.get(key)]
        if changed:
            raise InputError(other.format(record=record, folder=record.parent, changed=", ".join(changed)))
        if shorter and found[length] > wanted[length]:
            raise InputError(shorter.format(folder=record.parent, length=found[length]))
    record.parent.mkdir(parents=True, exist_ok=True)
    with replacing(record, overwrite=True) as part:
        part.write_text(json.dumps(wanted, indent=1))


def _recorded(record: Path, length: str | None) -> dict[str, Any]:
    try:
        found = json.loads(record.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or length and not isinstance(found.get(length), int):
        raise InputError(f"{record}: damaged; remove it and give the command that {record.parent} was begun with")
    return found
