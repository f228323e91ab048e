"""The beads of a target as a bond graph of their own: bonded terms by bead types, pairs, masses, and their topology."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import numpy as np

from openmm_backmap.analysis.evaluation.inputs import bead_topology
from openmm_backmap.analysis.radial import PairTypes
from openmm_backmap.chemistry import Target
from openmm_backmap.geometry.checks import once_per_target
from openmm_backmap.geometry.internal import angles_of, by_type, dihedrals_of, impropers_of
from openmm_backmap.geometry.plain import bonds_apart

#: kind of a bonded term -> how many beads it has
BONDED = {"bond": 2, "angle": 3, "dihedral": 4, "improper": 4}
PAIR = "pair"


@dataclass(frozen=True)
class _Names:
    type_classes: tuple[str, ...]


@dataclass(frozen=True)
class _Graph:
    """What :mod:`openmm_backmap.geometry.internal` reads of a target, with beads in place of atoms."""

    n_atoms: int
    bonds: np.ndarray = field(repr=False)
    atom_type: np.ndarray = field(repr=False)
    chemistry: _Names


@once_per_target
def bonded_terms(target: Target) -> dict[str, np.ndarray]:
    """Beads (n, 2 to 4) of every bonded term of the bead graph, by names such as ``angle A-B-B``.

    A path is named from the end that sorts first, an improper from its centre: ``improper A-B-B-B`` is a bead A with
    three neighbours B. Terms are all that the graph has, whatever a model makes of them.
    """
    graph = _Graph(target.n_beads, target.bead_bonds, target.bead_type, _Names(target.chemistry.bead_types))
    members = {"bond": graph.bonds, "angle": angles_of(graph), "dihedral": dihedrals_of(graph),
               "improper": impropers_of(graph)}
    return {f"{kind} {name}": rows for kind, found in members.items() if len(found)
            for name, rows in by_type(graph, found, centred=kind == "improper").items()}


def bead_pairs(target: Target, excluded_bonds: int) -> PairTypes:
    """Which pairs of beads count together; those up to ``excluded_bonds`` bonds apart are left out."""
    i, j, _ = bonds_apart(target.n_beads, target.bead_bonds, excluded_bonds)
    kinds, types = np.unique(target.bead_type, return_inverse=True)
    label, names = np.zeros((len(kinds), len(kinds)), dtype=np.int64), []
    for n, (a, b) in enumerate(combinations_with_replacement(range(len(kinds)), 2)):
        label[a, b] = label[b, a] = n
        words = f"{PAIR} {'-'.join(target.chemistry.bead_types[kinds[k]] for k in (a, b))}"
        names += [f"{words} intra", f"{words} inter"]
    # The last two names are those of sums over heavy atoms; beads have none.
    return PairTypes((*names, "none intra", "none inter"), types.ravel(), label, np.empty(0, dtype=np.int64),
                     target.molecule_of_bead, np.sort(i * target.n_beads + j))


def pair_names(pairs: PairTypes) -> list[str]:
    """``pair A-B`` for every label of ``pairs``, in their order."""
    return [name.removesuffix(" intra") for name in pairs.names[:-2:2]]


def bead_masses(target: Target) -> np.ndarray:
    """Masses (n_beads,), dalton: of the atoms that a bead owns, so that no atom counts twice or not at all.

    Where a mapping shares atoms these are not the weights of M; distributions do not depend on masses.
    """
    return np.bincount(target.bead_of_atom, target.masses, minlength=target.n_beads)


def bead_app_topology(target: Target):
    """The beads as an ``openmm.app.Topology``, one residue a monomer, under names that the chemistry reads."""
    from openmm import app

    names = bead_topology(target.chemistry, target.chains)
    topology = app.Topology()
    chains = [topology.addChain() for _ in target.chains]
    residues = [topology.addResidue(name, chains[c], str(number)) for name, number, c in zip(
        names.residue_names, names.residue_numbers.tolist(), names.chain_of_residue.tolist(), strict=True)]
    beads = [topology.addAtom(name, None, residues[r])
             for name, r in zip(names.bead_names, names.residue_of_bead.tolist(), strict=True)]
    for i, j in target.bead_bonds.tolist():
        topology.addBond(beads[i], beads[j])
    return topology
