"""What is looked at in every frame of a molecule: backbone dihedrals or bead distances, hands, peptide bonds.

Atoms are found by the names that amino acids have (N, CA, C, O) and by the bond graph. Hands of methyl and methylene
groups: dynamics never swaps two hydrogens of one carbon, so that the hand of their names in the reference is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import inverted_centres, mapped
from openmm_backmap.geometry.internal import dihedral_angles
from openmm_backmap.geometry.tables import neighbour_lists

_CIS_DEGREES = 90.0
_MOST_BEADS = 24  # 276 distances
#: what is counted, in a share of all that a frame has
CHECKS = ("inverted centres", "cis peptide bonds", "methyl hydrogens swapped", "methylene hydrogens swapped")


@dataclass(frozen=True)
class Observables:
    """The lists of a molecule.

    Attributes
    ----------
    target : Target
    dihedrals : ndarray of int, shape (2, 4), or None
        phi and psi, where there is one of each.
    beads : ndarray of int, shape (n,)
        Whose distances are the features otherwise.
    peptides : ndarray of int, shape (n, 4)
        Dihedrals omega.
    methyls, methylenes : ndarray of int, shape (n, 4)
        The carbon, then three of its neighbours: the hydrogens, and for a methylene the other atom with the lower
        number.
    methyl_hand, methylene_hand : ndarray of int, shape (n,)
        Signs of (a - c) x (b - c) . (d - c) in the reference.
    """

    target: Target = field(repr=False)
    dihedrals: np.ndarray | None
    beads: np.ndarray
    peptides: np.ndarray
    methyls: np.ndarray
    methylenes: np.ndarray
    methyl_hand: np.ndarray
    methylene_hand: np.ndarray

    def features(self, positions: np.ndarray) -> np.ndarray:
        """phi and psi (n_frames, 2), degrees, or distances of beads (n_frames, n_pairs), nm."""
        if self.dihedrals is not None:
            return dihedral_angles(positions[:, self.dihedrals])
        beads = mapped(self.target, positions)[:, self.beads]
        i, j = np.triu_indices(len(self.beads), 1)
        return np.linalg.norm(beads[:, i] - beads[:, j], axis=-1)

    def checks(self, positions: np.ndarray) -> np.ndarray:
        """How many of each of :data:`CHECKS` are wrong, (n_frames, 4)."""
        omega = dihedral_angles(positions[:, self.peptides])
        wrong = (inverted_centres(self.target, positions), np.abs(omega) < _CIS_DEGREES,
                 hands(positions, self.methyls) != self.methyl_hand,
                 hands(positions, self.methylenes) != self.methylene_hand)
        return np.stack([found.sum(axis=1) for found in wrong], axis=1)

    @property
    def check_sizes(self) -> np.ndarray:
        """How many of each of :data:`CHECKS` a frame has, (4,)."""
        return np.array([len(self.target.stereo), len(self.peptides), len(self.methyls), len(self.methylenes)])


def observables_of(target: Target, positions: np.ndarray) -> Observables:
    """The lists of a molecule; ``positions`` (n_frames, n_atoms, 3) of the reference give hands.

    Raises
    ------
    InputError
        There are no dihedrals phi and psi, and too few beads to take distances of.
    """
    phi, psi, omega = _backbone(target)
    single = len(phi) == 1 and len(psi) == 1
    if not single and target.n_beads < 3:
        raise InputError(f"chemistry {target.chemistry.name}: a molecule of {target.n_beads} bead(s) that has not one "
                         "pair of dihedrals phi and psi: there is nothing to draw a free-energy surface over")
    beads = np.unique(np.linspace(0, target.n_beads - 1, min(target.n_beads, _MOST_BEADS)).round().astype(int))
    methyls, methylenes = _hydrogen_groups(target)
    signs = [np.where(hands(positions, members).sum(axis=0) < 0, -1, 1) for members in (methyls, methylenes)]
    return Observables(target, np.array([phi[0], psi[0]]) if single else None, beads,
                       np.array(omega, dtype=np.int64).reshape(-1, 4), methyls, methylenes, *signs)


def hands(positions: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Signs (n_frames, n) of (a - c) x (b - c) . (d - c) of ``members`` (n, 4), c first."""
    centre, a, b, d = np.moveaxis(positions[:, members], -2, 0)
    return np.sign((np.cross(a - centre, b - centre) * (d - centre)).sum(-1))


def _backbone(target: Target) -> tuple[list, list, list]:
    """Dihedrals phi, psi and omega, each a list of four atoms."""
    at = target.atoms_by_name()
    near = neighbour_lists(target.n_atoms, target.bonds)
    residue = target.residue_of_atom
    links = [(c, n) for i, j in target.bonds.tolist() for c, n in ((i, j), (j, i))
             if target.atom_names[c] == "C" and target.atom_names[n] == "N" and residue[c] != residue[n]]
    next_of, before = {residue[c]: n for c, n in links}, {residue[n]: c for c, n in links}
    phi, psi = [], []
    for r in range(len(target.residue_names)):
        n, ca, c = (at.get((r, name)) for name in ("N", "CA", "C"))
        if None in (n, ca, c):
            continue
        phi += [(before[r], n, ca, c)] if r in before else []
        psi += [(n, ca, c, next_of[r])] if r in next_of else []
    omega = [(_carbon(target, near[c]), c, n, _carbon(target, near[n], not_this=c)) for c, n in links]
    return phi, psi, [row for row in omega if None not in row]


def _carbon(target: Target, atoms: list[int], not_this: int = -1) -> int | None:
    """The alpha carbon among ``atoms``, or that of a cap (proline has another carbon at its nitrogen)."""
    for name in ("CA", "CH3", "C"):
        for atom in atoms:
            if atom != not_this and target.atom_names[atom] == name:
                return atom
    return None


def _hydrogen_groups(target: Target) -> tuple[np.ndarray, np.ndarray]:
    methyls, methylenes = [], []
    for centre, near in enumerate(neighbour_lists(target.n_atoms, target.bonds)):
        hydrogens = sorted(a for a in near if target.elements[a] == "H")
        others = sorted(a for a in near if target.elements[a] != "H")
        if len(near) == 4 and len(hydrogens) == 3:
            methyls.append((centre, *hydrogens))
        elif len(near) == 4 and len(hydrogens) == 2:
            methylenes.append((centre, *hydrogens, others[0]))
    return tuple(np.array(rows, dtype=np.int64).reshape(-1, 4) for rows in (methyls, methylenes))
