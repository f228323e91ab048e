"""From a target to an ``openmm.System``: the one energy that prior, selection, refinement and analysis share."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import numpy as np

from openmm_backmap.chemistry.target import Target
from openmm_backmap.errors import ChemistryError, InputError


def with_box(topology, box: np.ndarray | None):
    """``topology`` with its periodic box set to ``box`` (3, 3) in nm, rows are vectors; None takes it away."""
    from openmm import Vec3, unit

    # One Quantity of vectors, not a list of Quantities: OpenMM's own file writers take nothing else.
    topology.setPeriodicBoxVectors(None if box is None else [Vec3(*map(float, row)) for row in box] * unit.nanometer)
    return topology


def create_system(target: Target, box: np.ndarray | None, *, hydrogen_mass: float | None = None):
    """The ``openmm.System`` of ``target`` by its chemistry's force field and settings.

    Parameters
    ----------
    target : Target
    box : ndarray, shape (3, 3), nm, or None
        None gives a non-periodic system without a cutoff.
    hydrogen_mass : float, optional, dalton
        Repartitions mass from heavy atoms to their hydrogens.

    Raises
    ------
    InputError
        Where half the box is smaller than the cutoff.
    ChemistryError
        Where the force field does not describe the molecules.
    """
    from openmm import app, unit

    chemistry = target.chemistry
    spec = chemistry.nonbonded
    if box is not None:
        check_box(box, spec.cutoff_nm)
    topology = with_box(target.topology, box)
    settings = dict(
        nonbondedMethod=getattr(app, spec.method) if box is not None else app.NoCutoff,
        constraints=app.AllBonds if chemistry.constraints == "all-bonds" else
        app.HBonds if chemistry.constraints == "h-bonds" else None,
        rigidWater=False, removeCMMotion=False,
        residueTemplates=dict(zip(topology.residues(), target.residue_names, strict=True)))
    if box is not None:
        settings["nonbondedCutoff"] = spec.cutoff_nm * unit.nanometer
    if hydrogen_mass:
        settings["hydrogenMass"] = hydrogen_mass * unit.dalton
    try:
        system = chemistry.force_field().createSystem(topology, **settings)
    except Exception as error:
        # Bare ones, where a residue lacks the neighbour that its template asks for, or parameters are missing.
        raise ChemistryError(f"the force field of the chemistry {chemistry.name} does not fit these molecules, which "
                             f"may lack an end ({' '.join(str(error).split())})") from error
    _fold_lennard_jones(system)
    for force in system.getForces():
        if hasattr(force, "setUseDispersionCorrection"):
            force.setUseDispersionCorrection(spec.dispersion_correction)
            _exclude(force, target.excluded)
    return system


def create_flexible_system(target: Target, box: np.ndarray | None, hydrogen_mass: float | None = None):
    """:func:`create_system` with no constraints, whatever the chemistry says: bonds carry energy."""
    flexible = replace(target, chemistry=replace(target.chemistry, constraints="none"))
    return create_system(flexible, box, hydrogen_mass=hydrogen_mass)


def with_solvent(system, target: Target, box: np.ndarray | None):
    """``system`` of ``target`` with the implicit solvent that its chemistry names, where there is no box."""
    if target.chemistry.implicit_solvent and box is None:
        system.addForce(implicit_solvent_force(target, target.chemistry.implicit_solvent))
    return system


def implicit_solvent_force(target: Target, file: str):
    """The ``openmm.GBSAOBCForce`` that OpenMM's force field ``file`` adds to the molecules of ``target``."""
    from openmm import GBSAOBCForce, app

    solvated = app.ForceField(io.StringIO(target.chemistry.force_field_xml), file)
    system = solvated.createSystem(target.topology, nonbondedMethod=app.NoCutoff)
    return copy.deepcopy(next(force for force in system.getForces() if isinstance(force, GBSAOBCForce)))


def _fold_lennard_jones(system) -> None:
    """Move what a <LennardJonesForce> made into the NonbondedForce, at the same energy.

    That element is the only one that can give 1-4 pairs parameters of their own, but openmm.app makes a
    CustomNonbondedForce and a CustomBondForce of it; with plain Lorentz-Berthelot mixing a NonbondedForce says both.
    """
    forces = {force.getName(): force for force in system.getForces()}
    if "LennardJones" not in forces:
        return
    table, nonbonded = forces["LennardJones"], forces["NonbondedForce"]
    sigma, epsilon = _lennard_jones_types(table)
    for i in range(system.getNumParticles()):
        kind = int(table.getParticleParameters(i)[0])
        charge, _, old = nonbonded.getParticleParameters(i)
        if old.value_in_unit(old.unit):
            raise ChemistryError("the force field gives Lennard-Jones parameters in both NonbondedForce and "
                                 "LennardJonesForce: set the former's epsilon to 0")
        nonbonded.setParticleParameters(i, charge, sigma[kind], epsilon[kind])
    if "LennardJones14" in forces:
        _fold_14(nonbonded, forces["LennardJones14"])
    for index in reversed(range(system.getNumForces())):
        if system.getForce(index).getName() in ("LennardJones", "LennardJones14"):
            system.removeForce(index)


def _lennard_jones_types(table) -> tuple[list[float], list[float]]:
    """Sigma (nm) and epsilon (kJ/mol) of the types of openmm.app's ``LennardJones`` tables."""
    n, _, values = table.getTabulatedFunction(0).getFunctionParameters()
    a = np.array(values).reshape(n, n)
    b = np.array(table.getTabulatedFunction(1).getFunctionParameters()[2]).reshape(n, n)
    diagonal = np.diag(b) > 0
    sigma, epsilon = np.ones(n), np.zeros(n)
    sigma[diagonal] = (np.diag(a)[diagonal] / np.diag(b)[diagonal]) ** (1 / 6)
    epsilon[diagonal] = np.diag(b)[diagonal] ** 2 / (4 * np.diag(a)[diagonal])
    mixed = 4 * np.sqrt(np.outer(epsilon, epsilon)) * ((sigma[:, None] + sigma) / 2) ** 6
    if not np.allclose(b, mixed, rtol=1e-8, atol=0):
        raise ChemistryError("the force field gives pairs of types Lennard-Jones parameters of their own (NBFixPair), "
                             "which is not supported: only Lorentz-Berthelot mixing is")
    return sigma.tolist(), epsilon.tolist()


def _fold_14(nonbonded, pairs) -> None:
    exceptions = {}
    for k in range(nonbonded.getNumExceptions()):
        i, j, charge, _, _ = nonbonded.getExceptionParameters(k)
        exceptions[min(i, j), max(i, j)] = k, charge
    for n in range(pairs.getNumBonds()):
        i, j, (sigma, epsilon) = pairs.getBondParameters(n)
        k, charge = exceptions[min(i, j), max(i, j)]
        nonbonded.setExceptionParameters(k, i, j, charge, sigma, epsilon)


def _exclude(force, pairs: np.ndarray) -> None:
    for i, j in pairs.tolist():
        force.addException(i, j, 0.0, 0.1, 0.0, True)


def check_box(box: np.ndarray, cutoff_nm: float) -> None:
    """Refuse a box in which an atom would see two images of another."""
    narrowest = float(min(np.abs(np.diag(box))))
    if narrowest < 2 * cutoff_nm:
        raise InputError(f"the periodic box is {narrowest:.3f} nm across at its narrowest; the force field's cutoff of "
                         f"{cutoff_nm:g} nm needs at least {2 * cutoff_nm:g} nm: use a larger system")
