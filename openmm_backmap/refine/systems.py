"""The two systems of refinement: one that forgives bad geometry, one that is the user's own plus restraints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from openmm_backmap.chemistry.system import create_system
from openmm_backmap.chemistry.target import Target
from openmm_backmap.refine.restraints import add_bead_restraints

# Force groups. Forces of the force field are numbered from 0 in their order.
RESTRAINT_GROUP, SOFT_GROUP, NONBONDED_GROUP = 31, 30, 29

# Overlaps are nearer than this, and a short cutoff makes the soft stage several times faster.
_SOFT_CUTOFF_NM = 0.6
# A soft core of 0.1 lets two atoms pass at about 360 epsilon: repulsion is felt, but no force exceeds some 1e4.
_SOFT_CORE = """4*epsilon*(x^2 - x); x = 1/(0.1 + (r/sigma)^6);
epsilon = sqrt(epsilon1*epsilon2); sigma = max(0.5*(sigma1 + sigma2), 0.01)"""
# Flat where the hand is right, 2000 kJ/mol where it is as wrong. A tetrahedral centre spans 0.002 to 0.0026 nm^3 with
# three neighbours; the fourth lies on the same side, farther out, and would be left inside if it were not asked for.
_HAND = """500*max(0, 1 - hand*volume/enough)^2;
volume = (ay*bz - az*by)*(x4 - x1) + (az*bx - ax*bz)*(y4 - y1) + (ax*by - ay*bx)*(z4 - z1);
ax = x2 - x1; ay = y2 - y1; az = z2 - z1; bx = x3 - x1; by = y3 - y1; bz = z3 - z1"""
_ENOUGH_CENTRE_NM3, _ENOUGH_FOURTH_NM3 = 0.0012, 0.005


def restrained_system(target: Target, box: np.ndarray | None, beads: np.ndarray, k: float):
    """The user's system with beads restrained; every force in a group of its own. Returns system and restraints."""
    system = create_system(target, box)
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
    restraints = add_bead_restraints(system, target, beads, box, k)
    restraints.setForceGroup(RESTRAINT_GROUP)
    return system, restraints


def forgiving_system(target: Target, box: np.ndarray | None, beads: np.ndarray, k: float):
    """Flexible bonds, beads restrained, and beside the true nonbonded forces a soft version of them in its own group.

    The soft group also turns inverted stereocentres back. Returns system and restraints.
    """
    from openmm import NonbondedForce

    flexible = replace(target, chemistry=replace(target.chemistry, constraints="none"))
    system = create_system(flexible, box)
    for nonbonded in [force for force in system.getForces() if isinstance(force, NonbondedForce)]:
        nonbonded.setForceGroup(NONBONDED_GROUP)
        system.addForce(_soft_force(nonbonded))
    system.addForce(_hand_force(target))
    return system, add_bead_restraints(system, target, beads, box, k)


def _soft_force(nonbonded):
    from openmm import CustomNonbondedForce, unit

    soft = CustomNonbondedForce(_SOFT_CORE)
    soft.addPerParticleParameter("sigma")
    soft.addPerParticleParameter("epsilon")
    for index in range(nonbonded.getNumParticles()):
        _, sigma, epsilon = nonbonded.getParticleParameters(index)
        soft.addParticle([sigma, epsilon])
    for index in range(nonbonded.getNumExceptions()):
        i, j, *_ = nonbonded.getExceptionParameters(index)
        soft.addExclusion(i, j)
    if nonbonded.usesPeriodicBoundaryConditions():
        soft.setNonbondedMethod(CustomNonbondedForce.CutoffPeriodic)
        soft.setCutoffDistance(min(_SOFT_CUTOFF_NM, nonbonded.getCutoffDistance().value_in_unit(unit.nanometer)))
    soft.setForceGroup(SOFT_GROUP)
    return soft


def _hand_force(target: Target):
    from openmm import CustomCompoundBondForce

    force = CustomCompoundBondForce(4, _HAND)
    force.addPerBondParameter("hand")
    force.addPerBondParameter("enough")
    for atoms, sign in zip(target.stereo.tolist(), target.stereo_sign.tolist()):
        force.addBond(atoms, [sign, _ENOUGH_CENTRE_NM3])
        bonded = target.bonds[(target.bonds == atoms[0]).any(axis=1)].ravel().tolist()
        for fourth in set(bonded) - set(atoms):
            force.addBond([fourth, *atoms[1:]], [sign, _ENOUGH_FOURTH_NM3])
    force.setForceGroup(SOFT_GROUP)
    return force


def constraints_of(system) -> tuple[np.ndarray, np.ndarray]:
    """Constrained pairs (n, 2) of ``system`` and their lengths (n,), nm."""
    from openmm import unit

    rows = [system.getConstraintParameters(k) for k in range(system.getNumConstraints())]
    pairs = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2)
    return pairs, np.array([row[2].value_in_unit(unit.nanometer) for row in rows])
