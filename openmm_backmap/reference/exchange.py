"""Structures of a peptide that folds, by replica exchange: folded, misfolded and unfolded ones in their shares.

Replicas at rising temperatures swap them (Sugita and Okamoto, Chem. Phys. Lett. 314, 141 (1999)); OpenMM does the
swapping. What is kept are structures at the lowest temperature. They do not follow each other in time: kinetics come
from plain runs that start from them, from the folds, and from structures grown at random.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Target, build_target, load_chemistry
from openmm_backmap.errors import InputError, MissingDependencyError, RefinementError
from openmm_backmap.io.readers import open_cg
from openmm_backmap.io.writers import write_structure
from openmm_backmap.reference.hairpins import HAIRPINS, folded
from openmm_backmap.reference.peptide import RECIPES, grown_peptide, hydrogen_mass, molecule_and_forces
from openmm_backmap.reference.recording import Recording
from openmm_backmap.reference.solution import implicit_system
from openmm_backmap.reference.stages import Progress, claim, defects, dynamics, save, snapshot

SAMPLES = "samples.xtc"
_HAIRPINS = "hairpins.npz"
_KEEP_EVERY_S = 60.0


@dataclass(frozen=True)
class ExchangeSettings:
    """Replica exchange of one peptide in the implicit solvent.

    Parameters
    ----------
    chemistry : str
        Shipped name or path of a chemistry file.
    sequence : tuple of str
        Its monomers.
    temperature_K : float or None
        The lowest; None takes the chemistry's own.
    highest_K : float
    n_replicas : int
        Their temperatures form a geometric series.
    friction_per_ps, timestep_ps : float
    equilibrate_ps : float
        Of each replica, at its first temperature.
    exchange_ps, interval_ps : float
        Time between two rounds of exchange; time between two structures, a multiple of it.
    n_snapshots : int
        Structures.
    seed : int
    """

    chemistry: str
    sequence: tuple[str, ...]
    temperature_K: float | None = None
    highest_K: float = 560.0
    n_replicas: int = 6
    friction_per_ps: float = 1.0
    timestep_ps: float = 0.004
    equilibrate_ps: float = 50.0
    exchange_ps: float = 2.0
    interval_ps: float = 10.0
    n_snapshots: int = 10_000
    seed: int = 1


EXCHANGES = {"chignolin": ExchangeSettings("chignolin", RECIPES["chignolin"].sequence)}


def exchange_recipe(chemistry: str, **changes) -> ExchangeSettings:
    """The settings of a peptide that folds, with ``changes`` where they are not None."""
    return replace(EXCHANGES[chemistry], **{name: value for name, value in changes.items() if value is not None})


def run_exchange(settings: ExchangeSettings, out: Path, platform=None, progress: Progress | None = None) -> None:
    """Make (or go on making) structures: ``out/samples.xtc``, ``topology.pdb`` and ``forces.npy``.

    ``sampling.npz`` holds, beside the state of all replicas, ``replicas`` (n_snapshots, n_replicas): which replica had
    each temperature, lowest first. A run that was interrupted goes on with no structure twice and none left out.
    """
    from openmm import OpenMMException, __version__, app

    if not hasattr(app, "ReplicaExchangeSampler"):
        raise MissingDependencyError(f"replica exchange is done by OpenMM's ReplicaExchangeSampler, which version "
                                     f"{__version__} lacks: install a later one")
    claim(settings, out)
    run = _ExchangeRun(settings, out, platform, progress or (lambda *_: None))
    try:
        run.equilibrated()
        run.sample()
    except OpenMMException as error:
        raise RefinementError(f"{out}: dynamics failed ({str(error).split('.')[0]}); try another seed") from error


def sampled_start(folder: Path, seed: int) -> np.ndarray | None:
    """Where a run of ``seed`` starts: in turn a structure of :func:`run_exchange`, drawn from the second half of them,
    one of its hairpins, and None, which is grown anew; positions (n_atoms, 3), nm.
    """
    with np.load(folder / _HAIRPINS) as data:
        hairpins = data["positions"]
    kind = seed % (len(hairpins) + 2)
    if kind:
        return hairpins[kind - 1] if kind <= len(hairpins) else None
    source = open_cg(folder / SAMPLES, folder / "topology.pdb")
    k = int(np.random.default_rng([seed, 3]).integers(source.n_frames // 2, source.n_frames))
    return next(source.frames(k)).positions


class _ExchangeRun:
    """The stages of replica exchange; each returns at once when its result is on disk."""

    def __init__(self, settings: ExchangeSettings, out: Path, platform, progress: Progress):
        self.settings, self.out, self.platform, self.progress = settings, out, platform, progress
        self.target: Target = build_target(load_chemistry(settings.chemistry), [settings.sequence])
        lowest = settings.temperature_K or self.target.chemistry.temperature_K
        if lowest >= settings.highest_K:
            raise InputError(f"replica exchange goes up to {settings.highest_K:g} K: the temperature must be below")
        self.temperatures = np.geomspace(lowest, settings.highest_K, settings.n_replicas)
        self.rng = np.random.default_rng(settings.seed)

    def hairpins(self) -> np.ndarray:
        """Positions (n, n_atoms, 3), nm, of the folds that the peptide has."""
        file = self.out / _HAIRPINS
        if not file.exists():
            rng, folds = np.random.default_rng([self.settings.seed, 4]), HAIRPINS.get(self.settings.chemistry, {})
            found = [folded(self.target, fold, self.temperatures[0], rng, self.platform, self.progress)
                     for fold in folds.values()]
            save(file, positions=np.reshape(found, (-1, self.target.n_atoms, 3)))
        with np.load(file) as data:
            return data["positions"]

    def equilibrated(self) -> None:
        """Replicas, each at its temperature: hairpins and grown ones in turn."""
        file, found, hairpins = self.out / "equilibrated.npz", [], self.hairpins()
        if file.exists():
            return
        for k, temperature in enumerate(self.temperatures):
            self.progress("starting replicas", k, len(self.temperatures))
            positions = [*hairpins, None][k % (len(hairpins) + 1)]
            if positions is None:
                positions = grown_peptide(self.target, self.rng, self.platform, lambda *_: None)
            simulation = self._simulation(temperature)
            simulation.context.setPositions(positions)
            simulation.context.setVelocitiesToTemperature(temperature, int(self.rng.integers(2**31)))
            simulation.step(round(self.settings.equilibrate_ps / self.settings.timestep_ps))
            found.append(snapshot(simulation)[:2])
            self._check(found[-1][0])
        self.progress("starting replicas", len(self.temperatures), len(self.temperatures))
        positions, velocities = map(np.array, zip(*found))
        write_structure(self.out / "topology.pdb", self.target.topology, positions[0] - positions[0].mean(axis=0), None,
                        overwrite=True)
        save(file, positions=positions, velocities=velocities)

    def sample(self) -> None:
        """Structures, from where the run was kept last."""
        part, settings, n = self.out / "sampling.npz", self.settings, len(self.temperatures)
        with np.load(part if part.exists() else self.out / "equilibrated.npz") as data:
            positions, velocities = data["positions"], data["velocities"]
            n_bytes, replicas = (int(data["n_bytes"]), data["replicas"].tolist()) if part.exists() else (0, [])
        recording = Recording(self.out / SAMPLES, self.target)
        recording.cut(len(replicas), n_bytes)
        self.rng = np.random.default_rng([settings.seed, 2, len(replicas)])
        # The sampler draws its exchanges from this generator.
        random.seed(int(self.rng.integers(2**31)))
        sampler, last = self._sampler(positions, velocities), time.monotonic()
        # The sampler numbers replicas anew; these are their numbers of old.
        number = replicas[-1] if replicas else list(range(n))
        for k in range(len(replicas), settings.n_snapshots):
            self.progress("structures", k, settings.n_snapshots)
            for _ in range(round(settings.interval_ps / settings.exchange_ps)):
                before = self.temperatures[sampler.replicaStateIndex]
                sampler.simulate(1)
            at = np.argsort(sampler.replicaStateIndex)
            replicas.append([number[i] for i in at])
            sampler.simulation.context.setState(sampler.replicaConformation[at[0]])
            recording.add(*molecule_and_forces(sampler.simulation, self.target), (k + 1) * settings.interval_ps)
            if k + 1 == settings.n_snapshots or time.monotonic() - last > _KEEP_EVERY_S:
                self._keep(sampler, before, recording, part, replicas)
                last = time.monotonic()
        self.progress("structures", settings.n_snapshots, settings.n_snapshots)

    def _keep(self, sampler, before: np.ndarray, recording: Recording, file: Path, replicas: list) -> None:
        """Replicas in the order of their temperatures; velocities are still those of the temperatures ``before``."""
        from openmm import unit

        found = []
        for i in np.argsort(sampler.replicaStateIndex):
            state = sampler.replicaConformation[i]
            positions = np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
            velocities = np.array(state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond))
            self._check(positions)
            found.append((positions, velocities * np.sqrt(self.temperatures[len(found)] / before[i])))
        positions, velocities = map(np.array, zip(*found))
        save(file, positions=positions, velocities=velocities, replicas=np.array(replicas, np.int16),
             n_bytes=recording.flush(len(replicas)))

    def _check(self, positions: np.ndarray) -> None:
        found = defects(self.target, positions, None)
        if found:
            raise RefinementError(f"{self.out}: dynamics led to {found}; try another seed")

    def _sampler(self, positions: np.ndarray, velocities: np.ndarray):
        from openmm import app, unit

        settings, simulation = self.settings, self._simulation(self.temperatures[0])
        sampler = app.ReplicaExchangeSampler([{"temperature": t * unit.kelvin} for t in self.temperatures], simulation,
                                             round(settings.exchange_ps / settings.timestep_ps))
        for k, (x, v) in enumerate(zip(positions, velocities, strict=True)):
            simulation.context.setPositions(x)
            simulation.context.setVelocities(v)
            sampler.replicaConformation[k] = simulation.context.getState(
                positions=True, velocities=True, parameters=True, integratorParameters=True)
        return sampler

    def _simulation(self, temperature: float):
        settings = self.settings
        system = implicit_system(self.target, hydrogen_mass(settings.timestep_ps))
        return dynamics(self.target.topology, system, temperature, settings.friction_per_ps, settings.timestep_ps,
                        int(self.rng.integers(1, 2**31)), self.platform)
