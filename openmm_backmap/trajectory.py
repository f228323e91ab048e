"""The frames of a trajectory, in order: here or on the workers of a dask cluster, kept on the way if wanted."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from openmm_backmap import __version__
from openmm_backmap.cores import THREAD_VARIABLES, n_cores
from openmm_backmap.errors import BackmapError, InputError, MissingDependencyError
from openmm_backmap.io.frames import CGFrame
from openmm_backmap.io.writers import check_output, replacing
from openmm_backmap.job import Backmapped, Job, JobSpec, Progress
from openmm_backmap.refine import RefineReport

#: frames that wait for a worker, so that none of them is ever idle
_AHEAD = 2
#: how long a scheduler may take to answer
_TIMEOUT_S = 10


def backmap_frames(job: Job, frames: Iterable[tuple[int, CGFrame]], n_samples: int, *, kept: KeptFrames | None = None,
                   client=None, progress: Progress | None = None) -> Iterator[Backmapped]:
    """Backmap numbered frames, in their order.

    Parameters
    ----------
    job : Job
        Of this process; those of other processes are made from its description.
    frames : iterable of (int, CGFrame)
    n_samples : int
    kept : KeptFrames, optional
        Frames that are there are not drawn again, and new ones are added.
    client : dask.distributed.Client, optional
        Whose workers do the work.
    progress : callable, optional
        Of the work in this process.
    """
    if client is None:
        work = lambda number, frame: lambda: job.run(frame, number, n_samples, progress)  # noqa: E731
    else:
        work = _remote(client, job, n_samples)
    waiting: deque[Callable[[], Backmapped]] = deque()
    for number, frame in frames:
        waiting.append(_with_kept(kept, number, frame, job, work))
        # Workers may come and go.
        while len(waiting) >= (1 if client is None else _AHEAD * max(1, len(client.nthreads()))):
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


def _with_kept(kept: KeptFrames | None, number: int, frame: CGFrame, job: Job, work) -> Callable[[], Backmapped]:
    """What gives a frame: from where it is kept, or from ``work``, to be kept."""
    if kept is None:
        return work(number, frame)
    if kept.has(number):
        return lambda: kept.load(number, frame, job)
    wait = work(number, frame)
    return lambda: kept.save(number, frame, wait())


# --- frames kept on the way ------------------------------------------------------------------------------------------

class KeptFrames:
    """A folder of backmapped frames, so that a run that was interrupted goes on.

    Parameters
    ----------
    folder : path
        Made where it is not there.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._record = self.folder / "settings.json"

    def seed(self) -> int | None:
        """The seed of the frames that are there."""
        return self._found()["seed"] if self._record.exists() else None

    def claim(self, spec: JobSpec, n_samples: int) -> None:
        """Make this the folder of frames drawn as ``spec`` says; :class:`InputError` if it is that of others."""
        settings = _described(spec, n_samples)
        if self._record.exists():
            found = self._found()
            other = [key for key, value in settings.items() if found.get(key) != value]
            if other:
                raise InputError(f"{self.folder} holds frames of a run with other settings ({', '.join(other)}): give "
                                 "the same ones to go on with it, or remove it")
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError(f"{self.folder} is there and holds no frames of this package; remove it")
        check_output(self.folder, overwrite=True)
        self.folder.mkdir(exist_ok=True)
        with replacing(self._record, overwrite=True) as part:
            part.write_text(json.dumps(settings, indent=1) + "\n")

    def _found(self) -> dict:
        try:
            found = json.loads(self._record.read_text())
            return {**found, "seed": int(found["seed"])}
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{self._record}: damaged; remove {self.folder} to start afresh") from None

    def _file(self, number: int) -> Path:
        return self.folder / f"frame_{number:07d}.npz"

    def has(self, number: int) -> bool:
        return self._file(number).exists()

    def save(self, number: int, frame: CGFrame, atoms: Backmapped) -> Backmapped:
        """Keep a frame, and give it back."""
        arrays = {"positions": atoms.positions, "beads_of": _digest(frame),
                  "reports": json.dumps([asdict(report) for report in atoms.diagnostics]),
                  "provenance": json.dumps(atoms.provenance)}
        if atoms.velocities is not None:
            arrays["velocities"] = atoms.velocities
        with replacing(self._file(number), overwrite=True) as part:
            np.savez(part, **arrays)
        return atoms

    def load(self, number: int, frame: CGFrame, job: Job) -> Backmapped:
        """A frame that is kept; :class:`InputError` if it is damaged, or of other beads than ``frame``."""
        file = self._file(number)
        try:
            with np.load(file, allow_pickle=False) as data:
                beads_of = str(data["beads_of"])
                result = _Result(data["positions"], data.get("velocities"),
                                 tuple(RefineReport(**report) for report in json.loads(str(data["reports"]))),
                                 json.loads(str(data["provenance"])))
        except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile):
            raise InputError(f"{file}: damaged; remove it to have the frame drawn again") from None
        if beads_of != _digest(frame):
            raise InputError(f"{file}: frame {number} of the input has changed since; remove {self.folder} to start "
                             "afresh")
        return result.as_backmapped(frame, job)

    def count(self) -> int:
        """How many frames are there."""
        return len(list(self.folder.glob("frame_*.npz")))

    def remove(self) -> None:
        """The frames are no longer needed. A folder that holds something else is left alone."""
        if self._record.exists():
            shutil.rmtree(self.folder, ignore_errors=True)


