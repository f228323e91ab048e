"""Independent tasks, one after the other or in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from openmm_backmap.cores import THREAD_VARIABLES, n_cores
from openmm_backmap.errors import BackmapError

Progress = Callable[[str, int, int], None]


def default_workers() -> int:
    """As many as this process may use cores; one where a GPU does the work."""
    import torch

    if torch.cuda.is_available():
        return 1
    return n_cores()


def run_tasks(function: Callable[..., None], tasks: Sequence, workers: int, stage: str,
              progress: Progress | None = None) -> None:
    """Call ``function(task, progress)`` for all tasks.

    With one worker all is done in this process, with all its threads. Several are fresh processes (spawned, since
    OpenMM and torch do not survive a fork) of one thread each; an error in one, or Ctrl-C, ends them all.

    Parameters
    ----------
    function : callable
        Of a module, so that another process can import it; results are left where the task says.
    tasks : sequence
    workers : int
    stage : str
        Name of the whole, for ``progress``. Tasks tell of their own only in this process.
    progress : callable of (stage, done, total), optional
    """
    tell = progress or (lambda *_: None)
    if min(workers, len(tasks)) <= 1:
        for k, task in enumerate(tasks):
            tell(stage, k, len(tasks))
            function(task, progress)
        tell(stage, len(tasks), len(tasks))
        return
    before = set(multiprocessing.active_children())
    with _single_threaded():
        pool = ProcessPoolExecutor(min(workers, len(tasks)), multiprocessing.get_context("spawn"), _ignore_interrupts)
        try:
            tell(stage, 0, len(tasks))
            futures = [pool.submit(function, task, None) for task in tasks]
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                tell(stage, done, len(tasks))
            pool.shutdown()
        except BrokenProcessPool:
            raise BackmapError(
                "a worker process died, perhaps for want of memory (or, in a script of your own, of an if __name__ == "
                "'__main__'); use fewer --workers and run the same command again: it goes on where this one stopped"
            ) from None
        finally:
            # Workers in the middle of a task would be waited for.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()


def _ignore_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Libraries read these when they are loaded: they must be set before a process begins."""
    kept = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
