"""From a coarse-grained model to an ``openmm.System`` with tabulated functions, for any number of molecules."""

from __future__ import annotations

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.chemistry.system import check_box
from openmm_backmap.coarse.distributions import PERIODIC, edges_of
from openmm_backmap.coarse.graph import BONDED, PAIR, bead_masses, bead_pairs, bonded_terms, pair_names
from openmm_backmap.coarse.model import CGModel, Term
from openmm_backmap.errors import ChemistryError, InputError
from openmm_backmap.units import GAS_CONSTANT

# Of single terms: modes of several are faster, and tables are stiffer at their walls. Measured on cumene, whose bonds
# are stiff: with 14 steps their spread is 7 % too wide (of corrected tables much more), with 25 it is 2 %.
_STEPS_A_PERIOD = 25
_SHORTEST_PS, _LONGEST_PS = 0.0005, 0.010
# A torsion has no direction, and no finite force, where three of its beads lie on a line: it fades out there, as in the
# combined potentials of M. Bulacu et al., J. Chem. Theory Comput. 9, 3282 (2013).
_STRAIGHT_SINE = 0.35
_TORSION = (f"potential(dihedral(p1, p2, p3, p4))*a^2*(3 - 2*a)*b^2*(3 - 2*b); a = min(1, sin(angle(p1, p2, p3))/"
            f"{_STRAIGHT_SINE}); b = min(1, sin(angle(p2, p3, p4))/{_STRAIGHT_SINE})")
_ENERGIES = {"bond": "potential(distance(p1, p2))", "angle": "potential(angle(p1, p2, p3))", "dihedral": _TORSION,
             "improper": _TORSION}
# Between the tables of two pairs, so that the spline of one does not feel the other: its memory is 0.27 a point.
_GAP_POINTS = 30


def create_cg_system(model: CGModel, target: Target, box: np.ndarray):
    """The ``openmm.System`` of beads, in the order of ``target``.

    Parameters
    ----------
    model : CGModel
    target : Target
        Of the model's chemistry; any molecules.
    box : ndarray, shape (3, 3), nm

    Raises
    ------
    ChemistryError
        The molecules have a bond that the model says nothing about.
    InputError
        Half the box is smaller than the cutoff.
    """
    from openmm import CMMotionRemover, System, Vec3

    if box is None:
        raise InputError("a CG model runs in a periodic box, and there is none")
    check_box(box, model.cutoff_nm)
    system = System()
    for mass in bead_masses(target).tolist():
        system.addParticle(mass)
    system.setDefaultPeriodicBoxVectors(*(Vec3(*map(float, row)) for row in box))
    members = bonded_terms(target)
    _check_bonds(model, members)
    for constraint in model.constraints:
        for i, j in members.get(constraint.name, np.empty((0, 2), dtype=int)).tolist():
            system.addConstraint(i, j, constraint.length_nm)
    for term in model.terms:
        if term.name in members:
            system.addForce(_bonded_force(term, members[term.name]))
    system.addForce(_pair_force(model, target))
    system.addForce(CMMotionRemover())
    return system


def _check_bonds(model: CGModel, members) -> None:
    known = {value.name for value in (*model.terms, *model.constraints)}
    lacking = [name for name in members if name.startswith("bond") and name not in known]
    if lacking:
        raise ChemistryError(f"the CG model has neither a potential nor a length for {', '.join(lacking)}: its "
                             "molecules would fall apart")


def _bonded_force(term: Term, members: np.ndarray):
    from openmm import CustomCompoundBondForce

    # The forces for bonds, angles and torsions alone take no tabulated functions; this one does.
    force = CustomCompoundBondForce(BONDED[term.kind], _ENERGIES[term.kind])
    force.setName(term.name)
    force.addTabulatedFunction("potential", spline_table(term))
    # Files of others may hold molecules that are broken across the box.
    force.setUsesPeriodicBoundaryConditions(True)
    for row in members.tolist():
        force.addBond(row)
    return force


def spline_table(term: Term):
    """The potential of a bonded term as an ``openmm.Continuous1DFunction`` of nm or radians."""
    from openmm import Continuous1DFunction

    if term.kind in PERIODIC:
        return Continuous1DFunction([*term.energy.tolist(), float(term.energy[0])], -np.pi, np.pi, True)
    x = term.x if term.kind == "bond" else np.radians(term.x)
    return Continuous1DFunction(term.energy.tolist(), float(x[0]), float(x[-1]))


