"""A part of a target: some of its beads, with the atoms that they own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from openmm_backmap.chemistry.target import NONE, Target


def part_of(target: Target, beads: np.ndarray) -> tuple[Target, np.ndarray]:
    """The part of ``target`` that ``beads`` (n,), ascending, own; and its atoms (m,), ascending.

    What needs a bead or an atom that is left out is left out too: a chain that is cut has no bond across the cut, and
    a row of the mapping lacks the atoms that belong to other beads, while its names are still those of the whole chain.
    Labels that are equivalent by symmetry (``swaps``) are left out altogether.
    """
    atoms = np.flatnonzero(_mask(beads, target.n_beads)[target.bead_of_atom])
    new_atom, new_bead = _places(atoms, target.n_atoms), _places(beads, target.n_beads)
    residues, residue_of_atom = np.unique(target.residue_of_atom[atoms], return_inverse=True)
    bonds, bead_bonds = _within(target.bonds, new_atom)[0], _within(target.bead_bonds, new_bead)[0]
    stereo, kept = _within(target.stereo, new_atom)
    frame = target.bead_frame[beads]
    names = lambda values, which: tuple(values[k] for k in which.tolist())  # noqa: E731
    numbered = lambda values: np.unique(values, return_inverse=True)[1]  # noqa: E731
    molecules, molecule_of_bead = np.unique(target.molecule_of_bead[beads], return_inverse=True)
    return replace(
        target, chains=names(target.chains, molecules), atom_names=names(target.atom_names, atoms),
        residue_of_atom=residue_of_atom, residue_names=names(target.residue_names, residues),
        chain_of_residue=numbered(target.chain_of_residue[residues]), elements=names(target.elements, atoms),
        atom_type=target.atom_type[atoms], masses=target.masses[atoms], bonds=bonds,
        bead_type=target.bead_type[beads], bead_of_atom=new_bead[target.bead_of_atom[atoms]], bead_bonds=bead_bonds,
        bead_frame=np.where(frame == NONE, NONE, new_bead[frame]), mapping=target.mapping[beads][:, atoms],
        stereo=stereo, stereo_sign=target.stereo_sign[kept], bead_hand=target.bead_hand[beads],
        excluded=_within(target.excluded, new_atom)[0], swaps=(), molecule_of_bead=molecule_of_bead,
        molecule_of_atom=np.searchsorted(molecules, target.molecule_of_atom[atoms])), atoms


def _mask(chosen: np.ndarray, n: int) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[chosen] = True
    return mask


def _places(chosen: np.ndarray, n: int) -> np.ndarray:
    """The place (n,) of each among those chosen; -1 for the others."""
    places = np.full(n, NONE)
    places[chosen] = np.arange(len(chosen))
    return places


def _within(rows: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are there with all their members, renumbered; and which they are."""
    found = place[rows]
    kept = (found >= 0).all(axis=1)
    return found[kept], kept
