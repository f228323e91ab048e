"""Energy minimisation in stages, as the published baselines prescribe it: forces are switched on one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openmm_backmap.chemistry import Target, create_flexible_system
from openmm_backmap.energy.kinds import kind_of_force
from openmm_backmap.energy.platforms import best_platform
from openmm_backmap.energy.restraints import add_bead_restraints, move_bead_restraints
from openmm_backmap.errors import RefinementError

Progress = Callable[[str, int, int], None]

_RESTRAINT_GROUP = 31
_FIRST_STEP_NM, _GROW, _SHRINK, _SMALLEST_STEP_NM = 0.01, 1.2, 0.2, 1e-7
_REPORT_EVERY = 100


@dataclass(frozen=True)
class Stage:
    """``steps`` of steepest descent without the forces of the kinds ``without``
    (:func:`openmm_backmap.energy.kinds.kind_of_force`), the beads restrained or not."""

    steps: int
    without: tuple[str, ...] = ()
    restrained: bool = False


class StagedMinimiser:
    """Takes structures through ``stages``; what OpenMM needs is kept from one structure of a target to the next.

    Bonds are flexible, by the force field's own constants. Steepest descent: forces of any size only set the
    direction, so that overlaps do not stop it. OpenMM's results on several CPU threads are not the same twice; one
    thread is used, since a generator's random numbers decide its atoms.

    Parameters
    ----------
    stages : sequence of Stage
        With none, atoms are left as they are.
    platform : str, optional
        OpenMM platform; the fastest that works by default.
    restraint_k : float, kJ/mol/nm^2
        For each bead, in restrained stages.
    """

    def __init__(self, stages: tuple[Stage, ...], platform: str | None = None, restraint_k: float = 50_000.0):
        self.stages, self.platform, self.restraint_k = tuple(stages), platform, restraint_k
        self._ready: _Ready | None = None

    def minimise(self, target: Target, positions: np.ndarray, beads: np.ndarray, box: np.ndarray | None,
                 progress: Progress | None = None) -> np.ndarray:
        """Positions (n_atoms, 3), nm, after all stages.

        Parameters
        ----------
        target : Target
        positions : ndarray, shape (n_atoms, 3), nm
            Whole molecules.
        beads : ndarray, shape (n_beads, 3), nm
            Where restrained stages hold them.
        box : ndarray, shape (3, 3), nm, or None
        progress : callable of (stage, done, total), optional

        Raises
        ------
        RefinementError
            Atoms lie on top of each other.
        """
        if not self.stages:
            return positions
        if self._ready is None or not self._ready.fits(target, box):
            self._ready = _Ready(target, box, self.platform, self.restraint_k)
        self._ready.hold(beads, box)
        for k, stage in enumerate(self.stages):
            name = f"minimising, stage {k + 1} of {len(self.stages)}"
            report = (lambda done, n=stage.steps, name=name: progress(name, done, n)) if progress else None
            positions = descend(self._ready.context, positions, self._ready.groups(stage), stage.steps, report)
        return positions


class _Ready:
    """The context for one target, each kind of force in a group of its own."""

    def __init__(self, target: Target, box: np.ndarray | None, platform: str | None, restraint_k: float):
        self.target, self.periodic = target, box is not None
        system = create_flexible_system(target, box)
        self._group: dict[str, int] = {}
        for force in system.getForces():
            force.setForceGroup(self._group.setdefault(kind_of_force(force) or force.getName(), len(self._group)))
        self._restraints = add_bead_restraints(system, target, np.zeros((target.n_beads, 3)), box, restraint_k)
        self._restraints.setForceGroup(_RESTRAINT_GROUP)
        self.context = _context(system, platform)

    def fits(self, target: Target, box: np.ndarray | None) -> bool:
        return target is self.target and (box is not None) == self.periodic

    def hold(self, beads: np.ndarray, box: np.ndarray | None) -> None:
        if box is not None:
            self.context.setPeriodicBoxVectors(*box)
        move_bead_restraints(self.context, self._restraints, beads, box)

    def groups(self, stage: Stage) -> int:
        groups = [group for kind, group in self._group.items() if kind not in stage.without]
        return sum(1 << group for group in [*groups, *([_RESTRAINT_GROUP] if stage.restrained else [])])


def _context(system, platform: str | None):
    from openmm import Context, VerletIntegrator

    chosen = best_platform(platform)
    wanted = {"DeterministicForces": "true", "Threads": "1"}
    return Context(system, VerletIntegrator(0.001), chosen,
                   {name: value for name, value in wanted.items() if name in chosen.getPropertyNames()})


def descend(context, positions: np.ndarray, groups: int, steps: int,
            report: Callable[[int], None] | None = None) -> np.ndarray:
    """Steepest descent as GROMACS does it (reference manual, "Steepest descent").

    The atom with the largest force moves by a step, all others in proportion to theirs; the step grows by a fifth
    where the energy falls, and is taken back and cut to a fifth where it does not.

    Parameters
    ----------
    context : openmm.Context
    positions : ndarray, shape (n_atoms, 3), nm
    groups : int
        Force groups that count, one bit each.
    steps : int
        Evaluations of the forces; fewer where steps become meaninglessly small.
    report : callable of the number of steps done, optional
    """
    x, step = np.array(positions, dtype=float), _FIRST_STEP_NM
    energy, force = _evaluate(context, x, groups)
    if not np.isfinite(energy) or not np.isfinite(force).all():
        raise RefinementError("minimisation cannot start: atoms lie on top of each other; try another seed")
    for done in range(steps):
        if report and done % _REPORT_EVERY == 0:
            report(done)
        largest = np.sqrt((force**2).sum(1).max())
        if largest == 0 or step < _SMALLEST_STEP_NM:
            break
        trial = x + force * (step / largest)
        trial_energy, trial_force = _evaluate(context, trial, groups)
        if trial_energy < energy:
            x, energy, force, step = trial, trial_energy, trial_force, step * _GROW
        else:
            step *= _SHRINK
    if report:
        report(steps)
    return x


def _evaluate(context, positions: np.ndarray, groups: int) -> tuple[float, np.ndarray]:
    """Energy, kJ/mol, and forces (n_atoms, 3), kJ/mol/nm."""
    from openmm import unit

    context.setPositions(positions)
    state = context.getState(energy=True, forces=True, groups=groups)
    return (state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
            state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer))