def _pair_force(model: CGModel, target: Target):
    """All pairs by one function: the tables of the pairs of types lie one behind the other, ``A-B`` and ``B-A`` as two.

    One evaluation a pair, whatever the number of types.
    """
    import openmm as mm

    pairs = bead_pairs(target, model.excluded_bonds)
    tables = {term.name: term for term in model.of_kind(PAIR)}
    names = pair_names(pairs)
    step = min((term.x[1] - term.x[0] for term in tables.values()), default=model.cutoff_nm)
    r = step * np.arange(int(np.ceil(model.cutoff_nm / step - 1e-6)) + 1)
    rows = [pair_energy(tables[name], r) if name in tables else np.zeros(len(r)) for name in names]
    values = np.concatenate([np.r_[rows[k], np.zeros(_GAP_POINTS)] for k in pairs.label.ravel()])
    width, n = float(step * (len(r) + _GAP_POINTS)), len(pairs.label)
    force = mm.CustomNonbondedForce("potential(r)" if n == 1 else f"potential(r + {width!r}*({n}*type1 + type2))")
    force.setName("pairs " + ", ".join(name.removeprefix(f"{PAIR} ") for name in names))
    force.addTabulatedFunction("potential", mm.Continuous1DFunction(values.tolist(), 0.0, step * (len(values) - 1)))
    if n > 1:
        force.addPerParticleParameter("type")
    for kind in pairs.types.tolist():
        force.addParticle([kind] if n > 1 else [])
    for i, j in zip(*np.divmod(pairs.bonded, target.n_beads), strict=True):
        if i < j:
            force.addExclusion(int(i), int(j))
    force.setNonbondedMethod(mm.CustomNonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(model.cutoff_nm)
    return force


def pair_energy(term: Term, r: np.ndarray) -> np.ndarray:
    """Energies (n,), kJ/mol, of a pair at distances ``r`` (n,), nm: 0 beyond its table, and straight below it."""
    from scipy.interpolate import CubicSpline

    spline = CubicSpline(term.x, term.energy, bc_type="natural")
    low = spline(term.x[0]) + spline(term.x[0], 1) * (r - term.x[0])
    return np.where(r < term.x[0], low, np.where(r > term.x[-1], 0.0, spline(np.clip(r, term.x[0], term.x[-1]))))


def time_step(model: CGModel, target: Target) -> float:
    """Time step (ps) that suits a model: 1/25 of the shortest period of its bonds, angles and torsions.

    The stiffness of a potential is its thermal mean, <U'^2> / kT over exp(-U/kT) J. A bond vibrates with the reduced
    mass of the lightest of its beads; of an angle and a torsion the inverse mass is at most 6 / (m b^2), with the
    lightest bead m and the shortest bond b. The result lies between 0.5 and 10 fs.
    """
    kT = GAS_CONSTANT * model.temperature_K
    mass = bead_masses(target).min()
    shortest = min([*(c.length_nm for c in model.constraints), *(_mean(term, kT) for term in model.of_kind("bond"))],
                   default=1.0)
    rates = [_stiffness(term, kT) * (2 / mass if term.kind == "bond" else 6 / (mass * shortest ** 2))
             for term in model.terms if term.kind != PAIR]
    if not max(rates, default=0.0) > 0:
        return _LONGEST_PS
    period = 2 * np.pi / np.sqrt(max(rates))
    return float(np.clip(period / _STEPS_A_PERIOD, _SHORTEST_PS, _LONGEST_PS))


def _weights(term: Term, kT: float) -> np.ndarray:
    edges = edges_of(term.kind, term.x)
    free = {"bond": lambda: np.diff(edges ** 3), "angle": lambda: -np.diff(np.cos(np.radians(edges)))}.get(
        term.kind, lambda: np.ones(len(term.x)))()
    found = free * np.exp(-(term.energy - term.energy.min()) / kT)
    return found / found.sum()


def _mean(term: Term, kT: float) -> float:
    return float((_weights(term, kT) * term.x).sum())


def _stiffness(term: Term, kT: float) -> float:
    """kJ/mol/nm2 of a bond, kJ/mol/rad2 of the others."""
    x = term.x if term.kind == "bond" else np.radians(term.x)
    return float((_weights(term, kT) * np.gradient(term.energy, x) ** 2).sum() / kT)
