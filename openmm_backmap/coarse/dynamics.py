"""Langevin dynamics of coarse-grained models, in a box at constant volume or without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.coarse.model import CGModel
from openmm_backmap.coarse.system import create_cg_system, time_step
from openmm_backmap.energy.platforms import best_platform
from openmm_backmap.errors import RefinementError

FRICTION_PER_PS = 1.0
_MINIMIZE_STEPS = 500


@dataclass(frozen=True)
class State:
    """Where dynamics stand.

    Attributes
    ----------
    positions : ndarray, shape (n_beads, 3), nm
        Whole molecules.
    box : ndarray, shape (3, 3), nm, or None
    velocities : ndarray, shape (n_beads, 3), nm/ps, or None
        None: to be relaxed and drawn.
    """

    positions: np.ndarray = field(repr=False)
    box: np.ndarray | None
    velocities: np.ndarray | None = field(default=None, repr=False)


class Langevin:
    """Runs of one system.

    Parameters
    ----------
    system : openmm.System
    box : ndarray, shape (3, 3), nm, or None
    temperature_K, friction_per_ps : float
    every_ps, longest_step_ps : float
        Time between frames; the time step is the longest fraction of it up to ``longest_step_ps``.
    platform : str, optional
    """

    def __init__(self, system, box: np.ndarray | None, *, temperature_K: float, friction_per_ps: float,
                 every_ps: float, longest_step_ps: float, platform: str | None = None):
        from openmm import Context, LangevinMiddleIntegrator

        self.system, self.box, self.temperature = system, box, temperature_K
        self.n_steps = max(1, int(np.ceil(every_ps / longest_step_ps - 1e-9)))
        self.integrator = LangevinMiddleIntegrator(self.temperature, friction_per_ps, every_ps / self.n_steps)
        self.context = Context(self.system, self.integrator, best_platform(platform))

    def start(self, state: State, rng: np.random.Generator) -> None:
        """Put the system into ``state``; one without velocities is relaxed first."""
        from openmm import LocalEnergyMinimizer, OpenMMException

        self.integrator.setRandomNumberSeed(int(rng.integers(1, 2**31)))
        self.context.reinitialize()
        if state.box is not None:
            self.context.setPeriodicBoxVectors(*state.box)
        self.context.setPositions(state.positions)
        try:
            if state.velocities is None:
                LocalEnergyMinimizer.minimize(self.context, maxIterations=_MINIMIZE_STEPS)
                self.context.setVelocitiesToTemperature(self.temperature, int(rng.integers(1, 2**31)))
            else:
                self.context.setVelocities(state.velocities)
        except OpenMMException as error:
            raise _failed(error) from None

    def frames(self, n: int) -> Iterator[State]:
        """``n`` states, each ``every_ps`` after the one before."""
        from openmm import OpenMMException

        for _ in range(n):
            try:
                self.integrator.step(self.n_steps)
                yield self.state()
            except OpenMMException as error:
                raise _failed(error) from None

    def state(self) -> State:
        from openmm import unit

        found = self.context.getState(positions=True, velocities=True)
        positions = found.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        velocities = found.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
        if not (np.isfinite(positions).all() and np.isfinite(velocities).all()):
            raise _failed("positions are not finite")
        return State(np.array(positions), self.box, np.array(velocities))


class Dynamics(Langevin):
    """Runs of molecules in a box under one model.

    Parameters
    ----------
    model : CGModel
    target : Target
    box : ndarray, shape (3, 3), nm
    every_ps : float
        Time between frames; the time step is the longest fraction of it that suits the model
        (:func:`openmm_backmap.coarse.time_step`).
    temperature_K : float, optional
        The model's own where it is not given.
    platform : str, optional
    """

    def __init__(self, model: CGModel, target: Target, box: np.ndarray, *, every_ps: float,
                 temperature_K: float | None = None, platform: str | None = None):
        super().__init__(create_cg_system(model, target, box), box, every_ps=every_ps, platform=platform,
                         temperature_K=temperature_K or model.temperature_K, friction_per_ps=FRICTION_PER_PS,
                         longest_step_ps=time_step(model, target))


def _failed(why) -> RefinementError:
    return RefinementError(f"dynamics of the CG model failed ({str(why).split('. ')[0].strip()}): begin with other "
                           "beads or another seed, or look at the model's tables")
