"""The system of refinement: the force field with flexible bonds, restrained beads and forces that forgive overlaps."""

from __future__ import annotations

import numpy as np

from openmm_backmap.chemistry.system import create_flexible_system, with_solvent
from openmm_backmap.chemistry.target import Target
from openmm_backmap.energy.restraints import add_bead_restraints

# Force groups; the other forces are numbered from 0 in their order.
RESTRAINT_GROUP, SOFT_GROUP, NONBONDED_GROUP, HAND_GROUP, SOLVENT_GROUP = 31, 30, 29, 28, 27
# dalton; lets steps of 1 fs follow bonds this stiff, and changes no equilibrium distribution of positions.
HYDROGEN_MASS = 3.0
# Times the force constant. At 1 the melt packs otherwise (Lennard-Jones -242 kJ/mol a chain of ten monomers, where
# constrained bonds give -223), at 8 it is within 5 kJ/mol of that.
BOND_STIFFNESS = 8.0

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


# Of a radian: how far the fastest swing of beads on their springs goes in a time step. Integration is stable up to 2;
# at 0.8, beads of one carbon atom (whose mass is half with its hydrogens) stay within 0.002 nm at 570 K.
_SWING = 0.8


def energy_system(target: Target, box: np.ndarray | None, hydrogen_mass: float | None = None):
    """The force field with flexible bonds and its solvent, every force in a group of its own: for energies and forces.
    """
    from openmm import GBSAOBCForce, NonbondedForce

    groups = {NonbondedForce: NONBONDED_GROUP, GBSAOBCForce: SOLVENT_GROUP}
    system = with_solvent(create_flexible_system(target, box, hydrogen_mass=hydrogen_mass), target, box)
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(groups.get(type(force), group))
    return system


def refinement_system(target: Target, box: np.ndarray | None, beads: np.ndarray, k: float | None, timestep_ps: float):
    """The force field with flexible bonds and heavy hydrogens, beads restrained, stereocentres held to their hands, and
    a soft version of the nonbonded forces in a group of its own. ``k`` is the stiffness of the springs on beads,
    kJ/mol/nm^2; None takes :func:`stiffest_springs`.

    Bonds are not constrained: OpenMM prepares constraints in a time that grows with the square of their number (5 s
    for 5,832 atoms, 49 s for 17,496), and :func:`~openmm_backmap.refine.projection.satisfy_bonds` makes them exact in
    the end. Returns system and restraints; every force has a group of its own.
    """
    from openmm import NonbondedForce

    system = energy_system(target, box, HYDROGEN_MASS)
    _stiffen(system, target)
    nonbonded = next(force for force in system.getForces() if isinstance(force, NonbondedForce))
    system.addForce(_soft_force(nonbonded))
    system.addForce(hand_force(target))
    restraints = add_bead_restraints(system, target, beads, box, k or stiffest_springs(target, system, timestep_ps))
    restraints.setForceGroup(RESTRAINT_GROUP)
    return system, restraints


def stiffest_springs(target: Target, system, timestep_ps: float) -> float:
    """Stiffness, kJ/mol/nm^2, of the stiffest springs on beads that time steps can follow.

    Beads on springs k swing with omega^2 = k / m, and where beads share atoms, with the eigenvalues of k M m^-1 M^T, of
    which no one exceeds the largest sum of a row.
    """
    from openmm import unit

    masses = np.array([system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(target.n_atoms)])
    inverse = (target.mapping / masses) @ target.mapping.T
    return float((_SWING / timestep_ps) ** 2 / abs(inverse).sum(axis=1).max())


def _stiffen(system, target: Target) -> None:
    """Constrained bonds nearly stiff: soft ones give way to their surroundings, and angles and packing with them."""
    from openmm import HarmonicBondForce, unit

    constrained = {(min(i, j), max(i, j)) for i, j in constrained_pairs(target).tolist()}
    stiffness = unit.kilojoule_per_mole / unit.nanometer**2
    for force in system.getForces():
        if isinstance(force, HarmonicBondForce):
            for index in range(force.getNumBonds()):
                i, j, length, k = force.getBondParameters(index)
                if (min(i, j), max(i, j)) in constrained:
                    force.setBondParameters(index, i, j, length.value_in_unit(unit.nanometer),
                                            k.value_in_unit(stiffness) * BOND_STIFFNESS)


