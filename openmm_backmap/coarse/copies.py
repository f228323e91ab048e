"""A learned force field run in OpenMM: many molecules at once that do not see each other, and a trajectory of each.

All molecules are one ``openmm.System`` whose forces come from one evaluation of the network
(``openmm.PythonForce``), which for a hundred molecules takes hardly longer than for one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from openmm_backmap.coarse.blocks import Blocks, Progress
from openmm_backmap.coarse.dynamics import Langevin, State
from openmm_backmap.coarse.graph import bead_app_topology, bead_masses
from openmm_backmap.coarse.neural import forces
from openmm_backmap.coarse.neural_file import NeuralModel
from openmm_backmap.coarse.trajectory import RunSettings, output_files
from openmm_backmap.errors import RefinementError
from openmm_backmap.io.writers import TrajectoryWriter, write_structure
from openmm_backmap.units import GAS_CONSTANT

# Of the shortest period of two beads. The middle scheme samples the positions of harmonic bonds right at any step that
# is stable (Z. Zhang et al., J. Phys. Chem. A 123, 6056 (2019)).
_STEPS_A_PERIOD = 10
_LONGEST_PS = 0.01
_FILES_AT_ONCE = 100


@dataclass(frozen=True)
class CopiesSettings(RunSettings):
    """One run.

    Parameters
    ----------
    copies : int
        Molecules, each of which gives a trajectory.
    friction_per_ps : float
        Of the solvent that beads no longer feel. With that of the reference, molecules turn as far from frame to frame
        as they do there.
    """

    copies: int = 1
    friction_per_ps: float = 10.0


def run_copies(model: NeuralModel, out: str | Path, settings: CopiesSettings = CopiesSettings(), *,
               platform: str | None = None, overwrite: bool = False, progress: Progress | None = None) -> list[Path]:
    """Run molecules under ``model`` from conformations of its reference, and write their trajectories.

    Parameters
    ----------
    model : NeuralModel
    out : path
        The trajectory (.xtc, .trr, .dcd); of several copies ``NAME_1.xtc``, ``NAME_2.xtc``, ... Molecules lie at their
        centre of mass; there is no box.
    settings : CopiesSettings
    platform : str, optional
        OpenMM platform; by default Reference, which is the fastest where all forces come from outside.
    overwrite : bool
    progress : callable, optional
        ``progress(stage, done, total)``.

    Returns
    -------
    list of Path
        What was written: the trajectories and, last, a .gro that tells their beads.
    """
    out = Path(out)
    files = output_files(out, settings, overwrite, copies=settings.copies)
    dynamics = Copies(model, settings, platform)
    blocks = Blocks(out.with_name(f".{out.name}.parts"), settings.n_frames, settings.seed)
    blocks.claim({**asdict(settings), "model": model.sha256})
    blocks.run(dynamics, beginning(model, settings), progress or (lambda *_: None))
    _write(files, model, settings, blocks, overwrite, progress or (lambda *_: None))
    shutil.rmtree(blocks.folder)
    return files


class Copies(Langevin):
    """Dynamics of ``settings.copies`` molecules, one after another."""

    def __init__(self, model: NeuralModel, settings: CopiesSettings, platform: str | None = None):
        self.exerted = LearnedForces(model, settings.copies)
        super().__init__(self.exerted.system(), None, friction_per_ps=settings.friction_per_ps,
                         temperature_K=settings.temperature_K or model.temperature_K, every_ps=settings.every_ps,
                         longest_step_ps=longest_step(model), platform=platform or "Reference")

    def frames(self, n: int) -> Iterator[State]:
        try:
            yield from super().frames(n)
        except RefinementError as error:
            raise self.exerted.error or error from None


class LearnedForces:
    """Forces on ``copies`` molecules that do not see each other, as ``openmm.PythonForce`` asks for them.

    ``error`` is what an evaluation came to, if it was not a result: OpenMM makes an error of its own of all of them, of
    Ctrl-C too.
    """

    def __init__(self, model: NeuralModel, copies: int):
        self.model, self.copies, self.error = model, copies, None

    def __call__(self, state) -> tuple[float, np.ndarray]:
        try:
            x = state.getPositions(asNumpy=True)._value.reshape(self.copies, self.model.target.n_beads, 3)
            energy, force = forces(self.model.network, torch.as_tensor(x, dtype=torch.float32))
            return float(energy.sum()), force.reshape(-1, 3).numpy().astype(float)
        except BaseException as error:
            self.error = error
            raise

    def system(self):
        """The ``openmm.System`` of these molecules."""
        from openmm import PythonForce, System

        system = System()
        for mass in np.tile(bead_masses(self.model.target), self.copies).tolist():
            system.addParticle(mass)
        force = PythonForce(self)
        force.setName("learned forces")
        system.addForce(force)
        return system


def longest_step(model: NeuralModel) -> float:
    """Time step (ps) that suits a model: 1/10 of the shortest period of two beads under its prior, 10 fs at most."""
    i, j = model.network.coordinates.pairs.T
    masses = bead_masses(model.target)
    rates = model.network.stiffness[:, 0].numpy() * (1 / masses[i] + 1 / masses[j])
    return float(min(2 * np.pi / np.sqrt(rates.max()) / _STEPS_A_PERIOD, _LONGEST_PS))


def beginning(model: NeuralModel, settings: CopiesSettings) -> State:
    """Conformations of the reference, and velocities of the temperature; which ones is up to the seed."""
    rng = np.random.default_rng([settings.seed, settings.copies])
    order = rng.permutation(len(model.starts))
    x = model.starts.numpy()[order[np.arange(settings.copies) % len(order)]].astype(float).reshape(-1, 3)
    spread = np.sqrt(GAS_CONSTANT * (settings.temperature_K or model.temperature_K)
                     / np.tile(bead_masses(model.target), settings.copies))
    return State(x, None, spread[:, None] * rng.normal(size=x.shape))


def _write(files: list[Path], model: NeuralModel, settings: CopiesSettings, blocks: Blocks, overwrite: bool,
           progress: Progress) -> None:
    topology, masses = bead_app_topology(model.target), bead_masses(model.target)
    *trajectories, structure = files
    for k in range(0, len(trajectories), _FILES_AT_ONCE):
        part = trajectories[k:k + _FILES_AT_ONCE]
        with ExitStack() as stack:
            writers = [stack.enter_context(TrajectoryWriter(file, topology, overwrite)) for file in part]
            for done, frame in enumerate(blocks.frames(), 1):
                x = frame.reshape(settings.copies, -1, 3)[k:k + len(part)].astype(float)
                x -= np.average(x, axis=1, weights=masses)[:, None]
                for writer, positions in zip(writers, x, strict=True):
                    writer.write(positions, None, done * settings.every_ps)
                progress(f"writing {part[0].name} to {part[-1].name}", done, settings.n_frames)
    write_structure(structure, topology, x[-1], None, overwrite=overwrite)
