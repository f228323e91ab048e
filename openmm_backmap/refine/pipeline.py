"""Refinement: exact beads, exact bonds, no overlaps, and, if asked, the statistics of the temperature.

Raw atoms overlap, and forces of 1e10 kJ/mol/nm and more stop a minimiser at its first step without a word. So a soft
potential comes first, then the true one, both with flexible bonds; what follows is Langevin dynamics with the beads
restrained, since a minimum is not a sample. Bonds are made exact at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np

from openmm_backmap.chemistry.target import Target
from openmm_backmap.energy.restraints import move_bead_restraints
from openmm_backmap.errors import InputError, RefinementError
from openmm_backmap.geometry.checks import (
    close_contacts,
    inverted_centres,
    mapping_rmsd,
    pierced_rings,
    ring_planarity,
    rings,
)
from openmm_backmap.refine import blocks
from openmm_backmap.refine.projection import bond_error, project, satisfy_bonds, thermal_velocities
from openmm_backmap.refine.report import Refined, RefineReport, RefineSettings
from openmm_backmap.refine.systems import (
    HAND_GROUP,
    NONBONDED_GROUP,
    RESTRAINT_GROUP,
    SOFT_GROUP,
    SOLVENT_GROUP,
    constrained_bonds,
    energy_of,
    energy_system,
    force_norms,
    positions_of,
    refinement_system,
)

# A melt at 568 K has forces up to 4500 kJ/mol/nm; what exceeds this is an overlap.
LARGEST_FORCE = 2e4
# Few steps are better before dynamics, which then have less to undo, as long as dynamics can follow the forces.
_READY_FORCE = 1.5e4
FRICTION_PER_PS = 10.0
_ALL = 2**32 - 1
_TRUE = _ALL & ~(1 << SOFT_GROUP)  # restraints and hands included
# A solvent without the charges that it screens would pull these together.
_SOFT = _ALL & ~(1 << NONBONDED_GROUP | 1 << SOLVENT_GROUP)
_SOFT_STEPS, _TRUE_STEPS, _MORE_STEPS, _MOST_ROUNDS = 30, 10, 200, 10
_BOND_NM, _STILL_NM = 1e-4, 1e-5
_CHUNK_PS = 0.1
_OTHER = "try another seed or draw more samples"

Progress = Callable[[str, int, int], None]


def refine(target: Target, positions: np.ndarray, beads: np.ndarray, box: np.ndarray | None,
           settings: RefineSettings = RefineSettings(), platform=None, progress: Progress | None = None) -> Refined:
    """Refine one structure; :class:`Refiner` serves many of one target. Parameters and errors as there."""
    return Refiner(target, box, settings, platform).refine(positions, beads, box, progress)


class Refiner:
    """Refines structures of one target; systems and contexts are built once, on first use.

    Parameters
    ----------
    target : Target
    box : ndarray, shape (3, 3), nm, or None
        Box of the first structure; later ones may differ in size but not in being periodic.
    settings : RefineSettings
    platform : str or None
        Name of an OpenMM platform; None takes the fastest.
    """

    def __init__(self, target: Target, box: np.ndarray | None, settings: RefineSettings = RefineSettings(),
                 platform: str | None = None):
        self.target, self.settings, self.platform = target, settings, platform
        self.temperature_K = settings.temperature_K or target.chemistry.temperature_K
        self._periodic = box is not None
        self._context = self._restraints = None

    def refine(self, positions: np.ndarray, beads: np.ndarray, box: np.ndarray | None,
               progress: Progress | None = None) -> Refined:
        """Refine one structure.

        Parameters
        ----------
        positions : ndarray, shape (n_atoms, 3), nm
            Whole molecules.
        beads : ndarray, shape (n_beads, 3), nm
            Whole molecules, in the same periodic image as their atoms.
        box : ndarray, shape (3, 3), nm, or None
        progress : callable of (stage, done, total), optional

        Raises
        ------
        InputError
            Where arrays do not fit the target or are not finite.
        RefinementError
            Where the result is not fit to start MD from (modes "minimize" and "equilibrate", strict settings).
        """
        beads = np.asarray(beads, dtype=float)
        positions = self._checked(np.asarray(positions, dtype=float), beads, box)
        progress = progress or (lambda *_: None)
        if self.settings.mode == "none" and self.target.n_atoms > blocks.LARGE_ATOMS:
            return blocks.refine_in_blocks(self.target, positions, beads, box, progress)
        return _Run(self, beads, box, progress).refine(positions)

    def _checked(self, positions, beads, box) -> np.ndarray:
        for name, array, n in (("atom", positions, self.target.n_atoms), ("bead", beads, self.target.n_beads)):
            if array.shape != (n, 3):
                raise InputError(f"{name} positions have shape {array.shape}; the target needs {(n, 3)}")
            bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
            if len(bad):
                place = f", {where(self.target, bad[0])}" if name == "atom" else ""
                raise InputError(f"positions of {len(bad)} {name}s are not finite (first: {name} {bad[0] + 1}{place}); "
                                 f"{_OTHER}")
        if (box is not None) != self._periodic:
            raise InputError("a periodic and a non-periodic structure need a refiner each")
        return positions

    def context(self, beads: np.ndarray, box: np.ndarray | None):
        """Context of the refinement system with the beads restrained to ``beads``; forces are numbered by group. Where
        nothing is to be moved, of the force field alone."""
        if self._context is None:
            if self.settings.mode == "none":
                system = energy_system(self.target, box)
            else:
                system, self._restraints = refinement_system(self.target, box, beads, self.settings.restraint_k,
                                                             self.settings.timestep_ps)
            self.constraints = constrained_bonds(self.target, system)
            self._context = self._new_context(system)
        if box is not None:
            self._context.setPeriodicBoxVectors(*box)
        if self._restraints is not None:
            move_bead_restraints(self._context, self._restraints, beads, box)
        return self._context

    @property
    def openmm_seed(self) -> int:
        """OpenMM takes 0 for "choose one", which no two runs would share."""
        return 1 + self.settings.seed % (2**31 - 2)

    def _new_context(self, system):
        from openmm import Context, LangevinMiddleIntegrator

        from openmm_backmap.energy.platforms import best_platform

        integrator = LangevinMiddleIntegrator(self.temperature_K, FRICTION_PER_PS, self.settings.timestep_ps)
        integrator.setRandomNumberSeed(self.openmm_seed)
        platform = best_platform(self.platform)
        properties = {}
        if self.settings.reproducible:
            wanted = {"DeterministicForces": "true", "Threads": "1"}
            properties = {name: value for name, value in wanted.items() if name in platform.getPropertyNames()}
        return Context(system, integrator, platform, properties)


class _Run:
    """The stages that one structure passes through."""

    def __init__(self, refiner: Refiner, beads: np.ndarray, box: np.ndarray | None, progress: Progress):
        self.refiner, self.beads, self.box, self.progress = refiner, beads, box, progress
        self.target, self.settings = refiner.target, refiner.settings
        self.seconds: dict[str, float] = {}
        self.faults: dict[str, str] = {}

    def refine(self, given: np.ndarray) -> Refined:
        with self._stage("prepare"):
            self.context = self.refiner.context(self.beads, self.box)
        with self._stage("project"):
            start, projected_rmsd = self._exact(given)
            energies, force, defects = found = self._found(start)
        self.reached = start, None
        try:
            self._advance(start, force, defects)
        except RefinementError as error:
            self._object("failure", error)
        positions, velocities = self.reached
        with self._stage("check"):
            # Where nothing was moved, nothing is asked again.
            energies_after, force_after, after = found if positions is start else self._found(positions)
            if self.settings.mode != "none":
                self._judge(defects, after, force_after)
            counts = [tuple(map(len, pair)) for pair in zip(defects, after)]
            report = RefineReport(
                self.settings.mode, energies, energies_after, float(force.max()), float(force_after.max()),
                self._bead_rmsd(given), projected_rmsd, self._bead_rmsd(positions), self._bond_error(positions),
                float(np.linalg.norm(positions - given, axis=1).max()), *counts, self.seconds,
                tuple(self.faults.values()))
        return Refined(positions, velocities, self.box, report)

    def _advance(self, start: np.ndarray, force: np.ndarray, defects) -> None:
        """The stages of the mode; ``reached`` holds positions and velocities as far as they came."""
        if self.settings.mode == "none":
            return
        relaxed = self._relaxed(start, force)
        self.reached = relaxed, None
        if self.settings.mode == "minimize":
            self.reached = self._exact_minimum(relaxed), None
        else:
            # What is wrong with a minimum does not go away in dynamics, and has a name here: there it is only NaN.
            self._judge(defects, self._defects(relaxed), self._forces(relaxed))
            self.reached = self._equilibrated(relaxed)

    def _object(self, what: str, error: RefinementError) -> None:
        """Refuse, or keep the reason for the report."""
        if self.settings.strict:
            raise error
        self.faults[what] = str(error)

    @contextmanager
    def _stage(self, name: str):
        self.progress(name, 0, 1)
        begun = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
        self.progress(name, 1, 1)

    def _exact(self, given: np.ndarray) -> tuple[np.ndarray, float]:
        """Beads and bonds exact together; beads alone where bonds are too far off for that."""
        exact = satisfy_bonds(self.target, given, self.beads, *self.refiner.constraints)
        if not (self._bond_error(exact) < _BOND_NM and self._bead_rmsd(exact) < _BOND_NM):
            exact = project(self.target, given, self.beads)
        return exact, self._bead_rmsd(exact)

    def _relaxed(self, start: np.ndarray, force: np.ndarray) -> np.ndarray:
        """Positions without overlaps, bonds flexible."""
        context = self.context
        with self._stage("soften"):
            context.setPositions(start)
            energy_before = energy_of(context, _TRUE)
            self._minimize(context, _SOFT, _SOFT_STEPS)
            if inverted_centres(self.target, positions_of(context)).any():
                self._minimize(context, _SOFT, _MORE_STEPS)
        with self._stage("minimize"):
            energy = self._minimize(context, _TRUE, _TRUE_STEPS)
            for k in range(_MOST_ROUNDS):
                thorough = self.settings.mode == "minimize" and k == 0
                if not thorough and force_norms(context, _TRUE).max() < _READY_FORCE:
                    break
                energy = self._minimize(context, _TRUE, _MORE_STEPS)
            relaxed = positions_of(context)
            self._check_minimum(start, relaxed, force, energy - energy_before)
        return relaxed

    def _exact_minimum(self, relaxed: np.ndarray) -> np.ndarray:
        """Beads and bonds exact, and the forces still those of a minimum: each step disturbs the other a little."""
        with self._stage("minimize"):
            for _ in range(_MOST_ROUNDS):
                exact = self._with_bonds(relaxed, self.beads)
                if self._forces(exact).max() < _READY_FORCE:
                    break
                self._minimize(self.context, _TRUE, _MORE_STEPS)
                relaxed = positions_of(self.context)
        return exact

    def _with_bonds(self, positions: np.ndarray, beads: np.ndarray | None) -> np.ndarray:
        """The nearest positions with exact bonds, and exact beads where they are given."""
        exact = satisfy_bonds(self.target, positions, beads, *self.refiner.constraints)
        error = self._bond_error(exact)
        if error > _BOND_NM:
            worst = self._worst_bond(exact)
            self._object("bonds", RefinementError(
                f"bond lengths and beads cannot both be satisfied: {worst} is off by {error:.4f} nm; the beads may not "
                f"fit this chemistry, else {_OTHER}"))
            return positions if beads is None else project(self.target, positions, beads)
        return exact

    def _minimize(self, context, groups: int, steps: int) -> float:
        """Minimise with the forces of ``groups``; returns the energy reached, kJ/mol."""
        from openmm import LocalEnergyMinimizer, OpenMMException

        context.getIntegrator().setIntegrationForceGroups(groups)
        try:
            LocalEnergyMinimizer.minimize(context, 10.0, steps)
            energy = energy_of(context, groups)
        except OpenMMException as error:
            raise RefinementError(f"minimisation failed ({' '.join(str(error).split())}); {_OTHER}") from None
        if not np.isfinite(energy):
            raise RefinementError(f"minimisation failed: the energy is {energy}: atoms lie on top of each other; "
                                  f"{_OTHER}")
        return energy

    def _check_minimum(self, start, relaxed, force: np.ndarray, gain: float) -> None:
        """A minimiser that gives up does not say so: look at what it did."""
        left = force_norms(self.context, _TRUE)
        idle = np.abs(relaxed - start).max() < _STILL_NM or gain >= 0
        if idle and force.max() > LARGEST_FORCE:
            self._object("minimum", RefinementError(
                f"minimisation did nothing about a force of {force.max():.3g} kJ/mol/nm at "
                f"{where(self.target, int(np.argmax(force)))}; {_OTHER}"))
        if not left.max() < LARGEST_FORCE:
            self._object("minimum", RefinementError(
                f"minimisation left a force of {left.max():.3g} kJ/mol/nm at "
                f"{where(self.target, int(np.argmax(left)))}; {_OTHER}"))

    def _equilibrated(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from openmm import OpenMMException

        context, settings = self.context, self.settings
        total = max(1, round(settings.equilibrate_ps / settings.timestep_ps))
        chunk = max(1, round(_CHUNK_PS / settings.timestep_ps))
        with self._stage("equilibrate"):
            try:
                context.getIntegrator().setIntegrationForceGroups(_TRUE)
                context.setPositions(positions)
                context.setVelocitiesToTemperature(self.refiner.temperature_K, self.refiner.openmm_seed)
                for done in range(0, total, chunk):
                    self.progress("equilibrate", done, total)
                    context.getIntegrator().step(min(chunk, total - done))
            except OpenMMException as error:
                raise self._dynamics_failed(positions, str(error).split(".")[0]) from None
        found = positions_of(context)
        if not np.isfinite(found).all():
            raise self._dynamics_failed(positions, "positions are not finite")
        found = self._with_bonds(found, None)
        pairs, _ = self.refiner.constraints
        rng = np.random.default_rng(self.refiner.openmm_seed)
        return found, thermal_velocities(self.target, found, pairs, self.refiner.temperature_K, rng)

    def _dynamics_failed(self, start: np.ndarray, why: str) -> RefinementError:
        bent, hint = ring_planarity(self.target, start), ""
        if len(bent):
            worst = int(np.argmax(bent))
            hint = (f"; the most bent ring, of {where(self.target, rings(self.target)[worst][0])}, was "
                    f"{bent[worst]:.3f} nm out of plane")
        return RefinementError(f"dynamics failed ({why}){hint}; use a shorter timestep_ps than "
                               f"{self.settings.timestep_ps:g}, else {_OTHER}")

    def _found(self, positions: np.ndarray):
        """Energies by force, forces and defects."""
        return self._energies(positions), self._forces(positions), self._defects(positions)

    def _defects(self, positions: np.ndarray):
        return (np.flatnonzero(inverted_centres(self.target, positions)),
                pierced_rings(self.target, positions, self.box), close_contacts(self.target, positions, self.box))

    def _judge(self, before, after, force: np.ndarray) -> None:
        """Refuse a result with defects; say whether the generator or the refinement made them."""
        inverted, pierced, _ = after
        if len(inverted):
            origin = _origin(np.isin(inverted[0], before[0]))
            self._object("stereocentres", RefinementError(
                f"{len(inverted)} stereocentres are inverted, {origin} (first: "
                f"{where(self.target, self.target.stereo[inverted[0], 0])}); {_OTHER}"))
        if len(pierced):
            # The bond in a ring that was pierced before may have slipped to the next one.
            already = np.isin(pierced[:, 0], before[1][:, 0])
            ring, bond = pierced[np.argmax(already)]
            origin = _origin(already.any())
            self._object("rings", RefinementError(
                f"{len(pierced)} rings are pierced by a bond, {origin} (first: the ring of "
                f"{where(self.target, rings(self.target)[ring][0])} by the bond at "
                f"{where(self.target, self.target.bonds[bond, 0])}); no refinement undoes that: {_OTHER}"))
        if not force.max() < LARGEST_FORCE:
            self._object("force", RefinementError(
                f"a force of {force.max():.3g} kJ/mol/nm is left at {where(self.target, int(np.argmax(force)))} "
                f"(at most {LARGEST_FORCE:.0g} is sound); {_OTHER}"))

    def _energies(self, positions: np.ndarray) -> dict[str, float]:
        """Energy by force, kJ/mol, without the restraints."""
        self.context.setPositions(positions)
        energies: dict[str, float] = {}
        for force in self.context.getSystem().getForces():
            if force.getForceGroup() not in (RESTRAINT_GROUP, SOFT_GROUP, HAND_GROUP):
                name, energy = force.getName(), energy_of(self.context, 1 << force.getForceGroup())
                energies[name] = energies.get(name, 0.0) + energy
        return energies

    def _forces(self, positions: np.ndarray) -> np.ndarray:
        self.context.setPositions(positions)
        return force_norms(self.context, _TRUE & ~(1 << RESTRAINT_GROUP | 1 << HAND_GROUP))

    def _bead_rmsd(self, positions: np.ndarray) -> float:
        return float(mapping_rmsd(self.target, positions, self.beads, self.box))

    def _bond_error(self, positions: np.ndarray) -> float:
        return bond_error(positions, *self.refiner.constraints)

    def _worst_bond(self, positions: np.ndarray) -> str:
        pairs, lengths = self.refiner.constraints
        off = np.abs(np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1) - lengths)
        i, j = pairs[np.argmax(off)]
        return f"the bond to {self.target.atom_names[j]} of {where(self.target, i)}"


def where(target: Target, atom: int) -> str:
    """Words for an atom's place: name, residue and chain."""
    return f"atom {target.atom_names[atom]} of {residue_label(target, target.residue_of_atom[atom])}"


def residue_label(target: Target, residue: int) -> str:
    """Words for a residue (numbered within its chain) and its chain, from 1."""
    chain = target.chain_of_residue[residue]
    number = residue - np.searchsorted(target.chain_of_residue, chain) + 1
    return f"residue {number} ({target.residue_names[residue]}) of chain {chain + 1}"


def _origin(already: bool) -> str:
    return "already so in the generator's output" if already else "made so by the refinement"
