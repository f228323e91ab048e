"""Reference data: trajectories of a peptide in solution, built from its sequence, with the forces on its atoms.

Frames follow each other in time, and solvent is left out of what is written. The forces are all that act on the
peptide's atoms, those of the solvent included: the mean force, of which a coarse-grained force field is learned, holds
them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Target, build_target, load_chemistry
from openmm_backmap.errors import InputError, RefinementError
from openmm_backmap.geometry.hydrogens import with_ordered_hydrogens
from openmm_backmap.io.writers import write_structure
from openmm_backmap.reference.recording import Recording
from openmm_backmap.reference.solution import add_water, explicit_system, implicit_system
from openmm_backmap.reference.stages import (
    HYDROGEN_MASS,
    Progress,
    claim,
    defects,
    dynamics,
    grow,
    local_system,
    minimise_softly,
    save,
    snapshot,
)

SOLVENTS = ("implicit", "explicit")
_KEEP_EVERY_S = 30.0
#: ps; the longest step that hydrogens of their own mass bear
_LIGHT_STEP_PS = 0.002


@dataclass(frozen=True)
class PeptideSettings:
    """One trajectory of a peptide.

    Parameters
    ----------
    chemistry : str
        Shipped name or path of a chemistry file.
    sequence : tuple of str
        Its monomers.
    solvent : str
        ``implicit`` (generalised Born) or ``explicit`` (TIP3P water).
    n_waters : int
        In the explicit solvent; 0 where the recipe has none.
    edge_nm : float
        Of the cube of the explicit solvent.
    temperature_K : float or None
        None takes the chemistry's own.
    friction_per_ps, timestep_ps : float
        Of Langevin dynamics. Steps of more than 2 fs make hydrogens heavier.
    equilibrate_ps, interval_ps : float
        Time before the first frame; time between two frames.
    n_snapshots : int
        Frames.
    seed : int
    """

    chemistry: str
    sequence: tuple[str, ...]
    solvent: str = "implicit"
    n_waters: int = 0
    edge_nm: float = 0.0
    temperature_K: float | None = None
    friction_per_ps: float = 1.0
    timestep_ps: float = 0.002
    equilibrate_ps: float = 100.0
    interval_ps: float = 1.0
    n_snapshots: int = 200_000
    seed: int = 1


# Alanine dipeptide: waters, box and frames as Shmilovich, Stieffenhofer, Charron, Hoffmann, J. Phys. Chem. A 126, 9124
# (2022). In the implicit solvent nothing but friction slows it down: with 1/ps it turns by 60 degrees in 1 ps, with
# 10/ps by 30. Chignolin's frames show slower motions: long steps and little friction, which shortens its kinetics.
RECIPES = {
    "adp": PeptideSettings("adp", ("ACE", "ALA", "NME"), n_waters=651, edge_nm=2.7273, friction_per_ps=10.0),
    "chignolin": PeptideSettings(
        "chignolin", ("TYR", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "TYR"), timestep_ps=0.004,
        interval_ps=10.0, n_snapshots=10_000),
}


def peptide_recipe(chemistry: str, **changes) -> PeptideSettings:
    """The settings of a shipped peptide, with ``changes`` where they are not None."""
    settings = replace(RECIPES[chemistry], **{name: value for name, value in changes.items() if value is not None})
    if settings.solvent == "implicit":
        return replace(settings, n_waters=0, edge_nm=0.0)
    if not settings.n_waters:
        raise InputError(f"{chemistry} has no recipe in explicit solvent: leave --solvent out")
    # Water brings friction of its own.
    return replace(settings, friction_per_ps=1.0)


def run_peptide(settings: PeptideSettings, out: Path, platform=None, progress: Progress | None = None,
                start: np.ndarray | None = None) -> None:
    """Make (or go on making) one trajectory: ``out/trajectory.xtc``, ``topology.pdb`` and ``forces.npy``.

    What was written is kept every half minute together with the state that it leads to, so that a run that was
    interrupted goes on with no frame twice and none left out. The settings are in ``out/settings.json``, and a run
    with others is refused. ``start`` (n_atoms, 3), nm, is where the peptide starts; without it one is grown.
    """
    claim(settings, out)
    run = _PeptideRun(settings, out, platform, progress or (lambda *_: None))
    from openmm import OpenMMException

    try:
        run.equilibrated(start)
        run.sample()
    except OpenMMException as error:
        raise RefinementError(f"{out}: dynamics failed ({str(error).split('.')[0]}); try another seed") from error


def grown_peptide(target: Target, rng: np.random.Generator, platform, progress: Progress) -> np.ndarray:
    """Positions (n_atoms, 3), nm, of a peptide grown from its sequence and minimised in the implicit solvent."""
    local, whole = (dynamics(target.topology, system, 300.0, 1.0, _LIGHT_STEP_PS, 1, platform)
                    for system in (local_system(target), implicit_system(target)))

    def settle(positions: np.ndarray) -> np.ndarray:
        local.context.setPositions(positions)
        minimise_softly(local)
        whole.context.setPositions(snapshot(local)[0])
        whole.minimizeEnergy(maxIterations=1000)
        return snapshot(whole)[0]

    return with_ordered_hydrogens(target, grow(target, rng, settle, progress))


def hydrogen_mass(timestep_ps: float) -> float | None:
    """Mass (dalton) that hydrogens need for steps so long; None where their own will do."""
    return HYDROGEN_MASS if timestep_ps > _LIGHT_STEP_PS else None


class _PeptideRun:
    """The stages of one trajectory; each returns at once when its result is on disk."""

    def __init__(self, settings: PeptideSettings, out: Path, platform, progress: Progress):
        self.settings, self.out, self.platform, self.progress = settings, out, platform, progress
        self.target: Target = build_target(load_chemistry(settings.chemistry), [settings.sequence])
        self.temperature = settings.temperature_K or self.target.chemistry.temperature_K
        self.rng = np.random.default_rng(settings.seed)

    def equilibrated(self, start: np.ndarray | None) -> None:
        file = self.out / "equilibrated.npz"
        if file.exists():
            return
        if start is None:
            start = grown_peptide(self.target, self.rng, self.platform, self.progress)
        if self.settings.solvent == "explicit":
            start = add_water(self.target, start, self.settings.n_waters, self.settings.edge_nm)
        simulation = self._simulation(start)
        simulation.minimizeEnergy(maxIterations=500)
        simulation.context.setVelocitiesToTemperature(self.temperature, int(self.rng.integers(2**31)))
        n = max(1, round(self.settings.equilibrate_ps))
        for k in range(n):
            self.progress("equilibrating, ps", k, n)
            simulation.step(round(self.settings.equilibrate_ps / n / self.settings.timestep_ps))
        self.progress("equilibrating, ps", n, n)
        positions, velocities, _ = snapshot(simulation)
        molecule = positions[:self.target.n_atoms]
        self._check(molecule, "equilibration")
        write_structure(self.out / "topology.pdb", self.target.topology, molecule - molecule.mean(axis=0), None,
                        overwrite=True)
        save(file, positions=positions, velocities=velocities)

    def sample(self) -> None:
        """Frames, from where the run was kept last."""
        part, settings = self.out / "sampling.npz", self.settings
        with np.load(part if part.exists() else self.out / "equilibrated.npz") as data:
            positions, velocities = data["positions"], data["velocities"]
            done, n_bytes = (int(data["done"]), int(data["n_bytes"])) if part.exists() else (0, 0)
        recording = Recording(self.out / "trajectory.xtc", self.target)
        recording.cut(done, n_bytes)
        # Noise that has been used must not come again: trajectories under the same noise grow alike.
        self.rng = np.random.default_rng([settings.seed, 2, done])
        simulation = self._simulation(positions, velocities)
        last = time.monotonic()
        for k in range(done, settings.n_snapshots):
            self.progress("frames", k, settings.n_snapshots)
            simulation.step(round(settings.interval_ps / settings.timestep_ps))
            recording.add(*molecule_and_forces(simulation, self.target), (k + 1) * settings.interval_ps)
            if k + 1 == settings.n_snapshots or time.monotonic() - last > _KEEP_EVERY_S:
                self._keep(simulation, recording, part, k + 1)
                last = time.monotonic()
        self.progress("frames", settings.n_snapshots, settings.n_snapshots)

    def _keep(self, simulation, recording: Recording, file: Path, done: int) -> None:
        positions, velocities, _ = snapshot(simulation)
        self._check(positions[:self.target.n_atoms], "dynamics")
        save(file, positions=positions, velocities=velocities, done=done, n_bytes=recording.flush(done))

    def _check(self, positions: np.ndarray, stage: str) -> None:
        found = defects(self.target, positions, None)
        if found:
            raise RefinementError(f"{self.out}: {stage} led to {found}; try another seed")

    def _simulation(self, positions: np.ndarray, velocities: np.ndarray | None = None):
        settings = self.settings
        if settings.solvent == "explicit":
            box = np.eye(3) * settings.edge_nm
            topology, system = explicit_system(self.target, settings.n_waters, box)
        else:
            topology = self.target.topology
            system = implicit_system(self.target, hydrogen_mass(settings.timestep_ps))
        simulation = dynamics(topology, system, self.temperature, settings.friction_per_ps, settings.timestep_ps,
                              int(self.rng.integers(1, 2**31)), self.platform)
        simulation.context.setPositions(positions)
        if velocities is not None:
            simulation.context.setVelocities(velocities)
        return simulation


def molecule_and_forces(simulation, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n_atoms, 3), nm, of a peptide in a simulation, and the forces on its atoms, kJ/mol/nm."""
    from openmm import unit

    state = simulation.context.getState(positions=True, forces=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return np.array(positions[:target.n_atoms]), np.array(forces[:target.n_atoms])
