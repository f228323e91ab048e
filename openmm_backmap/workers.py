"""What the workers of a dask cluster do: samples of frames, or the domains of one melt."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.cores import THREAD_VARIABLES, n_cores
from openmm_backmap.errors import BackmapError, InputError, MissingDependencyError
from openmm_backmap.io.frames import CGFrame
from openmm_backmap.job import Drawn, Job, JobSpec

if TYPE_CHECKING:
    from openmm_backmap.sampling.domains import Check, Division, Draw, Part, Ready, Spread

#: how long a scheduler may take to answer
_TIMEOUT_S = 10


@contextmanager
def cluster(text: str):
    """A ``dask.distributed.Client``: of a scheduler's address, or for ``local:N`` of N processes on this machine.

    Raises
    ------
    InputError
        No such scheduler, or not a number of processes.
    MissingDependencyError
        Where dask.distributed is not installed.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise MissingDependencyError("dask.distributed is not installed: pip install "
                                     "'openmm-backmap[cluster]'") from None
    kind, _, number = text.partition(":")
    if kind != "local":
        try:
            client = Client(text, timeout=_TIMEOUT_S)
        except (OSError, ValueError) as error:
            raise InputError(f"no dask scheduler answers at {text!r} ({error}); give its address, for instance "
                             "tcp://10.0.0.1:8786, or local:N for N processes on this machine") from None
        with client:
            yield client
        return
    if not number.isdigit() or int(number) < 1:
        raise InputError(f"{text!r}: write local:N, with N the number of processes on this machine")
    threads = str(max(1, n_cores() // int(number)))
    with (LocalCluster(n_workers=int(number), threads_per_worker=1, dashboard_address=":0", memory_limit=0,
                       silence_logs=50, env=dict.fromkeys(THREAD_VARIABLES, threads)) as workers,
          Client(workers) as client):
        yield client


def spread_samples(client, spec: JobSpec, n_samples: int):
    """How samples are handed to the cluster: ``spread(number, frame)(k)()`` waits for sample ``k`` of a frame."""
    # As the result of a task the description is made again, should all workers that hold it be lost.
    shared = client.submit(_itself, spec, pure=False)

    def spread(number: int, frame: CGFrame):
        # Not before a sample is asked for: all of them may be kept from an earlier run.
        beads = functools.cache(lambda: client.submit(_itself, frame, pure=False))

        def draw(k: int) -> Callable[[], Drawn]:
            future = client.submit(_draw_sample, shared, shared.key, number, beads(), k, pure=False,
                                   priority=-number * n_samples - k)
            return lambda: _result(future, f"sample {k + 1} of frame {number}")

        return draw

    return spread


class DomainWorkers:
    """The workers of a cluster, to draw the domains of a melt; see :class:`openmm_backmap.sampling.domains.Workers`.

    Parameters
    ----------
    client : dask.distributed.Client
    spec : JobSpec
        Of which they take the model and the device.
    """

    def __init__(self, client, spec: JobSpec):
        self._client = client
        self._model = client.submit(_itself, (spec.model, spec.device, spec.platform), pure=False)

    @property
    def count(self) -> int:
        return max(1, len(self._client.nthreads()))

    def spread(self, division: Division) -> Spread:
        parts = {}

        def answers(tasks: Sequence[tuple[int, Draw | Check]]) -> list[np.ndarray]:
            homes = sorted(self._client.nthreads())
            futures = []
            for k, task in tasks:
                if k not in parts:
                    parts[k] = self._shared(division.part(k))
                # A domain stays with a worker, which has made it ready, as long as there is that worker.
                home = {"workers": [homes[k % len(homes)]], "allow_other_workers": True} if homes else {}
                futures.append(self._client.submit(_answer, self._model, self._model.key, parts[k], parts[k].key, task,
                                                   pure=False, **home))
            return [_result(future, f"domain {k + 1}") for (k, _), future in zip(tasks, futures, strict=True)]

        return answers

    def _shared(self, part: Part):
        """A part as the result of a task: dask makes it again when the worker that holds it is lost."""
        import dask

        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
            return self._client.submit(_itself, part, pure=False)


def _result(future, name: str):
    """What a task gives; :class:`BackmapError` where the cluster failed."""
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    try:
        return future.result()
    except KilledWorker:
        raise BackmapError(f"{name}: the workers that took it died one after the other, perhaps for want of "
                           "memory") from None
    except CommClosedError as error:
        raise BackmapError(f"the connection to the dask scheduler was lost ({error})") from None


def _itself(value):
    return value


_jobs: dict[str, Job] = {}
_ready: dict[str, Ready] = {}
_one_at_a_time = threading.Lock()  # OpenMM contexts are not for several threads


def _draw_sample(spec: JobSpec, token: str, number: int, frame: CGFrame, sample: int) -> Drawn:
    """On a worker: draw a sample of a frame. The model stays loaded for those to come."""
    with _one_at_a_time:
        if token not in _jobs:
            _jobs.clear()
            _jobs[token] = Job(spec)
        return _jobs[token].draw(frame, number, sample)


def _answer(model: tuple, token: str, part: Part, name: str, task: Draw | Check) -> np.ndarray:
    """On a worker: do a task of a domain. Model and domains stay ready for those to come."""
    from openmm_backmap.generators.base import load_generator
    from openmm_backmap.sampling.domains import Ready

    with _one_at_a_time:
        if token not in _ready:
            _ready.clear()
            _ready[token] = Ready(load_generator(*model).prepared)
        return _ready[token].answer(name, lambda: part, task)
