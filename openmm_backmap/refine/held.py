"""Short dynamics with the beads held: what takes the atoms of a frame to the statistics of the force field.

A frame of a trajectory may not be equilibrated for long, or it forgets the frame before; but bonds, angles and contacts
need a tenth of a picosecond alone. Beads must be single atoms: these do not move at all.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import torch

from openmm_backmap.chemistry.system import create_flexible_system, with_solvent
from openmm_backmap.chemistry.target import Target
from openmm_backmap.cores import n_cores
from openmm_backmap.energy.bridge import TorchEnergy
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import inverted_centres
from openmm_backmap.geometry.hydrogens import with_ordered_hydrogens
from openmm_backmap.refine.systems import HYDROGEN_MASS, force_norms, hand_force, positions_of
from openmm_backmap.units import GAS_CONSTANT

TIMESTEP_PS = 0.002
#: dynamics is cut into so many stretches of so many steps, each with new velocities
STRETCHES, STEPS = 6, 10
# kJ/mol/nm. Dynamics with such steps cannot follow larger forces; they are taken out first.
_READY_FORCE = 1.5e4
_RELAXING_STEPS, _MOST_ROUNDS = 30, 10
# kT. One bond or angle in some 10^8 has so much; what has more is caught in a knot, which short dynamics do not undo.
_MOST_STRAIN_KT = 15.0
# All n together have n/2 kT, with a standard deviation of sqrt(n/2): knots lie far beyond so many of them.
_MOST_DEVIATIONS = 5.0
_ALL = -1


class HeldDynamics:
    """Dynamics of molecules that do not see each other, each with its beads where they are.

    The force field is that of the chemistry with flexible bonds, and the implicit solvent that the chemistry names.
    Stereocentres are held to their hands, and hydrogens that are alike keep theirs.
    Velocities are drawn anew every 0.02 ps (H. C. Andersen, J. Chem. Phys. 72, 2384 (1980)), which takes most of what
    the atoms drawn have too much or too little of stiff energy in 0.12 ps, and leaves torsions where they are.

    Parameters
    ----------
    molecule : Target
        One molecule, whose beads are single atoms.
    temperature_K : float
    platform : str, optional
        OpenMM platform. Molecules are spread over cores where it is one of the processor.

    Raises
    ------
    InputError
        A bead is more than one atom.
    """

    def __init__(self, molecule: Target, temperature_K: float, platform: str | None = None):
        beads = molecule.atoms_that_are_beads()
        if beads is None:
            raise InputError(f"chemistry {molecule.chemistry.name}: its beads are not single atoms, which trajectories "
                             "need to be refined: use refine none")
        self.molecule, self.platform, self._kT = molecule, platform, GAS_CONSTANT * temperature_K
        self.system = _system(molecule, beads)
        masses = np.array([self.system.getParticleMass(i)._value for i in range(molecule.n_atoms)])
        self._lightness = np.divide(1.0, masses, out=np.zeros_like(masses), where=masses > 0)[:, None]
        self._speed = np.sqrt(self._kT * self._lightness)
        self._strain = [part for part in TorchEnergy.from_system(create_flexible_system(molecule, None)).bonded
                        if part.kind in ("bond", "angle")]
        self._contexts: SimpleQueue = SimpleQueue()
        self._pool = None

    def __call__(self, positions: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Positions (B, n_atoms, 3), nm, after dynamics; and which (B,) came to a state of finite forces.

        The others are left as they were.
        """
        if self._pool is None:
            self._start()
        results = list(self._pool.map(self._moved, positions, rng.spawn(len(positions))))
        moved = with_ordered_hydrogens(self.molecule, np.stack([x for x, _ in results]), like=positions)
        return moved, np.array([sound for _, sound in results])

    def strained(self, positions: np.ndarray) -> np.ndarray:
        """Whether (B,) a bond or angle, or all of them together, have more energy than the temperature gives them, or a
        stereocentre is inverted.

        Parameters
        ----------
        positions : ndarray, shape (B, n_atoms, 3), nm
            Of flexible bonds; those to hydrogen count too.
        """
        x = torch.as_tensor(positions)
        energy = torch.cat([part.energies(x, None) for part in self._strain], dim=1).numpy() / self._kT
        mean = energy.shape[1] / 2
        # So that what is not a number is strained.
        thermal = (energy.max(1) < _MOST_STRAIN_KT) & (energy.sum(1) < mean + _MOST_DEVIATIONS * np.sqrt(mean))
        return ~thermal | inverted_centres(self.molecule, positions).any(axis=1)

    def _start(self) -> None:
        from openmm_backmap.energy.platforms import best_platform

        platform = best_platform(self.platform)
        on_cores = platform.getName() in ("CPU", "Reference")
        properties = {"Threads": "1"} if platform.getName() == "CPU" else {}
        n = n_cores() if on_cores else 1
        for _ in range(n):
            self._contexts.put(_context(self.system, platform, properties))
        self._pool = ThreadPoolExecutor(n)

    def _moved(self, start: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        from openmm import OpenMMException

        context = self._contexts.get()
        try:
            context.setPositions(start)
            self._relax(context)
            for _ in range(STRETCHES):
                context.setVelocities(self._velocities(context, rng))
                context.getIntegrator().step(STEPS)
            moved = positions_of(context)
            sound = np.isfinite(moved).all() and force_norms(context, _ALL).max() < 2 * _READY_FORCE
        except OpenMMException:  # positions that are not numbers
            sound = False
        finally:
            self._contexts.put(context)
        return (moved, True) if sound else (start, False)

    def _velocities(self, context, rng: np.random.Generator) -> np.ndarray:
        """From the Maxwell distribution, and half a step back: those of OpenMM's Verlet integrator lag behind. Without
        this, every draw would add heat."""
        forces = context.getState(forces=True).getForces(asNumpy=True)._value
        return rng.normal(size=forces.shape) * self._speed - TIMESTEP_PS / 2 * forces * self._lightness

    @staticmethod
    def _relax(context) -> None:
        """Take out overlaps; nothing where there is none."""
        from openmm import LocalEnergyMinimizer

        for _ in range(_MOST_ROUNDS):
            if force_norms(context, _ALL).max() < _READY_FORCE:
                return
            LocalEnergyMinimizer.minimize(context, maxIterations=_RELAXING_STEPS)


def _system(molecule: Target, beads: np.ndarray):
    """The force field with flexible bonds and heavy hydrogens, and hands held; atoms that are beads have no mass and do
    not move."""
    system = with_solvent(create_flexible_system(molecule, None, hydrogen_mass=HYDROGEN_MASS), molecule, None)
    system.addForce(hand_force(molecule))
    for atom in beads.tolist():
        system.setParticleMass(atom, 0.0)
    return system


def _context(system, platform, properties: dict[str, str]):
    from openmm import Context, VerletIntegrator

    return Context(system, VerletIntegrator(TIMESTEP_PS), platform, properties)
