"""Backmapping inside an OpenMM workflow: a reporter that turns frames of a running CG simulation into atoms.

    simulation.reporters.append(BackmapReporter("aa.xtc", 10_000, "sps"))
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from openmm_backmap.backmapper import Backmapper
from openmm_backmap.io.writers import TrajectoryWriter, check_output
from openmm_backmap.model_file import ModelFile


class BackmapReporter:
    """Writes atoms for every reported frame of a coarse-grained ``openmm.app.Simulation``.

    Parameters
    ----------
    file : str or Path
        Trajectory of the atoms; it appears when the reporter is closed.
    interval : int
        Steps between frames.
    model : str, Path, ModelFile or Backmapper
        What backmaps.
    refine : {"minimize", "equilibrate", "none"}
        How far each frame is taken.
    temperature : float or Quantity, K, optional
    seed : int, optional
        Of all frames together; fresh by default.
    aliases : sequence of str
        ``OLD=NEW`` renamings of residues or beads of the simulation's topology.
    overwrite : bool
        Whether ``file`` may be replaced.

    Use it as a context manager, or call :meth:`close` when the simulation is over; after an error nothing is written.
    """

    def __init__(self, file: str | Path, interval: int, model: str | Path | ModelFile | Backmapper = "sps", *,
                 refine: str = "minimize", temperature=None, seed: int | None = None, aliases=(),
                 overwrite: bool = False):
        self._file, self._interval, self._overwrite = Path(file), int(interval), overwrite
        check_output(self._file, overwrite)
        self._backmapper = model if isinstance(model, Backmapper) else Backmapper(model)
        self._settings = {"refine": refine, "temperature": temperature, "aliases": aliases}
        self._rng = np.random.default_rng(seed)
        self._open, self._writer = ExitStack(), None

    def describeNextReport(self, simulation) -> dict:  # noqa: N802 (OpenMM's name)
        """Steps to the next report and what it needs; called by OpenMM."""
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": False, "include": ["positions"]}

    def report(self, simulation, state) -> None:
        """Backmap the state and write its atoms; called by OpenMM."""
        from openmm import unit

        periodic = simulation.system.usesPeriodicBoundaryConditions()
        box = state.getPeriodicBoxVectors(asNumpy=True) if periodic else None
        atoms = self._backmapper.backmap(simulation.topology, state.getPositions(asNumpy=True), box,
                                         seed=int(self._rng.integers(2**31 - 1)), **self._settings)
        if self._writer is None:
            self._writer = self._open.enter_context(
                TrajectoryWriter(self._file, atoms.topology, overwrite=self._overwrite))
        self._writer.write(atoms.positions[0], atoms.box, state.getTime().value_in_unit(unit.picosecond))

    def close(self) -> None:
        """Finish the file."""
        self._open.close()

    def __enter__(self) -> BackmapReporter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._open.__exit__(kind, error, traceback)
