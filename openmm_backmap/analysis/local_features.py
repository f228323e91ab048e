"""Local environments of atoms as vectors: smooth overlaps of atomic positions (SOAP), by DScribe.

SOAP: A. P. Bartok, R. Kondor, G. Csanyi, Phys. Rev. B 87, 184115 (2013). DScribe: L. Himanen et al., Comput. Phys.
Commun. 247, 106949 (2020). The vectors do not change when a structure is turned or shifted or atoms of one element are
exchanged, which makes labels that are equivalent by symmetry the same of themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.chemistry import Target
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import heavy_atoms, once_per_target

Progress = Callable[[str, int, int], None]
# Files give positions to so much. Unrounded structures would differ from a file's by their digits alone.
PRECISION_NM = 0.001
_ANGSTROM_PER_NM = 10.0
_ELEMENTS_APART = 3


@dataclass(frozen=True)
class SoapSettings:
    """How an environment is described.

    Attributes
    ----------
    cutoff_nm : float
    width_nm : float
        Standard deviation of the Gaussian that stands for an atom.
    n_max, l_max : int
        Radial functions (spherical Gaussian type orbitals) and highest degree of the spherical harmonics.
    hydrogens : bool
        Whether hydrogens are seen.
    """

    cutoff_nm: float
    width_nm: float
    n_max: int
    l_max: int
    hydrogens: bool = True


@dataclass(frozen=True)
class Sites:
    """Atoms of an ensemble.

    Attributes
    ----------
    structure, atom : ndarray of int, shape (n,)
        Indices into the ensemble and its target.
    """

    structure: np.ndarray
    atom: np.ndarray

    def __len__(self) -> int:
        return len(self.atom)

    def take(self, index: np.ndarray) -> Sites:
        """Some of the sites."""
        return Sites(self.structure[index], self.atom[index])


@once_per_target
def kinds(target: Target) -> np.ndarray:
    """Number (n_atoms,) of each atom's place in the chemistry: bead type, type class and name; atoms that the
    chemistry calls equivalent share one."""
    names = np.unique(target.atom_names, return_inverse=True)[1]
    bead_type = target.bead_type[target.bead_of_atom]
    place = np.unique(np.stack([bead_type, target.atom_type, names]), axis=1, return_inverse=True)[1].ravel()
    for a, b in target.swaps:
        place[b] = place[a]
    return np.unique(place, return_inverse=True)[1]


@once_per_target
def monomer_centres(target: Target) -> np.ndarray:
    """One atom a monomer (n,): of its heavy atoms the first with the most heavy neighbours.

    In polystyrene this is the backbone carbon that carries the phenyl group, the centre that Stieffenhofer et al., APL
    Mater. 9, 031107 (2021), take. Monomers at ends of chains are left out where there are others: by their bonds alone
    they differ from all others, more than by any conformation.
    """
    heavy = np.zeros(target.n_atoms, dtype=bool)
    heavy[heavy_atoms(target)] = True
    inner = target.bonds[heavy[target.bonds].all(axis=1)]
    degree = np.bincount(inner.ravel(), minlength=target.n_atoms)
    most = np.zeros(kinds(target).max() + 1, dtype=np.int64)
    np.maximum.at(most, kinds(target), degree)
    atoms = np.flatnonzero(heavy)
    order = np.lexsort((atoms, -most[kinds(target)[atoms]], target.residue_of_atom[atoms]))
    first = np.unique(target.residue_of_atom[atoms][order], return_index=True)[1]
    return _inside(target, atoms[order][first])


def _inside(target: Target, atoms: np.ndarray) -> np.ndarray:
    """Those of ``atoms`` that lie in residues in the middle of a chain; all if there are none."""
    middle = {m.residues.get("middle") for m in target.chemistry.monomers.values()}
    inside = np.array([target.residue_names[r] in middle for r in target.residue_of_atom[atoms]])
    return atoms[inside] if inside.any() else atoms


def soap(ensemble: Ensemble, sites: Sites, settings: SoapSettings, progress: Progress | None = None) -> np.ndarray:
    """SOAP vectors of environments, periodic where the ensemble is.

    With more than three elements the pairs of elements are compressed ("mu1nu1": J. P. Darby, J. R. Kermode,
    G. Csanyi, npj Comput. Mater. 8, 166 (2022)), so that lengths grow with their number only.

    Parameters
    ----------
    ensemble : Ensemble
    sites : Sites
        The atoms in the centres.
    settings : SoapSettings
    progress : callable, optional
        Called with a stage, structures done and of how many.

    Returns
    -------
    ndarray of float32, shape (n_sites, n_features)
    """
    describe, seen = _descriptor(ensemble.target, settings, ensemble.boxes is not None)
    features = np.empty((len(sites), describe.get_number_of_features()), dtype=np.float32)
    used = np.unique(sites.structure)
    for done, k in enumerate(used):
        rows = np.flatnonzero(sites.structure == k)
        features[rows] = _of_structure(ensemble, k, sites.atom[rows], describe, seen)
        if progress:
            progress("local environments", done + 1, len(used))
    return features


def _descriptor(target: Target, settings: SoapSettings, periodic: bool):
    """What makes the vectors, and the atoms that are seen."""
    from dscribe.descriptors import SOAP

    seen = np.arange(target.n_atoms) if settings.hydrogens else heavy_atoms(target)
    species = sorted({target.elements[i] for i in seen})
    mode = "off" if len(species) <= _ELEMENTS_APART else "mu1nu1"
    return SOAP(r_cut=settings.cutoff_nm * _ANGSTROM_PER_NM, sigma=settings.width_nm * _ANGSTROM_PER_NM,
                n_max=settings.n_max, l_max=settings.l_max, species=species, periodic=periodic,
                compression={"mode": mode, "species_weighting": None}), seen


def _of_structure(ensemble: Ensemble, k: int, atoms: np.ndarray, describe, seen: np.ndarray) -> np.ndarray:
    from ase import Atoms

    box = ensemble.box(k)
    x = np.round(ensemble.positions[k].astype(float) / PRECISION_NM) * PRECISION_NM
    if not np.isfinite(x).all():
        raise InputError(f"{ensemble.name}: structure {k + 1} has positions that are no finite numbers")
    if box is not None:
        # DScribe copies the cell as it finds it: atoms outside of the parallelepiped would miss neighbours.
        x = (x @ np.linalg.inv(box) % 1.0) @ box
    x = x * _ANGSTROM_PER_NM
    system = Atoms([ensemble.target.elements[i] for i in seen], positions=x[seen],
                   cell=None if box is None else box * _ANGSTROM_PER_NM, pbc=box is not None)
    return describe.create(system, centers=x[atoms])


def frames_apart(frames: np.ndarray, n_part: int, molecule: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Splits environments of a reference into two parts that share nothing: which (n,) are of the first.

    The first part takes ``n_part`` of the frames, at most half of them; a single frame is split into halves of its
    molecules.

    Parameters
    ----------
    frames, molecule : ndarray of int, shape (n,)
    n_part : int
    rng : numpy.random.Generator
    """
    found = np.unique(frames)
    if len(found) > 1:
        return np.isin(frames, rng.permutation(found)[:min(n_part, len(found) // 2)])
    molecules = np.unique(molecule)
    return np.isin(molecule, rng.permutation(molecules)[:len(molecules) // 2])
