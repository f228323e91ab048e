"""Reference data: an all-atom melt, built from nothing, equilibrated and sampled with OpenMM, resumable.

Chains are grown at random, relaxed one by one with local interactions only (so that their local statistics are those
of a melt before they meet), set far apart, brought together in small steps that never let rings cross, equilibrated
at constant pressure and then sampled. Hydrogens are made heavier (3 dalton) so that steps of 4 fs are stable with
all bonds constrained; positions keep their distribution.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Chemistry, Target, build_target, create_system, load_chemistry
from openmm_backmap.errors import InputError, RefinementError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.checks import inverted_centres, pierced_rings
from openmm_backmap.geometry.periodic import molecules_into_box
from openmm_backmap.io.writers import write_structure

HYDROGEN_MASS = 3.0
TIMESTEP_PS = 0.004
FRICTION_PER_PS = 1.0
_LOCAL_BONDS = 9
_GROWTHS = 20
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


def run_melt(settings: MeltSettings, out: Path, platform=None, progress: Callable[[str, int, int], None] | None = None):
    """Make (or go on making) the snapshots ``out/frame_0001.gro``, ... of one melt.

    Every stage leaves a state file behind; a run that was interrupted starts again after the last one. The settings
    are kept in ``out/settings.json``, and a run with others is refused.
    """
    out.mkdir(parents=True, exist_ok=True)
    _claim(settings, out)
    run = _MeltRun(settings, out, platform, progress or (lambda *_: None))
    from openmm import OpenMMException

    try:
        run.relaxed()
        run.packed()
        run.equilibrated()
        run.sample()
    except OpenMMException as error:
        raise RefinementError(f"{out}: dynamics failed ({str(error).split('.')[0]}); try another seed") from error


def _claim(settings: MeltSettings, out: Path) -> None:
    record = out / "settings.json"
    wanted = asdict(settings)
    if record.exists():
        found = json.loads(record.read_text())
        if {**found, "n_snapshots": 0} != {**wanted, "n_snapshots": 0}:
            raise InputError(f"{record} belongs to a run with other settings; use another --out or the same settings")
    record.write_text(json.dumps(wanted, indent=1))


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
        positions, _, _ = _snapshot(simulation)
        _save(file, positions=positions)

    def _grown(self):
        """A simulation of chains without defects; what a minimiser has inverted or pierced, dynamics do not mend."""
        system = _local_system(self.target)
        for k in range(_GROWTHS):
            self.progress("growing chains", k, _GROWTHS)
            grown, _ = _spread(self.target, build_coordinates(self.target, self.rng), self.rng)
            simulation = self._simulation(system, grown)
            for soft in (0.5, 0.05, 0.0):
                # Atoms may lie on top of each other; the plain potential has no usable slope there.
                simulation.context.setParameter("soft", soft)
                simulation.minimizeEnergy(maxIterations=1000)
            defects = _defects(self.target, _snapshot(simulation)[0], None)
            if not defects:
                self.progress("growing chains", _GROWTHS, _GROWTHS)
                return simulation
        raise RefinementError(f"no chains without {defects} in {_GROWTHS} attempts; try another seed or fewer chains")

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
            positions, _, _ = _snapshot(simulation)
            edge *= factor
            simulation.context.setPeriodicBoxVectors(*(np.eye(3) * edge))
            simulation.context.setPositions(_scale_molecules(self.target, positions, factor))
            simulation.minimizeEnergy(maxIterations=30)
            simulation.context.setVelocitiesToTemperature(self.temperature, int(self.rng.integers(2**31)))
            simulation.step(_STEPS_PER_SCALE)
        self.progress("packing", n, n)
        positions, velocities, box = _snapshot(simulation)
        defects = _defects(self.target, positions, box)
        if defects:
            raise RefinementError(f"packing the chains left {defects}; try another seed")
        _save(file, positions=positions, velocities=velocities, box=box)

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
            positions, _, box = _snapshot(simulation)
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
        positions, velocities, box = _snapshot(simulation)
        _save(file, positions=positions, velocities=velocities, box=box, done=done)

    def _simulation(self, system, positions, box=None):
        from openmm import LangevinMiddleIntegrator, app

        from openmm_backmap.energy.platforms import best_platform

        integrator = LangevinMiddleIntegrator(self.temperature, FRICTION_PER_PS, TIMESTEP_PS)
        integrator.setRandomNumberSeed(int(self.rng.integers(1, 2**31)))
        simulation = app.Simulation(self.target.topology, system, integrator, best_platform(self.platform))
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


def _snapshot(simulation):
    from openmm import unit

    state = simulation.context.getState(positions=True, velocities=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
    box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
    return np.array(positions), np.array(velocities), np.array(box)


def _save(file: Path, **arrays) -> None:
    part = file.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.replace(file)


def _defects(target: Target, positions: np.ndarray, box: np.ndarray | None) -> str:
    """What is wrong with the stereochemistry or topology of ``positions``, in words; empty where nothing is."""
    counts = {"inverted stereocentres": int(inverted_centres(target, positions).sum()),
              "pierced rings": len(pierced_rings(target, positions, box))}
    return " and ".join(f"{n} {what}" for what, n in counts.items() if n)


def _local_system(target: Target):
    """Bonded terms, Lennard-Jones between atoms up to ``_LOCAL_BONDS`` bonds apart in one chain, and repulsion beyond.

    Attraction along the whole chain would collapse it; with no repulsion either, its rings would pass each other.
    """
    from openmm import CustomBondForce, CustomNonbondedForce, NonbondedForce, unit

    system = create_system(target, None, hydrogen_mass=HYDROGEN_MASS)
    index = next(k for k, f in enumerate(system.getForces()) if isinstance(f, NonbondedForce))
    nonbonded = system.getForce(index)
    sigma, epsilon = np.array([[p[1].value_in_unit(unit.nanometer), p[2].value_in_unit(unit.kilojoule_per_mole)]
                               for p in map(nonbonded.getParticleParameters, range(target.n_atoms))]).T
    local = CustomBondForce("4*epsilon*(x^2 - x); x = 1/(soft + (r/sigma)^6)")
    # Lennard-Jones up to its minimum, as Weeks, Chandler and Andersen (J. Chem. Phys. 54, 5237, 1971) cut it.
    core = CustomNonbondedForce("step(x - 0.5)*(4*(x^2 - x) + 1)*sqrt(epsilon1*epsilon2); "
                                "x = 1/(soft + (2*r/(sigma1 + sigma2))^6)")
    core.setNonbondedMethod(CustomNonbondedForce.CutoffNonPeriodic)
    core.setCutoffDistance(float(2 ** (1 / 6) * sigma.max()))
    for force in (local, core):
        force.addGlobalParameter("soft", 0.0)
    for name in ("sigma", "epsilon"):
        core.addPerParticleParameter(name)
    for row in zip(sigma.tolist(), epsilon.tolist()):
        core.addParticle(row)
    local.addPerBondParameter("sigma")
    local.addPerBondParameter("epsilon")
    excluded = {tuple(sorted(pair)) for pair in target.excluded.tolist()}
    distances = target.graph_distances(_LOCAL_BONDS).tocoo()
    for i, j, d in zip(distances.row.tolist(), distances.col.tolist(), distances.data.tolist()):
        if i < j:
            core.addExclusion(i, j)
        if i < j and d > 2 and (i, j) not in excluded:
            local.addBond(i, j, [(sigma[i] + sigma[j]) / 2, float(np.sqrt(epsilon[i] * epsilon[j]))])
    system.removeForce(index)
    system.addForce(local)
    system.addForce(core)
    return system


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


def _scale_molecules(target: Target, positions: np.ndarray, factor: float) -> np.ndarray:
    molecule = target.molecule_of_atom
    counts = np.bincount(molecule)[:, None]
    centres = np.stack([np.bincount(molecule, positions[:, k]) for k in range(3)], axis=1) / counts
    return positions + (centres * (factor - 1))[molecule]
