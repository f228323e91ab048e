"""A trajectory and the forces along it, written as a run goes on; what a kill has cut short is taken back."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.io.writers import TrajectoryWriter


class Recording:
    """A trajectory and ``forces.npy`` in its folder, in step with each other.

    Frames are gathered in memory until :meth:`flush`, which returns what :meth:`cut` needs to take back all that was
    written after it.

    Parameters
    ----------
    trajectory : Path
        An .xtc file.
    target : Target
        Whose atoms they are.
    """

    def __init__(self, trajectory: Path, target: Target):
        self.trajectory, self.target = trajectory, target
        self.forces = trajectory.with_name("forces.npy")
        self._waiting: list[tuple[np.ndarray, np.ndarray, float]] = []

    def add(self, positions: np.ndarray, forces: np.ndarray, time_ps: float) -> None:
        """A frame: ``positions`` (n_atoms, 3) nm, moved to their centre of mass; ``forces`` kJ/mol/nm; its time."""
        self._waiting.append((positions - np.average(positions, axis=0, weights=self.target.masses), forces, time_ps))

    def cut(self, n_frames: int, n_bytes: int) -> None:
        """Keep the first ``n_frames`` only, ``n_bytes`` of the trajectory."""
        for file, size in ((self.trajectory, n_bytes), (self.forces, len(self._header(0)) + n_frames * self._row())):
            file.touch()
            os.truncate(file, size)
        self._number_forces(n_frames)

    def flush(self, n_frames: int) -> int:
        """Write the frames that wait, ``n_frames`` with those before; the size of the trajectory then, in bytes."""
        part = self.trajectory.with_name(".waiting.xtc")
        with TrajectoryWriter(part, self.target.topology, overwrite=True) as writer:
            for positions, _, time_ps in self._waiting:
                writer.write(positions, None, time_ps)
        # An .xtc file is its frames, one after another.
        _append(self.trajectory, part.read_bytes())
        part.unlink()
        _append(self.forces, np.array([forces for _, forces, _ in self._waiting], "<f4").tobytes())
        self._number_forces(n_frames)
        self._waiting = []
        return self.trajectory.stat().st_size

    def _number_forces(self, n_frames: int) -> None:
        with self.forces.open("r+b") as file:
            file.write(self._header(n_frames))

    def _header(self, n_frames: int) -> bytes:
        """That of an .npy file; numpy leaves room in it for a number of rows that grows."""
        header = io.BytesIO()
        shape = (n_frames, self.target.n_atoms, 3)
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return header.getvalue()

    def _row(self) -> int:
        return 4 * 3 * self.target.n_atoms


def _append(file: Path, content: bytes) -> None:
    with file.open("ab") as end:
        end.write(content)
        end.flush()
        os.fsync(end.fileno())
