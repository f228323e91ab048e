"""Energies, by the names that users know, and forces of a System, by OpenMM."""

from __future__ import annotations

import copy

import numpy as np

from openmm_backmap.energy.kinds import carries_no_energy, kind_of_force
from openmm_backmap.energy.platforms import best_platform


def constraints_of(system) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (n, 2) that an ``openmm.System`` constrains, and their lengths (n,), nm."""
    from openmm import unit

    rows = [system.getConstraintParameters(k) for k in range(system.getNumConstraints())]
    pairs = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2)
    return pairs, np.array([row[2].value_in_unit(unit.nanometer) for row in rows])


def energies_by_force(system, positions: np.ndarray, box: np.ndarray | None,
                      platform: str | None = None) -> dict[str, float]:
    """Potential energy of each kind of force, and ``total``, kJ/mol.

    Kinds are ``bond``, ``angle``, ``torsion``, ``rb_torsion``, ``improper`` (harmonic custom torsions) and
    ``nonbonded``; any other force goes by its own name. Several forces of one kind are added up.

    Parameters
    ----------
    system : openmm.System
        Left as it is.
    positions : ndarray, shape (n_atoms, 3), nm
    box : ndarray, shape (3, 3), nm, or None
        None leaves a periodic System its own box.
    platform : str, optional
        Name of an OpenMM platform; the fastest that works where absent.
    """
    system = copy.deepcopy(system)
    groups: dict[str, int] = {}
    for force in system.getForces():
        name = _name(force)
        if name is not None:
            force.setForceGroup(groups.setdefault(name, len(groups)))
    context = _context(system, positions, box, platform)
    energies = {name: _potential(context, groups={group}) for name, group in groups.items()}
    return {**energies, "total": sum(energies.values())}


def forces(system, positions: np.ndarray, box: np.ndarray | None, platform: str | None = None) -> np.ndarray:
    """Forces on all atoms (n_atoms, 3), kJ/mol/nm; arguments as for :func:`energies_by_force`."""
    from openmm import unit

    state = _context(copy.deepcopy(system), positions, box, platform).getState(forces=True)
    return state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)


def _name(force) -> str | None:
    return None if carries_no_energy(force) else kind_of_force(force) or force.getName()


def _context(system, positions: np.ndarray, box: np.ndarray | None, platform: str | None):
    import openmm as mm

    chosen = best_platform(platform)
    properties = {"Precision": "mixed"} if chosen.getName() in ("CUDA", "OpenCL") else {}
    if box is not None:
        # Set before there is a context, which refuses a box that does not suit the method.
        system.setDefaultPeriodicBoxVectors(*np.asarray(box, dtype=float))
    context = mm.Context(system, mm.VerletIntegrator(0.001), chosen, properties)
    context.setPositions(np.asarray(positions, dtype=float))
    return context


def _potential(context, **selection) -> float:
    from openmm import unit

    return context.getState(energy=True, **selection).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
