"""Reference data: an all-atom melt, built from nothing, equilibrated and sampled with OpenMM, resumable.

Chains are grown at random, relaxed one by one with local interactions only (so that their local statistics are those
of a melt before they meet), set far apart, brought together in small steps that never let rings cross, equilibrated
at constant pressure and then sampled. Hydrogens are made heavier (3 dalton) so that steps of 4 fs are stable with
all bonds constrained; positions keep their distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Chemistry, Target, build_target, create_system, load_chemistry
from openmm_backmap.errors import RefinementError
from openmm_backmap.geometry.periodic import molecules_into_box
from openmm_backmap.io.writers import write_structure
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
    scale_molecules,
    snapshot,
)

TIMESTEP_PS = 0.004
FRICTION_PER_PS = 1.0
_RELAX_PS = 40.0
_SCALE, _STEPS_PER_SCALE = 0.985, 50


@dataclass(frozen=True)
class MeltSettings:
    """One melt.

    Parameters
    ----------
    chemistry : str
        Shipped name or path of a chemistry file.
    n_chains, n_monomers : int
    temperature_K : float or None
        None takes the chemistry's own.
    pressure_bar : float
    density_g_cm3 : float
        Where compression stops and constant pressure takes over.
    equilibrate_ps, interval_ps : float
        Equilibration at constant pressure; time between two snapshots.
    n_snapshots : int
    seed : int
    """

    chemistry: str = "sps"
    n_chains: int = 12
    n_monomers: int = 10
    temperature_K: float | None = None
    pressure_bar: float = 1.0
    density_g_cm3: float = 0.90
    equilibrate_ps: float = 200.0
    interval_ps: float = 10.0
    n_snapshots: int = 40
    seed: int = 1


# Small liquids of small boxes by default; the papers have 215 molecules of octane, 265 of cumene and 3000 of tmbt.
_RECIPES = {
    "sps": MeltSettings(),
    "octane": MeltSettings(chemistry="octane", n_chains=80, n_monomers=1, density_g_cm3=0.60, equilibrate_ps=100.0),
    "cumene": MeltSettings(chemistry="cumene", n_chains=80, n_monomers=1, density_g_cm3=0.75, equilibrate_ps=100.0),
    "tmbt": MeltSettings(chemistry="tmbt", n_chains=64, n_monomers=1, density_g_cm3=1.05, equilibrate_ps=100.0),
}


def recipe(chemistry: str, **changes) -> MeltSettings:
    """The settings that suit a chemistry (shipped name or file), with ``changes`` where they are not None."""
    settings = _RECIPES.get(chemistry, replace(MeltSettings(), chemistry=chemistry))
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})


def run_melt(settings: MeltSettings, out: Path, platform=None, progress: Progress | None = None):
    """Make (or go on making) the snapshots ``out/frame_0001.gro``, ... of one melt.

    Every stage leaves a state file behind; a run that was interrupted starts again after the last one. The settings
    are kept in ``out/settings.json``, and a run with others is refused.
    """
    claim(settings, out)
    run = _MeltRun(settings, out, platform, progress or (lambda *_: None))
    from openmm import OpenMMException

    try:
        run.relaxed()
        run.packed()
        run.equilibrated()
        run.sample()
    except OpenMMException as error:
        raise RefinementError(f"{out}: dynamics failed ({str(error).split('.')[0]}); try another seed") from error


class _MeltRun:
    """The stages of one melt; each returns at once when its result is on disk."""

    def __init__(self, settings: MeltSettings, out: Path, platform, progress):
        self.settings, self.out, self.platform, self.progress = settings, out, platform, progress
        self.chemistry: Chemistry = load_chemistry(settings.chemistry)
        monomer = next(iter(self.chemistry.monomers))
        self.target: Target = build_target(self.chemistry, [[monomer] * settings.n_monomers] * settings.n_chains)
        self.temperature = settings.temperature_K or self.chemistry.temperature_K
        self.rng = np.random.default_rng(settings.seed)

    def relaxed(self) -> None:
        """Single chains with interactions along the chain only."""
        file = self.out / "relaxed.npz"
        if file.exists():
            return
        simulation = self._grown()
        simulation.integrator.setTemperature(1.4 * self.temperature)
        self._run(simulation, "chains, hot", _RELAX_PS)
        simulation.integrator.setTemperature(self.temperature)
        self._run(simulation, "chains", _RELAX_PS)
        positions, _, _ = snapshot(simulation)
        save(file, positions=positions)

    def _grown(self):
        """A simulation of chains without defects."""
        system, simulation = local_system(self.target), None

        def settle(positions: np.ndarray) -> np.ndarray:
            nonlocal simulation
            simulation = self._simulation(system, _spread(self.target, positions, self.rng)[0])
            minimise_softly(simulation)
            return snapshot(simulation)[0]

        grow(self.target, self.rng, settle, self.progress)
        return simulation

    def packed(self) -> None:
        """Chains far apart on a grid, then brought together step by step."""
        file = self.out / "packed.npz"
        if file.exists():
            return
        with np.load(self.out / "relaxed.npz") as data:
            positions, edge = _spread(self.target, data["positions"], self.rng)
        final = (self.target.masses.sum() / 602.214 / self.settings.density_g_cm3) ** (1 / 3)
        n = max(1, int(np.ceil(np.log(edge / final) / -np.log(_SCALE))))
        factor = (final / edge) ** (1 / n)
        simulation = self._simulation(create_system(self.target, np.eye(3) * edge, hydrogen_mass=HYDROGEN_MASS),
                                      positions, np.eye(3) * edge)
        simulation.minimizeEnergy(maxIterations=200)
        for k in range(n):
            self.progress("packing", k, n)
            positions, _, _ = snapshot(simulation)
            edge *= factor
            simulation.context.setPeriodicBoxVectors(*(np.eye(3) * edge))
            simulation.context.setPositions(scale_molecules(self.target.molecule_of_atom, positions, factor))
            simulation.minimizeEnergy(maxIterations=30)
            simulation.context.setVelocitiesToTemperature(self.temperature, int(self.rng.integers(2**31)))
            simulation.step(_STEPS_PER_SCALE)
        self.progress("packing", n, n)
        positions, velocities, box = snapshot(simulation)
        found = defects(self.target, positions, box)
        if found:
            raise RefinementError(f"packing the chains left {found}; try another seed")
        save(file, positions=positions, velocities=velocities, box=box)

    def equilibrated(self) -> None:
        file = self.out / "equilibrated.npz"
        if file.exists():
            return
        part = self.out / "equilibrating.npz"
        simulation, done = self._resume(1, part, self.out / "packed.npz")
        self._keep(simulation, part, done)
        while done < self.settings.equilibrate_ps:
            self.progress("equilibrating, ps", int(done), int(self.settings.equilibrate_ps))
            span = min(10.0, self.settings.equilibrate_ps - done)
            simulation.step(round(span / TIMESTEP_PS))
            done += span
            self._keep(simulation, part, done)
        part.replace(file)

    def sample(self) -> None:
        part = self.out / "sampling.npz"
        simulation, done = self._resume(2, part, self.out / "equilibrated.npz")
        for k in range(int(done), self.settings.n_snapshots):
            self.progress("snapshots", k, self.settings.n_snapshots)
            simulation.step(round(self.settings.interval_ps / TIMESTEP_PS))
            positions, _, box = snapshot(simulation)
            whole = molecules_into_box(positions, box, self.target.molecule_of_atom)
            write_structure(self.out / f"frame_{k + 1:04d}.gro", self.target.topology, whole[None], box, overwrite=True,
                            gro_precision=6)
            self._keep(simulation, part, k + 1)
        self.progress("snapshots", self.settings.n_snapshots, self.settings.n_snapshots)

    def _resume(self, stage: int, part: Path, before: Path):
        """A constant-pressure simulation that goes on from ``part``, else from ``before``; and how far it was."""
        from openmm import MonteCarloBarostat

        fresh = not part.exists()
        with np.load(before if fresh else part) as data:
            positions, velocities, box = data["positions"], data["velocities"], data["box"]
            done = 0.0 if fresh else float(data["done"])
        # Noise that has been used must not come again: trajectories under the same noise grow alike.
        self.rng = np.random.default_rng([self.settings.seed, stage, round(1000 * done)])
        system = create_system(self.target, box, hydrogen_mass=HYDROGEN_MASS)
        barostat = MonteCarloBarostat(self.settings.pressure_bar, self.temperature)
        barostat.setRandomNumberSeed(int(self.rng.integers(1, 2**31)))
        system.addForce(barostat)
        simulation = self._simulation(system, positions, box)
        simulation.context.setVelocities(velocities)
        return simulation, done

    def _keep(self, simulation, file: Path, done: float) -> None:
        positions, velocities, box = snapshot(simulation)
        save(file, positions=positions, velocities=velocities, box=box, done=done)

    def _simulation(self, system, positions, box=None):
        simulation = dynamics(self.target.topology, system, self.temperature, FRICTION_PER_PS, TIMESTEP_PS,
                              int(self.rng.integers(1, 2**31)), self.platform)
        if box is not None:
            simulation.context.setPeriodicBoxVectors(*box)
        simulation.context.setPositions(positions)
        return simulation

    def _run(self, simulation, name: str, span_ps: float) -> None:
        n = 20
        for k in range(n):
            self.progress(name, k, n)
            simulation.step(round(span_ps / n / TIMESTEP_PS))
        self.progress(name, n, n)


def _spread(target: Target, positions: np.ndarray, rng) -> tuple[np.ndarray, float]:
    """Molecules turned at random and put on a cubic grid so wide that none touches another."""
    from scipy.spatial.transform import Rotation

    n = len(target.chains)
    molecules = [positions[target.molecule_of_atom == m] for m in range(n)]
    molecules = [Rotation.random(random_state=rng).apply(x - x.mean(0)) for x in molecules]
    cell = 2 * max(np.linalg.norm(x, axis=1).max() for x in molecules) + 0.3
    side = int(np.ceil(n ** (1 / 3)))
    spots = rng.permutation([(i, j, k) for i in range(side) for j in range(side) for k in range(side)])[:n]
    placed = np.concatenate([x + (spot + 0.5) * cell for x, spot in zip(molecules, spots)])
    return placed, side * cell
