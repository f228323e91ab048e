"""Molecular dynamics from structures as they are: how long until the potential energy is the reference's?

The test of Stieffenhofer's thesis (section 5.3.3, figure 5.6): no minimisation, no heating up, velocities drawn at the
temperature; a start that is a microstate of the ensemble is at the reference's energy at once. Here the volume is
constant, so that the energies of structures in one box can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.kept import load_arrays, save_arrays
from openmm_backmap.chemistry import create_system, with_solvent
from openmm_backmap.errors import InputError

Progress = Callable[[str, int, int], None]
# A constraint solver that gives up does not say so.
_BOND_NM = 1e-3
_KEPT_PS = 1.0


@dataclass(frozen=True)
class RelaxSettings:
    """Settings of the dynamics.

    Parameters
    ----------
    length_ps : float
    interval_ps : float
        Between two energies.
    timestep_ps : float
    friction_per_ps : float
    temperature_K : float or None
        None takes the chemistry's own.
    n_structures : int
        Of each ensemble, from its beginning.
    seed : int
        Velocities and noise.
    """

    length_ps: float = 20.0
    interval_ps: float = 0.1
    timestep_ps: float = 0.002
    friction_per_ps: float = 1.0
    temperature_K: float | None = None
    n_structures: int = 1
    seed: int = 1

    def __post_init__(self):
        for name in ("length_ps", "interval_ps", "timestep_ps", "friction_per_ps", "n_structures"):
            if not getattr(self, name) > 0:
                raise InputError(f"relaxation setting {name} is {getattr(self, name)}; it must be positive")
        if self.length_ps < 4 * self.interval_ps:
            raise InputError(f"relaxation for {self.length_ps:g} ps is shorter than four intervals of "
                             f"{self.interval_ps:g} ps")


@dataclass(frozen=True)
class Relaxation:
    """Potential energies along dynamics.

    Attributes
    ----------
    name : str
    times : ndarray, shape (n_times,), ps
        From 0, the start as it is (bonds made exact where they are constrained).
    energies : ndarray, shape (n_structures, n_times), kJ/mol
        NaN from where dynamics failed.
    failures : tuple of str, length n_structures
        Why dynamics failed; empty where they did not.
    """

    name: str
    times: np.ndarray = field(repr=False)
    energies: np.ndarray = field(repr=False)
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Band:
    """Where the reference's energy lies: mean and standard deviation, kJ/mol, of its last half."""

    mean: float
    sd: float


def relax(ensemble: Ensemble, settings: RelaxSettings = RelaxSettings(), platform: str | None = None,
          progress: Progress | None = None, folder: Path | None = None) -> Relaxation:
    """Run NVT dynamics (LangevinMiddleIntegrator, constraints as the chemistry's) from the first structures.

    Parameters
    ----------
    ensemble : Ensemble
    settings : RelaxSettings
    platform : str, optional
        OpenMM platform; the fastest by default.
    progress : callable, optional
    folder : Path, optional
        Where states are kept, so that a run that was interrupted goes on; it must belong to these structures and
        settings alone.
    """
    n = min(settings.n_structures, len(ensemble))
    runs = []
    for k in range(n):
        part = None if folder is None else folder / f"{k + 1}.npz"
        runs.append(_Run(ensemble, k, settings, platform, part).run(progress))
    times = settings.interval_ps * np.arange(_n_intervals(settings) + 1)
    return Relaxation(ensemble.name, times, np.stack([run.energies for run in runs]), tuple(r.failure for r in runs))


