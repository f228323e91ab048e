"""Energies of single molecules in a structure, by kind, from the force field of the chemistry.

What is computed is one definition for any box, so that structures can be compared; it is not the energy that MD has:

- Pairs of atoms within the chemistry's cutoff, exceptions of the force field left out; half of a pair's energy goes
  to the molecule of either atom. Exceptions (scaled 1-4 pairs) count in full, at any distance.
- ``lennard-jones`` is cut off without a switch or a correction for what lies beyond.
- ``coulomb`` has a reaction field with a conductor beyond the cutoff (Tironi et al., J. Chem. Phys. 102, 5451 (1995)):
  an Ewald sum has no energy that belongs to one molecule, and a bare cutoff would charge the surroundings.
- ``bond`` has the harmonic bonds of the force field even where the chemistry constrains them: structures that are
  drawn, not integrated, may stretch them.
- ``dihedral`` has torsions along three bonds, ``improper`` harmonic torsions and any torsion around a centre.

Atoms nearer than 0.001 nm count as 0.001 nm apart, which is beyond anything sensible, and finite.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.chemistry import Target, create_flexible_system
from openmm_backmap.geometry.checks import once_per_target

if TYPE_CHECKING:
    from openmm_backmap.energy.nonbonded import Nonbonded
    from openmm_backmap.energy.terms import BondedTerms

ENERGIES = ("lennard-jones", "coulomb", "bond", "angle", "dihedral", "improper")
_NAMES = {"bond": "bond", "angle": "angle", "torsion": "dihedral", "rb_torsion": "dihedral", "improper": "improper"}


@dataclass(frozen=True)
class MoleculeEnergies:
    """The force field of a target, ready to be asked for the energies of its molecules.

    Attributes
    ----------
    cutoff_nm : float
    molecule : ndarray of int, shape (n_atoms,)
    bonded : tuple of (str, BondedTerms)
        Each with its name among :data:`ENERGIES`.
    nonbonded : tuple of Nonbonded
    """

    cutoff_nm: float
    molecule: np.ndarray
    bonded: tuple[tuple[str, BondedTerms], ...]
    nonbonded: tuple[Nonbonded, ...]

    def within(self, positions: np.ndarray) -> np.ndarray:
        """Bonded energies and exceptions, (n_kinds, n_molecules) in the order of :data:`ENERGIES`, kJ/mol, of whole
        molecules at ``positions`` (n_atoms, 3), nm."""
        import torch

        x = torch.as_tensor(np.asarray(positions, dtype=float))
        total = self._zeros()
        for name, terms in self.bonded:
            total[ENERGIES.index(name)] += self._sum(terms.energies(x, None).numpy(), terms.atoms[:, 0].numpy())
        for part in self.nonbonded:
            pairs = part.exceptions.numpy()
            for kind, energy in enumerate(part.exception_energies(x, None)):
                total[kind] += self._halves(energy.numpy(), pairs[:, 0], pairs[:, 1])
        return total

    def between(self, i: np.ndarray, j: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Lennard-Jones and Coulomb energies of pairs ``i``, ``j`` (n_pairs,) at distances ``r``, nm; shape as for
        :meth:`within`, so that the two can be added."""
        import torch

        total = self._zeros()
        for part in self.nonbonded:
            first, second, distance = (torch.as_tensor(values) for values in (i, j, r))
            allowed = part.allowed(first, second)
            first, second, distance = first[allowed], second[allowed], distance[allowed].clamp(min=1e-3)
            # "local": the reaction field in place of the direct part of an Ewald sum.
            for kind, energy in enumerate(part.pair_energies(distance, first, second, local=True)):
                total[kind] += self._halves(energy.numpy(), first.numpy(), second.numpy())
        return total

    def _zeros(self) -> np.ndarray:
        return np.zeros((len(ENERGIES), self.molecule.max() + 1))

    def _sum(self, energies: np.ndarray, atom: np.ndarray) -> np.ndarray:
        return np.bincount(self.molecule[atom], energies, minlength=self.molecule.max() + 1)

    def _halves(self, energies: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return (self._sum(energies, i) + self._sum(energies, j)) / 2


@once_per_target
def molecule_energies(target: Target) -> MoleculeEnergies:
    """The energies of the molecules of a target, from the System that :func:`create_system` makes of it.

    Raises
    ------
    UnsupportedForceError
        Where the force field has a force that is not known to :mod:`openmm_backmap.energy`.
    """
    from openmm_backmap.energy import TorchEnergy

    # Without a box: parameters do not depend on it, and small boxes are nothing to refuse here.
    energy = TorchEnergy.from_system(create_flexible_system(target, None))
    cutoff = target.chemistry.nonbonded.cutoff_nm
    bonded = [piece for terms in energy.bonded for piece in _named(terms, target)]
    nonbonded = [dataclasses.replace(part, settings=dataclasses.replace(
        part.settings, electrostatics="ewald", cutoff_nm=cutoff)) for part in energy.nonbonded]
    return MoleculeEnergies(cutoff, target.molecule_of_atom, tuple(bonded), tuple(nonbonded))


def _named(terms: BondedTerms, target: Target) -> list[tuple[str, BondedTerms]]:
    """The terms with their names; torsions whose atoms are not a chain of bonds are impropers."""
    if terms.kind not in ("torsion", "rb_torsion"):
        return [(_NAMES[terms.kind], terms)]
    atoms = terms.atoms.numpy()
    bonds = np.sort(target.bonds, axis=1)
    steps = np.sort(np.stack([atoms[:, :-1], atoms[:, 1:]], axis=-1), axis=-1)
    chain = np.isin(steps @ [target.n_atoms, 1], bonds @ [target.n_atoms, 1]).all(axis=1)
    return [(name, dataclasses.replace(terms, atoms=terms.atoms[keep], parameters=terms.parameters[keep]))
            for name, keep in (("dihedral", chain), ("improper", ~chain)) if keep.any()]
