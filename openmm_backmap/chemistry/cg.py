"""What a structure file says about its particles: names, residues, chains and bonds; no chemistry yet."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from openmm_backmap.errors import InputError


@dataclass(frozen=True)
class CGTopology:
    """Names and grouping of the particles of a file, in its order.

    Attributes
    ----------
    bead_names : tuple of str, length n_beads
    residue_names : tuple of str, length n_residues
    residue_numbers : ndarray of int, shape (n_residues,)
        As in the file.
    residue_of_bead : ndarray of int, shape (n_beads,)
    chain_of_residue : ndarray of int, shape (n_residues,)
    bonds : ndarray of int, shape (n_bonds, 2), or None
        None where the file says nothing about bonds.
    """

    bead_names: tuple[str, ...]
    residue_names: tuple[str, ...]
    residue_numbers: np.ndarray
    residue_of_bead: np.ndarray
    chain_of_residue: np.ndarray
    bonds: np.ndarray | None = None

    @property
    def n_beads(self) -> int:
        return len(self.bead_names)

    @property
    def n_residues(self) -> int:
        return len(self.residue_names)

    def residue_label(self, residue: int) -> str:
        """The residue as users know it, for messages: ``PS1 12``."""
        return f"{self.residue_names[residue]} {self.residue_numbers[residue]}"

    def bead_label(self, bead: int) -> str:
        """The bead as users know it, for messages: ``bead S3 of residue PS1 12``."""
        return f"bead {self.bead_names[bead]} of residue {self.residue_label(self.residue_of_bead[bead])}"

    @classmethod
    def from_beads(cls, bead_names: Sequence[str], residue_names: Sequence[str], residue_numbers: Sequence[int],
                   chains: Sequence[Hashable], bonds: np.ndarray | None = None) -> CGTopology:
        """Group beads, given one by one with their residue's name and number and their chain, in file order.

        A residue begins where the name, the number or the chain changes.
        """
        names, numbers, residue_of_bead, chain_of_residue = [], [], [], []
        before, chain, n_chains = None, None, 0
        for key in zip(chains, residue_numbers, residue_names):
            if key != before:
                n_chains += not names or key[0] != chain
                chain, before = key[0], key
                numbers.append(key[1])
                names.append(key[2])
                chain_of_residue.append(n_chains - 1)
            residue_of_bead.append(len(names) - 1)
        return cls(tuple(bead_names), tuple(names), np.array(numbers, dtype=np.int64),
                   np.array(residue_of_bead, dtype=np.int64), np.array(chain_of_residue, dtype=np.int64), bonds)

    @classmethod
    def from_openmm(cls, topology) -> CGTopology:
        """From an ``openmm.app.Topology``; residue identifiers that are no numbers are replaced by the place."""
        residues = list(topology.residues())
        return cls._from_residues(topology, residues, [r.chain.index for r in residues],
                                  [_number(r.id, r.index + 1) for r in residues],
                                  [(bond[0].index, bond[1].index) for bond in topology.bonds()])

    @classmethod
    def from_mdtraj(cls, topology) -> CGTopology:
        """From an ``mdtraj.Topology``."""
        residues = list(topology.residues)
        return cls._from_residues(topology, residues, [r.chain.index for r in residues], [r.resSeq for r in residues],
                                  [(bond[0].index, bond[1].index) for bond in topology.bonds])

    @classmethod
    def _from_residues(cls, topology, residues, chains, numbers, bonds) -> CGTopology:
        atoms = list(topology.atoms() if callable(topology.atoms) else topology.atoms)
        return cls(tuple(atom.name for atom in atoms), tuple(r.name for r in residues),
                   np.array(numbers, dtype=np.int64), np.array([atom.residue.index for atom in atoms], dtype=np.int64),
                   np.array(chains, dtype=np.int64), np.array(bonds, dtype=np.int64) if bonds else None)


def as_cg_topology(topology) -> CGTopology:
    """``topology`` as a :class:`CGTopology`: it may be one, or an ``openmm.app.Topology`` or ``mdtraj.Topology``."""
    if isinstance(topology, CGTopology):
        return topology
    # Told apart by their module: neither library needs to be loaded to see that it is not the other.
    package = type(topology).__module__.partition(".")[0]
    if package in ("openmm", "simtk"):
        return CGTopology.from_openmm(topology)
    if package == "mdtraj":
        return CGTopology.from_mdtraj(topology)
    raise InputError(f"a {type(topology).__name__} is no topology: give a CGTopology, an openmm.app.Topology or an "
                     "mdtraj.Topology")


def _number(identifier: str, place: int) -> int:
    try:
        return int(identifier)
    except ValueError:
        return place
