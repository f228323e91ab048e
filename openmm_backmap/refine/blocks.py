"""Beads and bonds made exact, and nothing more, for melts that would be too large for one OpenMM system.

Both are a matter of each molecule alone, so that they are seen to block by block. Energies are not asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from openmm_backmap.chemistry.parts import part_of
from openmm_backmap.chemistry.system import create_flexible_system
from openmm_backmap.chemistry.target import Target
from openmm_backmap.geometry.checks import close_contacts, inverted_centres, mapping_rmsd, pierced_rings
from openmm_backmap.refine.projection import bond_error, project, satisfy_bonds
from openmm_backmap.refine.report import Refined, RefineReport
from openmm_backmap.refine.systems import constrained_bonds

#: atoms from which on OpenMM is left out where nothing is to be minimised
LARGE_ATOMS = 200_000
#: atoms of a block of molecules
_BLOCK_ATOMS = 20_000
_BOND_NM = 1e-4


def refine_in_blocks(target: Target, given: np.ndarray, beads: np.ndarray, box: np.ndarray | None,
                     progress) -> Refined:
    """Refine in mode "none": as :meth:`openmm_backmap.refine.pipeline.Refiner.refine`, without energies and forces."""
    begun = time.perf_counter()
    bonds = _BondLengths(target)
    exact, worst = np.empty_like(given), 0.0
    blocks = list(_blocks(target))
    for done, molecules in enumerate(blocks):
        progress("project", done, len(blocks))
        own = np.isin(target.molecule_of_bead, molecules)
        part, atoms = part_of(target, np.flatnonzero(own))
        pairs, lengths = bonds.of(molecules, part)
        exact[atoms] = _exact(part, given[atoms], beads[own], pairs, lengths)
        worst = max(worst, bond_error(exact[atoms], pairs, lengths))
    progress("project", len(blocks), len(blocks))
    projected = time.perf_counter()
    defects = [(len(found),) * 2 for found in (np.flatnonzero(inverted_centres(target, exact)),
                                               pierced_rings(target, exact, box), close_contacts(target, exact, box))]
    seconds = {"project": projected - begun, "check": time.perf_counter() - projected}
    rmsd = float(mapping_rmsd(target, exact, beads, box))
    report = RefineReport("none", {}, {}, np.nan, np.nan, float(mapping_rmsd(target, given, beads, box)), rmsd, rmsd,
                          worst, float(np.linalg.norm(exact - given, axis=1).max()), *defects, seconds)
    return Refined(exact, None, box, report)


def _blocks(target: Target) -> Iterator[np.ndarray]:
    """Molecules, in order, in blocks of a bounded number of atoms (or of one molecule)."""
    ends = np.cumsum(np.bincount(target.molecule_of_atom))
    number = (ends - 1) // _BLOCK_ATOMS
    yield from np.split(np.arange(len(ends)), np.flatnonzero(np.diff(number)) + 1)


def _exact(part: Target, given: np.ndarray, beads: np.ndarray, pairs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Beads and bonds exact together; beads alone where bonds are too far off for that."""
    exact = satisfy_bonds(part, given, beads, pairs, lengths)
    if bond_error(exact, pairs, lengths) < _BOND_NM and mapping_rmsd(part, exact, beads, None) < _BOND_NM:
        return exact
    return project(part, given, beads)


class _BondLengths:
    """Constrained bonds and their lengths; the force field is asked about each kind of molecule once."""

    def __init__(self, target: Target):
        self.target = target
        self._known: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}

    def of(self, molecules: np.ndarray, part: Target) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (n, 2) and lengths (n,), nm, of ``molecules``, in the numbering of the ``part`` that they make."""
        first = np.searchsorted(part.molecule_of_atom, np.arange(len(molecules)))
        found = [self._of_molecule(m) for m in molecules.tolist()]
        return (np.concatenate([pairs + shift for (pairs, _), shift in zip(found, first)]),
                np.concatenate([lengths for _, lengths in found]))

    def _of_molecule(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        names = self.target.chains[m]
        if names not in self._known:
            molecule, _ = part_of(self.target, np.flatnonzero(self.target.molecule_of_bead == m))
            self._known[names] = constrained_bonds(molecule, create_flexible_system(molecule, None))
        return self._known[names]
