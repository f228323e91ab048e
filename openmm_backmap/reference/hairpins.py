"""Starting structures of a peptide that folds into hairpins: grown from its sequence, strands drawn together.

Dynamics on two cores do not fold a peptide within hours. Started from each of its hairpins and from grown structures,
replica exchange has to find their shares alone.
"""

from __future__ import annotations

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.errors import RefinementError
from openmm_backmap.reference.peptide import grown_peptide, hydrogen_mass
from openmm_backmap.reference.solution import implicit_system
from openmm_backmap.reference.stages import Progress, defects, dynamics, snapshot

#: Hydrogen bonds of the backbone, N of one residue to O of another, residues from 0. Chignolin: Asp3 faces Thr8 in the
#: native hairpin (Honda et al., J. Am. Chem. Soc. 130, 15327 (2008)) and Gly7 in the misfolded one, one residue out of
#: register (Satoh, Shimizu, Nakamura and Terada, FEBS Lett. 580, 3422 (2006)).
HAIRPINS = {"chignolin": {"folded": ((2, 7), (6, 2), (0, 9), (9, 0)), "misfolded": ((2, 6), (6, 2), (0, 8), (8, 0))}}
BOND_NM, KEPT_NM = 0.31, 0.4
_PULL = 500.0
_HOT_K = 500.0
_STEP_PS = 0.004
_TRIES = 10


def hairpin(target: Target, bonds: tuple[tuple[int, int], ...], temperature: float, rng: np.random.Generator, platform,
            progress: Progress, pull_ps: float = 30.0, release_ps: float = 10.0) -> np.ndarray:
    """Positions (n_atoms, 3), nm, of a peptide whose backbone has these hydrogen bonds and keeps them when let go.

    Strands are drawn together at 500 K for ``pull_ps``, cooled to ``temperature`` (K) for as long, and let go for
    ``release_ps``.
    """
    pairs = backbone_pairs(target, bonds)
    simulation = dynamics(target.topology, drawn_together(target, pairs), temperature, 1.0, _STEP_PS,
                          int(rng.integers(1, 2**31)), platform)
    for k in range(_TRIES):
        progress("folding hairpins", k, _TRIES)
        simulation.context.setPositions(grown_peptide(target, rng, platform, lambda *_: None))
        simulation.context.setVelocitiesToTemperature(_HOT_K, int(rng.integers(2**31)))
        stages = (_HOT_K, _PULL, pull_ps), (temperature, _PULL, pull_ps), (temperature, 0.0, release_ps)
        for now, pull, time_ps in stages:
            simulation.integrator.setTemperature(now)
            simulation.context.setParameter("pull", pull)
            simulation.step(round(time_ps / _STEP_PS))
        positions = snapshot(simulation)[0]
        if not defects(target, positions, None) and bonds_kept(positions, pairs):
            return positions
    raise RefinementError(f"no hairpin held together in {_TRIES} attempts; try another seed")


def backbone_pairs(target: Target, bonds: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Atoms (n, 2) of hydrogen bonds: N of one residue, O of the other."""
    atom = {(int(residue), name): k for k, (residue, name) in enumerate(zip(target.residue_of_atom, target.atom_names))}
    return np.array([(atom[donor, "N"], atom[acceptor, "O"]) for donor, acceptor in bonds])


def bonds_kept(positions: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Whether most of the hydrogen bonds ``pairs`` (n, 2) are there; for positions (..., n_atoms, 3), nm."""
    length = np.linalg.norm(positions[..., pairs[:, 0], :] - positions[..., pairs[:, 1], :], axis=-1)
    return np.mean(length < KEPT_NM, axis=-1) > 0.5


def drawn_together(target: Target, pairs: np.ndarray):
    """The peptide in its solvent, with a force on ``pairs`` that the parameter ``pull`` (kJ/mol/nm^2) switches."""
    from openmm import CustomBondForce

    system = implicit_system(target, hydrogen_mass(_STEP_PS))
    force = CustomBondForce(f"pull*max(0, r - {BOND_NM})^2")
    force.addGlobalParameter("pull", _PULL)
    for i, j in pairs.tolist():
        force.addBond(i, j)
    system.addForce(force)
    return system
