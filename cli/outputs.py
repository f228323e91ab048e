"""Output files of one run: all checked before the work, all there at its end or none."""

from __future__ import annotations

import os
from pathlib import Path

from openmm_backmap.errors import InputError
from openmm_backmap.io.writers import check_output


def check_ending(path: Path, known: tuple[str, ...]) -> None:
    """Refuse, before the work, a file of a format that cannot be written."""
    if path.suffix.lower() not in known:
        raise InputError(f"{path}: unknown ending {path.suffix!r}; known: {', '.join(known)}")


class Outputs:
    """Collects output files under temporary names and moves them into place together.

    Parameters
    ----------
    overwrite : bool
        Whether files that exist may be replaced.
    """

    def __init__(self, overwrite: bool):
        self._overwrite = overwrite
        self._parts: dict[Path, Path] = {}

    def add(self, path: Path) -> None:
        """Promise an output; :class:`InputError` where it cannot be written."""
        if path in self._parts:
            raise InputError(f"{path}: given for two outputs")
        check_output(path, self._overwrite)
        # The ending stays: it chooses the format.
        self._parts[path] = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")

    @property
    def paths(self) -> list[Path]:
        return list(self._parts)

    def part(self, path: Path) -> Path:
        """The temporary to write in place of ``path``."""
        return self._parts[path]

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                for path, part in self._parts.items():
                    os.replace(part, path)
        finally:
            for part in self._parts.values():
                part.unlink(missing_ok=True)
