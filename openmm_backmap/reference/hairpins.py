"""Starting structures of a peptide that folds into hairpins: grown from its sequence, strands drawn together.

Dynamics on two cores do not fold a peptide within hours. Started from each of its hairpins and from grown structures,
replica exchange has to find their shares alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.errors import RefinementError
from openmm_backmap.reference.peptide import grown_peptide, hydrogen_mass
from openmm_backmap.reference.solution import implicit_system
from openmm_backmap.reference.stages import Progress, defects, dynamics, snapshot


@dataclass(frozen=True)
class Hairpin:
    """A fold, residues counted from 0.

    Attributes
    ----------
    bonds : tuple of (int, int)
        Hydrogen bonds of the backbone: N of the first residue, O of the second.
    turn : tuple of (int, float, float)
        phi and psi, degrees, of residues between the strands.
    """

    bonds: tuple[tuple[int, int], ...]
    turn: tuple[tuple[int, float, float], ...] = ()


#: Chignolin: Asp3 faces Thr8 in the native hairpin, whose loop is a turn of type I with a bulge at Gly7 (Honda,
#: Yamasaki, Sawada and Morii, Structure 12, 1507 (2004)), and Gly7 in the misfolded one, one residue out of register
#: (Satoh, Shimizu, Nakamura and Terada, FEBS Lett. 580, 3422 (2006)).
HAIRPINS = {"chignolin": {
    "folded": Hairpin(((2, 7), (6, 2), (0, 9), (9, 0)), ((3, -60, -30), (4, -60, -30), (5, -90, 0), (6, 85, 10))),
    "misfolded": Hairpin(((2, 6), (6, 2), (0, 8), (8, 0)))}}
BOND_NM, KEPT_NM = 0.31, 0.4
_PULL = 500.0
#: how stiff torsions are next to bonds
_TURN_NM2 = 0.2
_HOT_K = 500.0
_STEP_PS = 0.004
_TRIES = 40


def folded(target: Target, hairpin: Hairpin, temperature: float, rng: np.random.Generator, platform,
           progress: Progress, pull_ps: float = 30.0, release_ps: float = 10.0) -> np.ndarray:
    """Positions (n_atoms, 3), nm, of a peptide whose backbone has these hydrogen bonds and keeps them when let go.

    Strands are drawn together at 500 K for ``pull_ps``, cooled to ``temperature`` (K) for as long, and let go for
    ``release_ps``.
    """
    from openmm import OpenMMException

    pairs = backbone_pairs(target, hairpin.bonds)
    simulation = dynamics(target.topology, drawn_together(target, hairpin), temperature, 1.0, _STEP_PS,
                          int(rng.integers(1, 2**31)), platform)
    for k in range(_TRIES):
        progress("folding hairpins", k, _TRIES)
        simulation.context.setPositions(grown_peptide(target, rng, platform, lambda *_: None))
        simulation.context.setVelocitiesToTemperature(_HOT_K, int(rng.integers(2**31)))
        stages = (_HOT_K, _PULL, pull_ps), (temperature, _PULL, pull_ps), (temperature, 0.0, release_ps)
        try:
            for now, pull, time_ps in stages:
                simulation.integrator.setTemperature(now)
                simulation.context.setParameter("pull", pull)
                simulation.step(round(time_ps / _STEP_PS))
        except OpenMMException:  # strands that were drawn through each other
            continue
        positions = snapshot(simulation)[0]
        if not defects(target, positions, None) and bonds_kept(positions, pairs):
            return positions
    raise RefinementError(f"no hairpin held together in {_TRIES} attempts; try another seed")


def backbone_pairs(target: Target, bonds: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Atoms (n, 2) of hydrogen bonds: N of one residue, O of the other."""
    atom = target.atoms_by_name()
    return np.array([(atom[donor, "N"], atom[acceptor, "O"]) for donor, acceptor in bonds])


def bonds_kept(positions: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Whether most of the hydrogen bonds ``pairs`` (n, 2) are there; for positions (..., n_atoms, 3), nm."""
    length = np.linalg.norm(positions[..., pairs[:, 0], :] - positions[..., pairs[:, 1], :], axis=-1)
    return np.mean(length < KEPT_NM, axis=-1) > 0.5


def drawn_together(target: Target, hairpin: Hairpin):
    """The peptide in its solvent, and forces towards ``hairpin``, as strong as the parameter ``pull``, kJ/mol/nm^2."""
    from openmm import CustomBondForce, CustomTorsionForce

    system = implicit_system(target, hydrogen_mass(_STEP_PS))
    strands = CustomBondForce(f"pull*max(0, r - {BOND_NM})^2")
    for i, j in backbone_pairs(target, hairpin.bonds).tolist():
        strands.addBond(i, j)
    turn = CustomTorsionForce(f"{_TURN_NM2}*pull*(1 - cos(theta - theta0))")
    turn.addPerTorsionParameter("theta0")
    atom = target.atoms_by_name()
    for residue, *angles in hairpin.turn:
        path = [atom[k] for k in ((residue - 1, "C"), (residue, "N"), (residue, "CA"), (residue, "C"),
                                  (residue + 1, "N"))]
        for k, angle in enumerate(angles):
            turn.addTorsion(*path[k:k + 4], [np.radians(angle)])
    for force in (strands, turn):
        force.addGlobalParameter("pull", _PULL)
        system.addForce(force)
    return system