def band(reference: Relaxation) -> Band:
    """The band of the reference, over all its runs that did not fail.

    Raises
    ------
    InputError
        All of them failed.
    """
    late = reference.energies[:, len(reference.times) // 2:]
    sound = late[[not failure for failure in reference.failures]]
    if not sound.size:
        raise InputError(f"dynamics fail from the reference itself: {reference.failures[0]}")
    return Band(float(sound.mean()), float(sound.std()))


def time_to_band(relaxation: Relaxation, around: Band, window_ps: float = 1.0) -> np.ndarray:
    """When the running mean of each structure's energy enters the band and stays.

    Parameters
    ----------
    relaxation : Relaxation
    around : Band
        Mean plus and minus its standard deviation.
    window_ps : float
        Width of the running mean.

    Returns
    -------
    ndarray, shape (n_structures,), ps
        The beginning of the first window from which on all lie in the band; infinite where there is none.
    """
    step = relaxation.times[1] - relaxation.times[0]
    width = min(max(1, round(window_ps / step)), max(1, len(relaxation.times) // 4))
    windows = np.lib.stride_tricks.sliding_window_view(relaxation.energies, width, axis=1).mean(-1)
    with np.errstate(invalid="ignore"):
        outside = ~(np.abs(windows - around.mean) <= around.sd)
    last = outside.shape[1] - np.argmax(outside[:, ::-1], axis=1)
    first = np.where(outside.any(axis=1), last, 0)
    return np.where(first < outside.shape[1], relaxation.times[np.minimum(first, outside.shape[1] - 1)], np.inf)


def verdicts(relaxation: Relaxation, around: Band) -> tuple[str, ...]:
    """In words, for each structure: the time to the band, ``not reached``, or why dynamics fail."""
    times = time_to_band(relaxation, around)
    return tuple(f"MD fails: {failure}" if failure else f"{time:.1f} ps" if np.isfinite(time) else
                 f"not reached in {relaxation.times[-1]:g} ps"
                 for failure, time in zip(relaxation.failures, times, strict=True))


def _n_intervals(settings: RelaxSettings) -> int:
    return round(settings.length_ps / settings.interval_ps)


class _Run:
    """Dynamics from one structure."""

    def __init__(self, ensemble: Ensemble, k: int, settings: RelaxSettings, platform: str | None, part: Path | None):
        self.settings, self.part, self.platform = settings, part, platform
        self.target, self.positions, self.box = ensemble.target, ensemble.positions[k], ensemble.box(k)
        self.label = f"dynamics from {ensemble.name}"
        self.temperature = settings.temperature_K or self.target.chemistry.temperature_K
        self.seeds = np.random.SeedSequence([settings.seed, k])
        self.energies = np.full(_n_intervals(settings) + 1, np.nan)
        self.done, self.failure, self.velocities = 0, "", None

    def run(self, progress: Progress | None) -> _Run:
        if self.part is not None and self.part.exists():
            self._load()
        n = len(self.energies)
        if self.done < n and not self.failure:
            self._step(progress or (lambda *_: None))
        return self

    def _step(self, progress: Progress) -> None:
        from openmm import OpenMMException

        n, keep = len(self.energies), max(1, round(_KEPT_PS / self.settings.interval_ps))
        steps = max(1, round(self.settings.interval_ps / self.settings.timestep_ps))
        try:
            context = self._context()
            while self.done < n:
                progress(self.label, self.done, n)
                for _ in range(min(keep, n - self.done)):
                    if self.done:
                        context.getIntegrator().step(steps)
                    self._record(context)
                self._keep(context)
        except (OpenMMException, _Failed) as error:
            when = f"within {self.done * self.settings.interval_ps:.3g} ps" if self.done else "at the start"
            self.failure = f"{str(error).split('.  ')[0].rstrip('.')} ({when})"
            self._keep(None)
        progress(self.label, n, n)

    def _record(self, context) -> None:
        from openmm import unit

        energy = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        if not np.isfinite(energy):
            raise _Failed(f"the energy is {energy}")
        self.energies[self.done] = energy
        self.done += 1

    def _context(self):
        from openmm import Context, LangevinMiddleIntegrator

        from openmm_backmap.energy.platforms import best_platform

        settings = self.settings
        # Noise that has been used must not come again after a restart.
        noise, start = map(int, np.random.default_rng([self.seeds.entropy[0], self.seeds.entropy[1], self.done])
                           .integers(1, 2**31 - 1, 2))
        integrator = LangevinMiddleIntegrator(self.temperature, settings.friction_per_ps, settings.timestep_ps)
        integrator.setRandomNumberSeed(noise)
        system = with_solvent(create_system(self.target, self.box), self.target, self.box)
        context = Context(system, integrator, best_platform(self.platform))
        if self.box is not None:
            context.setPeriodicBoxVectors(*self.box)
        context.setPositions(self.positions)
        if self.velocities is None:
            context.applyConstraints(context.getIntegrator().getConstraintTolerance())
            _check_constraints(system, context)
            context.setVelocitiesToTemperature(self.temperature, start)
        else:
            context.setVelocities(self.velocities)
        return context

    def _keep(self, context) -> None:
        if self.part is None:
            return
        from openmm import unit

        arrays = {"energies": self.energies, "done": self.done, "failure": self.failure}
        if context is not None:
            state = context.getState(positions=True, velocities=True)
            arrays["positions"] = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
            arrays["velocities"] = state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
        save_arrays(self.part, **arrays)

    def _load(self) -> None:
        data = load_arrays(self.part)
        self.energies, self.done, self.failure = data["energies"], int(data["done"]), str(data["failure"])
        if "positions" in data:
            self.positions, self.velocities = data["positions"], data["velocities"]


class _Failed(Exception):
    """Dynamics cannot go on; the message says why."""


def _check_constraints(system, context) -> None:
    from openmm import unit

    from openmm_backmap.energy.openmm_energy import constraints_of
    from openmm_backmap.refine.projection import bond_error

    x = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    if not bond_error(x, *constraints_of(system)) < _BOND_NM:
        raise _Failed("the constrained bonds cannot be met")