def _soft_force(nonbonded):
    from openmm import CustomNonbondedForce, unit

    soft = CustomNonbondedForce(_SOFT_CORE)
    soft.addPerParticleParameter("sigma")
    soft.addPerParticleParameter("epsilon")
    for index in range(nonbonded.getNumParticles()):
        _, sigma, epsilon = nonbonded.getParticleParameters(index)
        # Numbers: OpenMM takes several times as long to strip units from a list.
        soft.addParticle([sigma.value_in_unit(unit.nanometer), epsilon.value_in_unit(unit.kilojoule_per_mole)])
    for index in range(nonbonded.getNumExceptions()):
        i, j, *_ = nonbonded.getExceptionParameters(index)
        soft.addExclusion(i, j)
    if nonbonded.usesPeriodicBoundaryConditions():
        soft.setNonbondedMethod(CustomNonbondedForce.CutoffPeriodic)
        soft.setCutoffDistance(min(_SOFT_CUTOFF_NM, nonbonded.getCutoffDistance().value_in_unit(unit.nanometer)))
    soft.setForceGroup(SOFT_GROUP)
    return soft


def hand_force(target: Target):
    """Holds stereocentres to their hands, the fourth neighbour on its side; nothing where all is right."""
    from openmm import CustomCompoundBondForce

    force = CustomCompoundBondForce(4, _HAND)
    force.addPerBondParameter("hand")
    force.addPerBondParameter("enough")
    bonded: dict[int, set[int]] = {}
    for i, j in target.bonds.tolist():
        bonded.setdefault(i, set()).add(j)
        bonded.setdefault(j, set()).add(i)
    for atoms, sign in zip(target.stereo.tolist(), target.stereo_sign.tolist()):
        force.addBond(atoms, [sign, _ENOUGH_CENTRE_NM3])
        for fourth in bonded[atoms[0]] - set(atoms):
            force.addBond([fourth, *atoms[1:]], [sign, _ENOUGH_FOURTH_NM3])
    force.setForceGroup(HAND_GROUP)
    return force


def constrained_bonds(target: Target, system) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (n, 2) that the chemistry constrains, and their lengths (n,), nm, by the flexible bonds of ``system``."""
    from openmm import HarmonicBondForce, unit

    pairs = constrained_pairs(target)
    lengths = {}
    for force in system.getForces():
        if isinstance(force, HarmonicBondForce):
            for k in range(force.getNumBonds()):
                i, j, length, _ = force.getBondParameters(k)
                lengths[min(i, j), max(i, j)] = length.value_in_unit(unit.nanometer)
    return pairs, np.array([lengths[min(i, j), max(i, j)] for i, j in pairs.tolist()])


def constrained_pairs(target: Target) -> np.ndarray:
    """Pairs (n, 2) that the chemistry constrains."""
    kind = target.chemistry.constraints
    light = np.array([element == "H" for element in target.elements])
    pairs = target.bonds if kind == "all-bonds" else target.bonds[light[target.bonds].any(axis=1)]
    return pairs[:0] if kind == "none" else pairs


def positions_of(context) -> np.ndarray:
    """Positions (n_atoms, 3), nm."""
    from openmm import unit

    return np.array(context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer))


def energy_of(context, groups: int) -> float:
    """Energy of ``groups``, kJ/mol."""
    from openmm import unit

    return context.getState(energy=True, groups=groups).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def force_norms(context, groups: int) -> np.ndarray:
    """Lengths (n_atoms,) of the forces of ``groups``, kJ/mol/nm; infinite where they are not a number."""
    from openmm import unit

    forces = context.getState(forces=True, groups=groups).getForces(asNumpy=True)
    norms = np.linalg.norm(forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer), axis=1)
    return np.where(np.isfinite(norms), norms, np.inf)
