"""Names to objects, loaded only when asked for; third parties add theirs by entry points."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module, metadata

from openmm_backmap.errors import BackmapError, UnknownNameError


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """The error for a name that does not exist: says what does, and what was probably meant."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    text = f"unknown {kind} {name!r}" + (f" (did you mean {close[0]!r}?)" if close else "")
    listing = ", ".join(known) + (f", {hint}" if hint else "")
    return UnknownNameError(f"{text}; known: {listing}")


class Registry:
    """Lazy name -> object table with an entry-point group of the same name.

    Parameters
    ----------
    kind : str
        What the names stand for; used in messages.
    entries : dict of str to str
        ``name: "module:attribute"``; imported on first use.
    group : str
        Entry-point group in which other packages may offer more. A broken plug-in fails only when it is asked for.
    """

    def __init__(self, kind: str, entries: dict[str, str], group: str):
        self.kind, self._entries, self._group = kind, dict(entries), group

    def names(self) -> list[str]:
        return sorted(set(self._entries) | {e.name for e in metadata.entry_points(group=self._group)})

    def get(self, name: str):
        """The object called ``name``; :class:`UnknownNameError` lists the names there are."""
        if name in self._entries:
            module, attribute = self._entries[name].split(":")
            return getattr(import_module(module), attribute)
        for entry in metadata.entry_points(group=self._group):
            if entry.name == name:
                try:
                    return entry.load()
                except Exception as error:
                    raise BackmapError(f"{self.kind} {name!r} of {entry.value} failed to load: {error}") from error
        raise unknown_name(self.kind, name, self.names())
