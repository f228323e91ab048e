"""An ``openmm.System`` as a GROMACS topology, term by term.

ParmEd's writer knows no [ exclusions ] between ordinary atoms and turns every proper torsion into a 1-4 pair, which
would change the energy of force fields that exclude whole rings; so the few sections that are needed are written here.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from openmm_backmap.errors import InputError

_SECTIONS = {
    "bonds": "ai aj funct length k", "constraints": "ai aj funct length", "pairs": "ai aj funct sigma epsilon",
    "angles": "ai aj ak funct theta k", "dihedrals": "ai aj ak al funct parameters", "exclusions": "ai aj ..."}
_IGNORED = ("CMMotionRemover", "MonteCarloBarostat", "MonteCarloAnisotropicBarostat", "MonteCarloMembraneBarostat",
            "AndersenThermostat")


def topology_text(topology, system, title: str) -> str:
    """The text of a stand-alone .top file.

    Bonds of the system are written as [ bonds ], its constraints as [ constraints ] of the same length; harmonic
    torsions as impropers (type 2); nonbonded exceptions by nrexcl, [ exclusions ] and, where their parameters differ
    from the mixing rule, [ pairs ]. Molecules with the same terms share one [ moleculetype ].

    Raises
    ------
    InputError
        The system holds a force, or a form of it, that the format has no word for.
    """
    terms = _Terms(topology, system)
    bodies: dict[str, str] = {}
    molecules: list[list] = []
    for body in terms.bodies():
        name = bodies.setdefault(body, f"MOL{len(bodies) + 1}")
        if molecules and molecules[-1][0] == name:
            molecules[-1][1] += 1
        else:
            molecules.append([name, 1])
    # Mixing rule 2: arithmetic sigma, geometric epsilon, as OpenMM.
    lines = [f"; {title}", "[ defaults ]", "; nbfunc comb-rule gen-pairs fudgeLJ fudgeQQ",
             f"1 2 no 1.0 {terms.fudge_qq:.10g}", "", "[ atomtypes ]", "; name at.num mass charge ptype sigma epsilon",
             *terms.type_lines, ""]
    for body, name in bodies.items():
        lines += ["[ moleculetype ]", "; name nrexcl", f"{name} {terms.nrexcl}", "", body]
    lines += ["[ system ]", title, "", "[ molecules ]", *(f"{name} {count}" for name, count in molecules), ""]
    return "\n".join(lines)


class _Terms:
    """Collects the lines of every section, molecule by molecule, with atoms numbered within their molecule."""

    def __init__(self, topology, system):
        self.atoms, self.system = list(topology.atoms()), system
        if len(self.atoms) != system.getNumParticles():
            raise InputError(f"the topology has {len(self.atoms)} atoms, the system {system.getNumParticles()}")
        self.lines: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.bonded: list[tuple[int, int]] = []
        self._number_molecules(topology)
        self.fudge_qq = 1.0
        readers = {"HarmonicBondForce": self._bonds, "HarmonicAngleForce": self._angles, "RBTorsionForce": self._rb,
                   "PeriodicTorsionForce": self._torsions, "CustomTorsionForce": self._harmonic_torsions}
        nonbonded = None
        self._constraints()
        for force in system.getForces():
            kind = type(force).__name__
            if kind == "NonbondedForce" and nonbonded is None:
                nonbonded = force
            elif kind in readers:
                readers[kind](force)
            elif kind not in _IGNORED:
                raise InputError(f"a {kind} ({force.getName()}) cannot be written to a GROMACS topology: write the "
                                 "system as OpenMM XML instead")
        if nonbonded is None:
            raise InputError("the system has no NonbondedForce: there is nothing to write as GROMACS atom types")
        self._nonbonded(nonbonded)

    def _number_molecules(self, topology) -> None:
        n = len(self.atoms)
        pairs = [(bond[0].index, bond[1].index) for bond in topology.bonds()]
        i, j = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        label = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]
        if (np.diff(label) != 0).sum() + 1 != label.max() + 1:
            raise InputError("the atoms of a molecule do not follow each other: GROMACS cannot keep their order")
        changes = np.cumsum(np.diff(label, prepend=label[0]) != 0)
        self.molecule = changes
        self.first = np.searchsorted(changes, np.arange(changes[-1] + 1))

    def _add(self, section: str, atoms, *values) -> None:
        molecule = int(self.molecule[atoms[0]])
        if any(self.molecule[a] != molecule for a in atoms):
            raise InputError(f"atoms {', '.join(str(a + 1) for a in atoms)} of a term in [ {section} ] lie in several "
                             "molecules: GROMACS has no word for this")
        first = self.first[molecule]
        text = [str(a - first + 1) for a in atoms] + [v if isinstance(v, str) else f"{v:.10g}" for v in values]
        self.lines[molecule][section].append(" ".join(text))

    def _bonds(self, force) -> None:
        from openmm import unit

        for k in range(force.getNumBonds()):
            i, j, length, stiffness = force.getBondParameters(k)
            self.bonded.append((i, j))
            self._add("bonds", (i, j), "1", length.value_in_unit(unit.nanometer),
                      stiffness.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2))

    def _constraints(self) -> None:
        from openmm import HarmonicBondForce, unit

        # With flexible constraints a pair has both a bond and a constraint; GROMACS makes its own from the bonds.
        bonds = {frozenset(f.getBondParameters(k)[:2]) for f in self.system.getForces()
                 if isinstance(f, HarmonicBondForce) for k in range(f.getNumBonds())}
        for k in range(self.system.getNumConstraints()):
            i, j, length = self.system.getConstraintParameters(k)
            if frozenset((i, j)) not in bonds:
                self.bonded.append((i, j))
                self._add("constraints", (i, j), "1", length.value_in_unit(unit.nanometer))

    def _angles(self, force) -> None:
        from openmm import unit

        for n in range(force.getNumAngles()):
            i, j, k, theta, stiffness = force.getAngleParameters(n)
            self._add("angles", (i, j, k), "1", theta.value_in_unit(unit.degree),
                      stiffness.value_in_unit(unit.kilojoule_per_mole / unit.radian**2))

    def _torsions(self, force) -> None:
        from openmm import unit

        for n in range(force.getNumTorsions()):
            *atoms, periodicity, phase, barrier = force.getTorsionParameters(n)
            self._add("dihedrals", atoms, "9", phase.value_in_unit(unit.degree),
                      barrier.value_in_unit(unit.kilojoule_per_mole), str(periodicity))

    def _rb(self, force) -> None:
        from openmm import unit

        for n in range(force.getNumTorsions()):
            *atoms, c0, c1, c2, c3, c4, c5 = force.getTorsionParameters(n)
            self._add("dihedrals", atoms, "3", *(c.value_in_unit(unit.kilojoule_per_mole)
                                                 for c in (c0, c1, c2, c3, c4, c5)))

    def _harmonic_torsions(self, force) -> None:
        names = [force.getPerTorsionParameterName(k) for k in range(force.getNumPerTorsionParameters())]
        if sorted(names) != ["k", "theta0"] or not _is_harmonic(force, names):
            raise InputError(f"the torsions of {force.getName()} ({force.getEnergyFunction()}) are not harmonic in k "
                             "and theta0: they cannot be written to a GROMACS topology")
        for n in range(force.getNumTorsions()):
            *atoms, parameters = force.getTorsionParameters(n)
            value = dict(zip(names, parameters))
            self._add("dihedrals", atoms, "2", math.degrees(value["theta0"]), value["k"])

    def _nonbonded(self, force) -> None:
        from openmm import unit

        if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
            raise InputError("nonbonded parameter offsets cannot be written to a GROMACS topology")
        units = (unit.elementary_charge, unit.nanometer, unit.kilojoule_per_mole)
        particles = [tuple(v.value_in_unit(u) for v, u in zip(force.getParticleParameters(i), units))
                     for i in range(force.getNumParticles())]
        self._types(particles)
        units = (unit.elementary_charge**2, unit.nanometer, unit.kilojoule_per_mole)
        exceptions = {}
        for n in range(force.getNumExceptions()):
            i, j, *values = force.getExceptionParameters(n)
            exceptions[min(i, j), max(i, j)] = tuple(v.value_in_unit(u) for v, u in zip(values, units))
        self._exceptions(particles, exceptions)

    def _types(self, particles) -> None:
        from openmm import unit

        names: dict[tuple, str] = {}
        count: dict[str, int] = defaultdict(int)
        self.type_lines, self.atom_lines = [], defaultdict(list)
        for i, (atom, (charge, sigma, epsilon)) in enumerate(zip(self.atoms, particles)):
            symbol, number = ("X", 0) if atom.element is None else (atom.element.symbol, atom.element.atomic_number)
            mass = self.system.getParticleMass(i).value_in_unit(unit.dalton)
            key = (symbol, sigma, epsilon)
            if key not in names:
                count[symbol] += 1
                # An underscore keeps C_12 from reading like a united atom or an ion.
                names[key] = f"{symbol}_{count[symbol]}"
                self.type_lines.append(f"{names[key]} {number} {mass:.10g} 0.0 A {sigma:.10g} {epsilon:.10g}")
            molecule = int(self.molecule[i])
            first = self.atoms[self.first[molecule]].residue.index
            self.atom_lines[molecule].append(
                f"{i - self.first[molecule] + 1} {names[key]} {atom.residue.index - first + 1} {atom.residue.name} "
                f"{atom.name} {i - self.first[molecule] + 1} {charge:.10g} {mass:.10g}")

    def _exceptions(self, particles, exceptions) -> None:
        zero = {pair for pair, (q, _, epsilon) in exceptions.items() if q == 0.0 and epsilon == 0.0}
        self.nrexcl, within = self._nrexcl(zero)
        excluded: dict[int, list[int]] = defaultdict(list)
        ratios = set()
        for (i, j), (q, sigma, epsilon) in sorted(exceptions.items()):
            if (i, j) in zero:
                if (i, j) not in within:
                    excluded[i].append(j)
                continue
            (qi, si, ei), (qj, sj, ej) = particles[i], particles[j]
            if np.allclose((q, sigma, epsilon), (qi * qj, (si + sj) / 2, math.sqrt(ei * ej)), rtol=1e-6, atol=1e-9):
                continue
            if qi * qj != 0.0:
                ratios.add(round(q / (qi * qj), 6))
            elif q != 0.0:
                raise InputError(f"the exception of atoms {i + 1} and {j + 1} has a charge product although an atom "
                                 "has no charge: it cannot be written to a GROMACS topology")
            self._add("pairs", (i, j), "1", sigma, epsilon)
            excluded[i].append(j)
        if len(ratios) > 1:
            raise InputError(f"1-4 charges are scaled by several factors ({', '.join(map(str, sorted(ratios)))}): a "
                             "GROMACS topology has one fudgeQQ")
        self.fudge_qq = ratios.pop() if ratios else 1.0
        for i, partners in sorted(excluded.items()):
            self._add("exclusions", (i, *partners))

    def _nrexcl(self, zero: set[tuple[int, int]]) -> tuple[int, set[tuple[int, int]]]:
        """The largest nrexcl that excludes nothing but what the system excludes, and the pairs within it."""
        neighbours: dict[int, set[int]] = defaultdict(set)
        for i, j in self.bonded:
            neighbours[i].add(j)
            neighbours[j].add(i)
        within, front = set(), {(i, j) for i in neighbours for j in neighbours[i]}
        for n in range(1, 4):
            pairs = {(min(i, j), max(i, j)) for i, j in front if i != j}
            if not pairs <= zero:
                return n - 1, within
            within |= pairs
            front = {(i, k) for i, j in front for k in neighbours[j]}
        return 3, within

    def bodies(self):
        """The sections of every molecule, in the order of the atoms."""
        for molecule in range(len(self.first)):
            lines = ["[ atoms ]", "; nr type resnr residue atom cgnr charge mass", *self.atom_lines[molecule], ""]
            for section, header in _SECTIONS.items():
                if found := self.lines[molecule].get(section):
                    lines += [f"[ {section} ]", f"; {header}", *found, ""]
            yield "\n".join(lines)


def _is_harmonic(force, names: list[str]) -> bool:
    """Whether the energy is k/2 (theta - theta0)^2 with the difference in -180 to 180 degrees, by trying it."""
    import openmm as mm

    k, theta0 = 3.0, 0.4
    system = mm.System()
    for _ in range(4):
        system.addParticle(1.0)
    trial = mm.CustomTorsionForce(force.getEnergyFunction())
    for name in names:
        trial.addPerTorsionParameter(name)
    for n in range(force.getNumGlobalParameters()):
        trial.addGlobalParameter(force.getGlobalParameterName(n), force.getGlobalParameterDefaultValue(n))
    trial.addTorsion(0, 1, 2, 3, [{"k": k, "theta0": theta0}[name] for name in names])
    system.addForce(trial)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    for theta in (-3.0, -2.0, -0.5, 0.1, 1.0, 2.5, 3.1):
        context.setPositions(np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1], [math.cos(theta), math.sin(theta), 1]]))
        energy = context.getState(energy=True).getPotentialEnergy()._value
        difference = math.remainder(theta - theta0, 2 * math.pi)
        if not math.isclose(energy, 0.5 * k * difference**2, rel_tol=1e-4, abs_tol=1e-6):
            return False
    return True
