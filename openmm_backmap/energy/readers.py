"""From OpenMM forces to the tensors that the torch energies need."""

from __future__ import annotations

import math

import numpy as np
import torch

from openmm_backmap.energy.kinds import global_parameters, harmonic_form, kind_of_force, torsion_parameters
from openmm_backmap.energy.nonbonded import Nonbonded, NonbondedSettings, dispersion_tail
from openmm_backmap.energy.terms import BondedTerms
from openmm_backmap.errors import UnsupportedForceError


def read_force(force) -> BondedTerms | Nonbonded:
    """The torch counterpart of an OpenMM force, in float64.

    Raises
    ------
    UnsupportedForceError
        Names the class, and for custom forces the energy expression.
    """
    kind = kind_of_force(force)
    if kind is None:
        expression = f" with energy {force.getEnergyFunction()!r}" if hasattr(force, "getEnergyFunction") else ""
        raise UnsupportedForceError(
            f"{type(force).__name__}{expression} has no torch counterpart; supported: HarmonicBondForce, "
            "HarmonicAngleForce, PeriodicTorsionForce, RBTorsionForce, CustomTorsionForce with a harmonic energy, "
            "NonbondedForce; take the energy from OpenMM, or from a System without this force")
    if kind == "nonbonded":
        return _nonbonded(force)
    atoms, parameters = _BONDED[kind](force)
    width = {"bond": (2, 2), "angle": (3, 2), "torsion": (4, 3), "rb_torsion": (4, 6), "improper": (4, 3)}[kind]
    return BondedTerms(
        kind, torch.tensor(atoms, dtype=torch.long).reshape(-1, width[0]),
        torch.tensor(parameters, dtype=torch.float64).reshape(-1, width[1]), force.usesPeriodicBoundaryConditions())


def _plain(quantity) -> float:
    """A number in OpenMM's own units (nm, ps, kJ/mol, rad, e)."""
    from openmm import unit

    return quantity.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(quantity) else float(quantity)


def _rows(n: int, get, n_atoms: int) -> tuple[list, list]:
    rows = [get(k) for k in range(n)]
    return [row[:n_atoms] for row in rows], [[_plain(value) for value in row[n_atoms:]] for row in rows]


def _bonds(force):
    return _rows(force.getNumBonds(), force.getBondParameters, 2)


def _angles(force):
    return _rows(force.getNumAngles(), force.getAngleParameters, 3)


def _torsions(force):
    return _rows(force.getNumTorsions(), force.getTorsionParameters, 4)


def _custom_torsions(force):
    form, constants, names = harmonic_form(force), global_parameters(force), torsion_parameters(force)
    atoms, parameters = [], []
    for k in range(force.getNumTorsions()):
        *row, values = force.getTorsionParameters(k)
        named = {**constants, **dict(zip(names, values, strict=True)), None: 0.0}
        strength = 2 * form.factor * (1.0 if form.k is None else named[form.k])
        atoms.append(row)
        parameters.append([strength, named[form.theta0], float(form.wrapped)])
    return atoms, parameters


_BONDED = {"bond": _bonds, "angle": _angles, "torsion": _torsions, "rb_torsion": _torsions,
           "improper": _custom_torsions}


def _nonbonded(force) -> Nonbonded:
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise UnsupportedForceError("NonbondedForce with parameter offsets has no torch counterpart; "
                                    "write the parameters in force into particles and exceptions first")
    n = force.getNumParticles()
    _, particles = _rows(n, force.getParticleParameters, 0)
    pairs, parameters = _rows(force.getNumExceptions(), force.getExceptionParameters, 2)
    charges, sigmas, epsilons = torch.tensor(particles, dtype=torch.float64).reshape(-1, 3).unbind(-1)
    pairs = np.sort(np.array(pairs, dtype=np.int64).reshape(-1, 2), axis=1)
    return Nonbonded(
        charges=charges, sigmas=sigmas, epsilons=epsilons, exceptions=torch.as_tensor(pairs),
        exception_parameters=torch.tensor(parameters, dtype=torch.float64).reshape(-1, 3),
        exception_keys=torch.as_tensor(np.sort(pairs[:, 0] * n + pairs[:, 1])),
        settings=_settings(force, sigmas, epsilons))


def _settings(force, sigmas, epsilons) -> NonbondedSettings:
    method = force.getNonbondedMethod()
    kinds = {force.NoCutoff: "bare", force.CutoffNonPeriodic: "reaction-field", force.CutoffPeriodic: "reaction-field",
             force.Ewald: "ewald", force.PME: "ewald"}
    if method not in kinds:
        raise UnsupportedForceError("NonbondedForce with the method LJPME has no torch counterpart; use PME")
    cutoff = None if method == force.NoCutoff else _plain(force.getCutoffDistance())
    start = _plain(force.getSwitchingDistance()) if cutoff and force.getUseSwitchingFunction() else None
    periodic = force.usesPeriodicBoundaryConditions()
    alpha = 0.0
    if kinds[method] == "ewald":
        alpha = _plain(force.getPMEParameters()[0]) or math.sqrt(-math.log(2 * force.getEwaldErrorTolerance())) / cutoff
    tail = periodic and force.getUseDispersionCorrection()
    return NonbondedSettings(
        electrostatics=kinds[method], cutoff_nm=cutoff, switch_nm=start, periodic=periodic,
        periodic_exceptions=periodic and force.getExceptionsUsePeriodicBoundaryConditions(),
        dielectric=force.getReactionFieldDielectric(), ewald_alpha=alpha,
        tail_kJ_nm3=dispersion_tail(sigmas.numpy(), epsilons.numpy(), cutoff, start) if tail else 0.0)