def _described(spec: JobSpec, n_samples: int) -> dict:
    return {"openmm_backmap": __version__, "input": spec.where, "model": spec.model.family, "sha256": spec.model.sha256,
            "chemistry_sha256": spec.model.chemistry.sha256, "n_samples": n_samples, "seed": spec.seed,
            "aliases": list(spec.aliases), "project": spec.project, "refine": asdict(spec.settings)}


def _digest(frame: CGFrame) -> str:
    parts = [frame.positions] if frame.box is None else [frame.positions, frame.box]
    return hashlib.sha256(b"".join(np.ascontiguousarray(part, dtype=float).tobytes() for part in parts)).hexdigest()


# --- other processes -------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class _Result:
    """What is new about a frame: what travels, and what is kept."""

    positions: np.ndarray
    velocities: np.ndarray | None
    reports: tuple[RefineReport, ...]
    provenance: dict

    def as_backmapped(self, frame: CGFrame, job: Job) -> Backmapped:
        return Backmapped(topology=job.topology(frame.box), positions=self.positions, velocities=self.velocities,
                          box=frame.box, diagnostics=self.reports, provenance=self.provenance, target=job.target,
                          beads=job.beads(frame), time_ps=frame.time_ps)


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


def _remote(client, job: Job, n_samples: int):
    """How a frame is handed to the cluster: a function that gives one that waits for the atoms."""
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    # As the result of a task the description is made again, should all workers that hold it be lost.
    spec = client.submit(_itself, job.spec, pure=False)
    token = spec.key

    def submit(number: int, frame: CGFrame):
        future = client.submit(_work, spec, token, number, frame, n_samples, pure=False, priority=-number)

        def wait() -> Backmapped:
            try:
                return future.result().as_backmapped(frame, job)
            except KilledWorker:
                raise BackmapError(f"frame {number}: the workers that took it died one after the other, perhaps for "
                                   "want of memory") from None
            except CommClosedError as error:
                raise BackmapError(f"the connection to the dask scheduler was lost ({error})") from None
        return wait

    return submit


def _itself(spec: JobSpec) -> JobSpec:
    return spec


_jobs: dict[str, Job] = {}
_one_at_a_time = threading.Lock()  # OpenMM contexts are not for several threads


def _work(spec: JobSpec, token: str, number: int, frame: CGFrame, n_samples: int) -> _Result:
    """On a worker: draw a frame. The model stays loaded for the frames to come."""
    with _one_at_a_time:
        if token not in _jobs:
            _jobs.clear()
            _jobs[token] = Job(spec)
        atoms = _jobs[token].run(frame, number, n_samples)
    return _Result(atoms.positions, atoms.velocities, atoms.diagnostics, atoms.provenance)
