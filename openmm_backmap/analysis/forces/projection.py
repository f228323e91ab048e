"""Atomistic forces on beads: F = B f, with B a matrix of one row a bead.

The mean of F at fixed beads is the force of the potential of mean force, and so the force that a coarse-grained force
field should have, for any B with B M^T = 1, M the mapping (G. Ciccotti, R. Kapral, E. Vanden-Eijnden, ChemPhysChem 6,
1809 (2005); E. Kalligiannaki et al., J. Chem. Phys. 143, 084105 (2015)). The sum S over the atoms that a bead owns
(thesis, eq. 6.3; W. G. Noid et al., J. Chem. Phys. 128, 244114 (2008)) is such a B where no bead's position depends on
an atom of another bead. Where beads share atoms it is not, and is set right by

    B = S + (1 - S M^T) (M m^-1 M^T)^-1 M m^-1,

with the masses m of the atoms. M m^-1 f is the acceleration that atoms give to beads, and (M m^-1 M^T)^-1 the beads'
mass: what is added is the force that accelerates beads by what S says wrongly. Forces on all beads still add up to
those on all atoms. With S = 0 it would be the force of accelerations alone, which for centres of mass is the sum, too,
but leaves out atoms that M leaves out. The plain least squares, (M M^T)^-1 M, is the sum for equal masses only.

All B have the same mean but another noise (A. Kraemer et al., J. Phys. Chem. Lett. 14, 3970 (2023)), so that
distributions may be compared only where B is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from openmm_backmap.chemistry import Target
from openmm_backmap.errors import ChemistryError
from openmm_backmap.geometry.checks import once_per_target

_EXACT = 1e-9


@dataclass(frozen=True)
class Projection:
    """The pieces of B.

    Attributes
    ----------
    owned : sparse array, shape (n_beads, n_atoms)
        S.
    wrong : sparse array, shape (n_beads, n_beads)
        1 - S M^T.
    accelerations : sparse array, shape (n_beads, n_atoms)
        M m^-1.
    masses : factorised matrix or None
        M m^-1 M^T; None where S needs no correction.
    """

    owned: sparse.csr_array
    wrong: sparse.csr_array
    accelerations: sparse.csr_array
    masses: Any

    def __call__(self, forces: np.ndarray) -> np.ndarray:
        """Forces on beads (n_beads, k) of forces on atoms (n_atoms, k), kJ/mol/nm."""
        summed = self.owned @ forces
        if self.masses is None:
            return summed
        return summed + self.wrong @ self.masses.solve(self.accelerations @ forces)


def owned_atoms(target: Target) -> sparse.csr_array:
    """S (n_beads, n_atoms): 1 where the bead owns the atom."""
    atom = np.flatnonzero(target.bead_of_atom >= 0)
    return sparse.csr_array((np.ones(len(atom)), (target.bead_of_atom[atom], atom)),
                            shape=(target.n_beads, target.n_atoms))


@once_per_target
def projection(target: Target) -> Projection:
    """The forces of this target's atoms on its beads.

    Raises
    ------
    ChemistryError
        Beads share atoms, and the positions of some follow from others.
    """
    owned, mapping = owned_atoms(target), sparse.csr_array(target.mapping)
    wrong = sparse.csr_array(sparse.eye_array(target.n_beads) - owned @ mapping.T)
    accelerations = sparse.csr_array(mapping @ sparse.diags_array(1.0 / target.masses))
    if abs(wrong).max() < _EXACT:
        return Projection(owned, wrong, accelerations, None)
    try:
        return Projection(owned, wrong, accelerations, splu(sparse.csc_array(accelerations @ mapping.T)))
    except RuntimeError:
        raise ChemistryError(f"chemistry {target.chemistry.name}: its beads are not independent of each other; give "
                             "every bead a mass share of its own") from None
