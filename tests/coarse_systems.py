"""Small coarse-grained systems: a few molecules on a grid, and models with simple potentials."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Target, build_target, load_chemistry
from openmm_backmap.coarse import CGModel, Term
from openmm_backmap.coarse.graph import bonded_terms
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.io.writers import write_structure

BOX = np.eye(3) * 2.4
_CENTRES = np.array([(i, j, k) for i in range(2) for j in range(2) for k in range(2)]) * 1.2 + 0.6


def molecules(name: str, n: int = 8) -> Target:
    chemistry = load_chemistry(name)
    return build_target(chemistry, [[next(iter(chemistry.monomers))]] * n)


def atoms_of(target: Target, seed: int) -> np.ndarray:
    """Whole molecules (n_atoms, 3), nm, on a 2 x 2 x 2 grid in ``BOX``, displaced at random."""
    rng = np.random.default_rng(seed)
    x = build_coordinates(target, rng)
    for m in range(len(target.chains)):
        own = target.molecule_of_atom == m
        x[own] += _CENTRES[m] - x[own].mean(0) + rng.normal(scale=0.05, size=3)
    return x + rng.normal(scale=0.005, size=x.shape)


def beads_of(target: Target, seed: int) -> np.ndarray:
    return mapped(target, atoms_of(target, seed))


def write_frames(folder: Path, target: Target, n: int) -> Path:
    folder.mkdir()
    for k in range(n):
        write_structure(folder / f"frame_{k + 1:04d}.gro", target.topology, atoms_of(target, k), BOX, gro_precision=6)
    return folder


def simple_model(target: Target, **changes) -> CGModel:
    """Harmonic bonds about 0.25 nm and angles about 140 degrees, threefold dihedrals, soft repulsive pairs that differ
    by their types."""
    bond, angle, turn, r = (np.linspace(0, 0.8, 401), np.linspace(0, 180, 91), np.arange(-180, 180, 5.0),
                            np.linspace(0, 1.0, 101))
    tables = {"bond": (bond, 5000.0 * (bond - 0.25) ** 2), "angle": (angle, 0.004 * (angle - 140) ** 2),
              "dihedral": (turn, 2 + 2 * np.cos(3 * np.radians(turn))),
              "improper": (turn, 0.002 * turn ** 2)}
    terms = [Term(name.split()[0], tuple(name.split()[1].split("-")), *tables[name.split()[0]])
             for name in bonded_terms(target)]
    kinds = target.chemistry.bead_types
    pairs = [Term("pair", (a, b), r, (8.0 + 3 * k) * (1 - r) ** 2)
             for k, (a, b) in enumerate((a, b) for i, a in enumerate(kinds) for b in kinds[i:])]
    return CGModel(**{"chemistry": target.chemistry, "temperature_K": 350.0, "cutoff_nm": 1.0, "excluded_bonds": 3,
                      "terms": (*terms, *pairs), **changes})
