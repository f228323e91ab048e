"""What is wrong in a structure and what MD would not mend, counted, with how often it could have gone wrong.

========================  ===========================================================  =======================
name                      counted                                                      out of
========================  ===========================================================  =======================
``close contacts``        pairs of heavy atoms nearer than 0.25 nm, beyond three bonds  heavy atoms
``inverted centres``      stereocentres of the wrong hand                              stereocentres
``pierced rings``         rings through which a bond passes                            rings
``cis/trans errors``      bonds of small rings with dihedrals on the wrong side        such bonds
``bent rings``            flat rings with an atom more than 0.025 nm out of plane      flat rings
========================  ===========================================================  =======================

Which dihedrals have a side is said at :func:`openmm_backmap.geometry.internal.stiff_torsions`; sides that only a
reference tells (double bonds outside of rings, amides) are counted when two descriptions are compared. A ring is flat
where no bond of it lacks such a side.
"""

from __future__ import annotations

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.geometry.checks import (
    FOLDED_NM,
    close_contacts,
    inverted_centres,
    once_per_target,
    pierced_rings,
    ring_planarity,
    rings,
)
from openmm_backmap.geometry.internal import dihedral_angles, stiff_torsions

DEFECTS = ("close contacts", "inverted centres", "pierced rings", "cis/trans errors", "bent rings")


def count_defects(target: Target, positions: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Defects of one structure, shape (5,) in the order of :data:`DEFECTS`.

    Parameters
    ----------
    target : Target
    positions : ndarray, shape (n_atoms, 3), nm
        Whole molecules.
    box : ndarray, shape (3, 3), nm, or None
    """
    flat = _flat_rings(target)
    return np.array([
        len(close_contacts(target, positions, box)), inverted_centres(target, positions).sum(),
        len(np.unique(pierced_rings(target, positions, box)[:, 0])), wrong_sides(target, positions).sum(),
        (ring_planarity(target, positions)[flat] > FOLDED_NM).sum()])


@once_per_target
def opportunities(target: Target) -> np.ndarray:
    """How many defects of each kind there could be, shape (5,); contacts are counted by heavy atom."""
    heavy = sum(element != "H" for element in target.elements)
    n_bonds = stiff_torsions(target)[2].max(initial=-1) + 1
    return np.array([heavy, len(target.stereo), len(rings(target)), n_bonds, len(_flat_rings(target))])


def wrong_sides(target: Target, positions: np.ndarray) -> np.ndarray:
    """Which bonds of small rings are wrong: (n_bonds,), numbered as in ``stiff_torsions``.

    Half of a bond's dihedrals, or more, are on the wrong side: a substituent that points into the ring takes two of
    four with it, while two hydrogens that bend to different sides by heat may for a moment turn one.
    """
    members, cis, bond = stiff_torsions(target)
    wrong = (np.abs(dihedral_angles(positions[members])) < 90) != cis
    return 2 * np.bincount(bond, wrong) >= np.bincount(bond)


@once_per_target
def _flat_rings(target: Target) -> np.ndarray:
    members = stiff_torsions(target)[0]
    key = lambda pairs: np.sort(pairs, axis=-1) @ [target.n_atoms, 1]  # noqa: E731
    stiff = key(members[:, 1:3])
    found = [k for k, ring in enumerate(rings(target))
             if np.isin(key(np.stack([ring, np.roll(ring, -1)], axis=-1)), stiff).all()]
    return np.array(found, dtype=np.int64)
