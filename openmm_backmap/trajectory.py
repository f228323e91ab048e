"""The samples of frames, in order: here or on the workers of a dask cluster, kept on the way if wanted."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap import __version__
from openmm_backmap.errors import InputError
from openmm_backmap.io.frames import CGFrame
from openmm_backmap.io.writers import check_output, replacing
from openmm_backmap.job import Backmapped, Drawn, Job, JobSpec, Progress
from openmm_backmap.refine import RefineReport
from openmm_backmap.workers import spread_samples

if TYPE_CHECKING:
    from openmm_backmap.sampling.domains import Workers

#: frames that wait for a worker, so that none of them is ever idle
_AHEAD = 2


def backmap_frames(job: Job, frames: Iterable[tuple[int, CGFrame]], n_samples: int, *, kept: KeptFrames | None = None,
                   client=None, workers: Workers | None = None,
                   progress: Progress | None = None) -> Iterator[Backmapped]:
    """Backmap numbered frames, in their order.

    Parameters
    ----------
    job : Job
        Of this process; those of other processes are made from its description.
    frames : iterable of (int, CGFrame)
    n_samples : int
    kept : KeptFrames, optional
        Samples that are there are not drawn again, and new ones are added.
    client : dask.distributed.Client, optional
        Whose workers do the work: every sample of every frame is a task.
    workers : Workers, optional
        That draw domains of each frame, one frame after the other.
    progress : callable, optional
        Of the work in this process, or of the samples of a frame that come from the workers.
    """
    if client is None:
        work, counted = (lambda number, frame: lambda k: lambda: job.draw(frame, number, k, progress, workers)), None
    else:
        work, counted = spread_samples(client, job.spec, n_samples), progress

    def finished() -> Backmapped:
        frame, waits = waiting.popleft()
        return job.gathered(frame, list(_counted(waits, counted)))

    waiting: deque[tuple[CGFrame, list[Callable[[], Drawn]]]] = deque()
    for number, frame in frames:
        waiting.append((frame, _with_kept(kept, number, frame, n_samples, work)))
        # Workers may come and go.
        while len(waiting) >= (1 if client is None else 1 + _AHEAD * len(client.nthreads()) // max(1, n_samples)):
            yield finished()
    while waiting:
        yield finished()


def _with_kept(kept: KeptFrames | None, number: int, frame: CGFrame, n_samples: int, work) -> list:
    """What gives the samples of a frame: from where they are kept, or from ``work``, to be kept."""
    draw = work(number, frame)
    if kept is None:
        return [draw(k) for k in range(n_samples)]

    def drawn(k: int, wait: Callable[[], Drawn]) -> Callable[[], Drawn]:
        return lambda: kept.save(number, k, frame, wait())

    def there(k: int) -> Callable[[], Drawn]:
        return lambda: kept.load(number, k, frame)

    return [there(k) if kept.has(number, k) else drawn(k, draw(k)) for k in range(n_samples)]


def _counted(waits: list[Callable[[], Drawn]], progress: Progress | None) -> Iterator[Drawn]:
    for done, wait in enumerate(waits):
        if progress:
            progress("samples", done, len(waits))
        yield wait()
    if progress:
        progress("samples", len(waits), len(waits))


# --- frames kept on the way ------------------------------------------------------------------------------------------

class KeptFrames:
    """A folder of backmapped frames, sample by sample, so that a run that was interrupted goes on.

    Parameters
    ----------
    folder : path
        Made where it is not there.
    """

    #: what a file holds, in words
    holds = "structures"

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._record = self.folder / "settings.json"

    def seed(self) -> int | None:
        """The seed of the frames that are there."""
        return self._found()["seed"] if self._record.exists() else None

    def claim(self, spec: JobSpec) -> None:
        """Make this the folder of frames drawn as ``spec`` says; :class:`InputError` if it is that of others."""
        settings = _described(spec)
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

    def _file(self, number: int, sample: int) -> Path:
        return self.folder / f"frame_{number:07d}_{sample:04d}.npz"

    def has(self, number: int, sample: int) -> bool:
        return self._file(number, sample).exists()

    def save(self, number: int, sample: int, frame: CGFrame, drawn: Drawn) -> Drawn:
        """Keep a sample of a frame, and give it back."""
        arrays = {"positions": drawn.positions, "beads_of": digest([frame]),
                  "report": json.dumps(drawn.report and asdict(drawn.report)),
                  "provenance": json.dumps(drawn.provenance)}
        if drawn.velocities is not None:
            arrays["velocities"] = drawn.velocities
        with replacing(self._file(number, sample), overwrite=True) as part:
            np.savez(part, **arrays)
        return drawn

    def load(self, number: int, sample: int, frame: CGFrame) -> Drawn:
        """A sample that is kept; :class:`InputError` if it is damaged, or of other beads than ``frame``."""
        with self._opened(self._file(number, sample), digest([frame])) as data:
            report = json.loads(str(data["report"]))
            return Drawn(data["positions"], data.get("velocities"), report and RefineReport(**report),
                         json.loads(str(data["provenance"])))

    @contextmanager
    def _opened(self, file: Path, beads_of: str) -> Iterator[Mapping[str, np.ndarray]]:
        """The arrays of a file; :class:`InputError` if it is damaged, or of other beads than ``beads_of``."""
        try:
            # Opened here: numpy would leave a damaged file open.
            with open(file, "rb") as content, np.load(content, allow_pickle=False) as data:
                if str(data["beads_of"]) != beads_of:
                    raise _OtherBeads(f"{file}: the input has changed since; remove {self.folder} to start afresh")
                yield data
        except _OtherBeads:
            raise
        except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error):
            raise InputError(f"{file}: damaged; remove it to have it drawn again") from None

    def count(self) -> int:
        """How many files are there."""
        return len(list(self.folder.glob("frame_*.npz")))

    def remove(self) -> None:
        """The frames are no longer needed. A folder that holds something else is left alone."""
        if self._record.exists():
            shutil.rmtree(self.folder, ignore_errors=True)


def _described(spec: JobSpec) -> dict:
    return {"openmm_backmap": __version__, "input": spec.where, "model": spec.model.family, "sha256": spec.model.sha256,
            "chemistry_sha256": spec.model.chemistry.sha256, "seed": spec.seed, "aliases": list(spec.aliases),
            "project": spec.project, "refine": asdict(spec.settings)}


def digest(frames: Sequence[CGFrame]) -> str:
    """A hash of the beads and boxes of frames."""
    parts = [part for frame in frames for part in (frame.positions, frame.box) if part is not None]
    return hashlib.sha256(b"".join(np.ascontiguousarray(part, dtype=float).tobytes() for part in parts)).hexdigest()


class _OtherBeads(InputError):
    """What is kept is of other beads; not to be taken for a damaged file."""
