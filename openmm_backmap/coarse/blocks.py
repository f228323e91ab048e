"""Dynamics kept block by block, so that a run that was interrupted goes on with the frames it would have had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from openmm_backmap.analysis.kept import load_arrays, save_arrays
from openmm_backmap.coarse.dynamics import Langevin, State
from openmm_backmap.io import folders

# Frames of a block: what an interruption may cost. Each block has noise of its own.
_BLOCK = 50
Progress = Callable[[str, int, int], None]


class Blocks:
    """A run of ``n_frames`` frames in a folder.

    Parameters
    ----------
    folder : Path
    n_frames, seed : int
    """

    def __init__(self, folder: Path, n_frames: int, seed: int):
        self.folder, self.n_frames, self.seed = folder, n_frames, seed

    def claim(self, wanted: dict) -> None:
        """Make this the folder of the run that ``wanted`` says; :class:`InputError` if it is that of another."""
        folders.claim(self.folder / "settings.json", wanted, "{folder} belongs to an interrupted run of another model, "
                      "start or settings; give the same command to go on with it, or remove that folder")

    def run(self, dynamics: Langevin, start: State, progress: Progress) -> None:
        """All blocks that are not there yet."""
        state, done = start, 0
        progress("dynamics, frames", 0, self.n_frames)
        for k, n in enumerate(self._sizes()):
            file = self._file(k)
            if file.exists():
                kept = load_arrays(file)
                state, done = State(kept["positions"], start.box, kept["velocities"]), done + n
                continue
            dynamics.start(state, np.random.default_rng([self.seed, k]))
            frames = []
            for state in dynamics.frames(n):
                frames.append(state.positions.astype(np.float32))
                done += 1
                progress("dynamics, frames", done, self.n_frames)
            save_arrays(file, frames=np.array(frames), positions=state.positions, velocities=state.velocities)

    def frames(self) -> Iterator[np.ndarray]:
        """Positions (n_beads, 3), nm, of every frame."""
        for k, _ in enumerate(self._sizes()):
            yield from load_arrays(self._file(k))["frames"]

    def _sizes(self) -> list[int]:
        whole, rest = divmod(self.n_frames, _BLOCK)
        return [_BLOCK] * whole + ([rest] if rest else [])

    def _file(self, k: int) -> Path:
        return self.folder / f"block_{k:05d}.npz"
