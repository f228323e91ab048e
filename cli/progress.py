"""Progress on stderr: one tqdm bar a stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from openmm_backmap.cli import INTERRUPTED


class Bars:
    """A callable ``(stage, done, total)`` that shows a bar for the stage under way; silent when ``quiet``.

    Use it as a context manager, so that the last bar is taken down whatever happens.
    """

    def __init__(self, quiet: bool = False):
        self._quiet, self._stage, self._bar = quiet, None, None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._quiet or total <= 1:  # a bar of one step tells nothing
            return
        if stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = tqdm(total=total, initial=done, desc=stage, file=sys.stderr, leave=False, dynamic_ncols=True)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._stage = self._bar = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_) -> None:
        self.close()


@contextmanager
def resumable(quiet: bool, how: str = "the same command goes on where this one stopped") -> Iterator[Bars]:
    """Bars of work that can go on later: Ctrl-C says how, and leaves with its exit code."""
    try:
        with Bars(quiet) as bars:
            yield bars
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; {how}\n")
        sys.exit(INTERRUPTED)
