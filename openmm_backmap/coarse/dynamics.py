"""Langevin dynamics of a coarse-grained model at constant volume."""

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
    box : ndarray, shape (3, 3), nm
    velocities : ndarray, shape (n_beads, 3), nm/ps, or None
        None: to be relaxed and drawn.
    """

    positions: np.ndarray = field(repr=False)
    box: np.ndarray
    velocities: np.ndarray | None = field(default=None, repr=False)


class Dynamics:
    """Runs of one system under one model.

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
        from openmm import Context, LangevinMiddleIntegrator

        self.temperature = temperature_K or model.temperature_K
        self.n_steps = max(1, int(np.ceil(every_ps / time_step(model, target) - 1e-9)))
        self.system, self.box = create_cg_system(model, target, box), box
        self.integrator = LangevinMiddleIntegrator(self.temperature, FRICTION_PER_PS, every_ps / self.n_steps)
        self.context = Context(self.system, self.integrator, best_platform(platform))

    def start(self, state: State, rng: np.random.Generator) -> None:
        """Put the system into ``state``; one without velocities is relaxed first."""
        from openmm import LocalEnergyMinimizer, OpenMMException

        self.integrator.setRandomNumberSeed(int(rng.integers(1, 2**31)))
        self.context.reinitialize()
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


def _failed(why) -> RefinementError:
    return RefinementError(f"dynamics of the CG model failed ({str(why).split('. ')[0].strip()}): begin with other "
                           "beads or another seed, or look at the model's tables")
