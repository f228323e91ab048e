"""Atoms by the geometric rules of a chemistry (:mod:`openmm_backmap.chemistry.placement`), all monomers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.chemistry.placement import Placement
from openmm_backmap.chemistry.target import normalised_rows
from openmm_backmap.errors import ChemistryError
from openmm_backmap.generators.baselines.chains import Copies, copied, distinct_chains
from openmm_backmap.geometry.checks import once_per_target

if TYPE_CHECKING:
    from scipy import sparse

# Good enough to start from: minimisation makes lengths and angles right.
_BOND_NM, _BOND_TO_HYDROGEN_NM = 0.14, 0.11
_TRIGONAL, _TETRAHEDRAL = np.radians(120.0), np.arccos(-1 / 3)
_SECTIONS = ("first", "last", "corrections")


@dataclass(frozen=True)
class Rules:
    """The rules of a target, resolved.

    Attributes
    ----------
    means : scipy.sparse.csr_array, shape (n_atoms, n_beads)
        Rows sum to one: where atoms start.
    steps : tuple of (kind, atoms, hand)
        Corrections in order: ``atoms`` (n, 3 to 5) of every place where one applies, ``hand`` (n,) +1 or -1.
    length : ndarray, shape (n_atoms,), nm
        Distance at which a correction puts an atom.
    angle : ndarray, shape (n_atoms,), radians
        Ideal angle at an atom.
    """

    means: sparse.csr_array
    steps: tuple[tuple[str, np.ndarray, np.ndarray], ...]
    length: np.ndarray
    angle: np.ndarray


@once_per_target
def rules_of(target: Target) -> Rules:
    """The rules for all atoms of ``target``; :class:`ChemistryError` where its chemistry has none."""
    weights: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    rows: dict[tuple[str, str, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    for copies in distinct_chains(target):
        layout = _Layout(target, copies)
        atom, bead, weight = layout.means()
        weights.append((copied(atom, copies.first_atom), copied(bead, copies.first_bead),
                        np.tile(weight, len(copies.first_atom))))
        for key, (atoms, beads) in layout.corrections().items():
            hands = target.bead_hand[copied(beads, copies.first_bead)]
            rows.setdefault(key, []).append((copied(atoms, copies.first_atom), hands))
    steps = []
    for section in _SECTIONS:
        for monomer in target.chemistry.monomers.values():
            for k, rule in enumerate(getattr(monomer.placement, section) if monomer.placement else ()):
                found = rows.get((section, monomer.name, k))
                if found:
                    steps.append((rule.kind, *(np.concatenate(part) for part in zip(*found))))
    atom, bead, weight = (np.concatenate(part) for part in zip(*weights))
    means = normalised_rows(weight, atom, bead, (target.n_atoms, target.n_beads))
    return Rules(means, tuple(steps), *_local_geometry(target))


def _local_geometry(target: Target) -> tuple[np.ndarray, np.ndarray]:
    light = np.array(target.elements) == "H"
    n_bonds = np.bincount(target.bonds.ravel(), minlength=target.n_atoms)
    return np.where(light, _BOND_TO_HYDROGEN_NM, _BOND_NM), np.where(n_bonds == 3, _TRIGONAL, _TETRAHEDRAL)


class _Layout:
    """Names of one chain's atoms and beads, numbered from its first."""

    def __init__(self, target: Target, copies: Copies):
        chemistry = target.chemistry
        self.target, self.chain = target, copies.chain
        self.monomers = [chemistry.monomers[name] for name in self.chain]
        chain = target.molecule_of_atom[copies.first_atom[0]]
        residues = np.flatnonzero(target.chain_of_residue == chain)
        self.atoms, n = [], 0
        for residue in residues:
            names = [atom.name for atom in chemistry.templates[target.residue_names[residue]].atoms]
            self.atoms.append({name: n + k for k, name in enumerate(names)})
            n += len(names)
        self.closing = self.atoms.pop() if chemistry.end else {}
        self.beads, n = [], 0
        for monomer in self.monomers:
            self.beads.append({bead.name: n + k for k, bead in enumerate(monomer.beads)})
            n += len(monomer.beads)

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Atoms, beads and weights, (n,) each."""
        found = []
        for k, monomer in enumerate(self.monomers):
            own_bead = {atom: bead.name for bead in monomer.beads for atom in bead.atoms}
            for atom, index in self.atoms[k].items():
                found += self._mean(index, _placement(monomer, self.target).means.get(atom, {own_bead[atom]: 1.0}), k)
        place = {"first": 0, "last": len(self.chain) - 1}
        for atom in self.target.chemistry.end.atoms if self.closing else ():
            side, bead = atom.bead
            found += self._mean(self.closing[atom.name], {bead: 1.0}, place[side])
        atom, bead, weight = zip(*found)
        return np.array(atom), np.array(bead), np.array(weight)

    def _mean(self, atom: int, weights, k: int) -> list[tuple[int, int, float]]:
        resolved = ((_resolve(ref, k, self.beads), weight) for ref, weight in weights.items())
        return [(atom, bead, weight) for bead, weight in resolved if bead is not None]

    def corrections(self) -> dict[tuple[str, str, int], tuple[np.ndarray, np.ndarray]]:
        """For each rule (section, monomer, number) the atoms (n, 3 to 5) and a bead (n,) of the monomer."""
        found: dict[tuple[str, str, int], list] = {}
        last = len(self.chain) - 1
        for k, monomer in enumerate(self.monomers):
            for section in _SECTIONS:
                if (section == "first" and k != 0) or (section == "last" and k != last):
                    continue
                tables = self.atoms
                if section != "corrections":
                    tables = [*tables[:k], {**self.closing, **tables[k]}, *tables[k + 1:]]
                for n, rule in enumerate(getattr(_placement(monomer, self.target), section)):
                    atoms = [_resolve(ref, k, tables) for ref in rule.atoms]
                    if None not in atoms:
                        bead = next(iter(self.beads[k].values()))
                        found.setdefault((section, monomer.name, n), []).append((atoms, bead))
        return {key: (np.array([a for a, _ in rows]), np.array([b for _, b in rows])) for key, rows in found.items()}


def _placement(monomer, target: Target) -> Placement:
    if monomer.placement is None:
        raise ChemistryError(f"chemistry {target.chemistry.name}: monomer {monomer.name} has no placement: the "
                             "geometric generator takes its rules from there; docs/chemistry.md says how to write them")
    return monomer.placement


def _resolve(ref: str, k: int, tables: list[dict[str, int]]) -> int | None:
    """Index of ``ref`` (``NAME``, ``-NAME``, ``+NAME``) seen from monomer ``k``; None where there is no such."""
    k += {"-": -1, "+": 1}.get(ref[0], 0)
    return tables[k].get(ref.lstrip("+-")) if 0 <= k < len(tables) else None


def correct(rules: Rules, positions: np.ndarray) -> np.ndarray:
    """Make the corrections of ``rules`` in their order; positions (n_atoms, 3), nm, come back changed."""
    x = np.array(positions, dtype=float)
    for kind, atoms, hand in rules.steps:
        moved, centre = atoms[:, 0], x[atoms[:, 1]]
        others = x[atoms[:, 2:]] - centre[:, None]
        x[moved] = centre + rules.length[moved, None] * _DIRECTIONS[kind](others, rules.angle[atoms[:, 1]], hand)
    return x


def _in_plane(others: np.ndarray, angle: np.ndarray, side: float) -> np.ndarray:
    along = _unit(others[:, 0])
    across = others[:, 1] - others[:, 0]
    across = _unit(across - (across * along).sum(1, keepdims=True) * along)
    return np.cos(angle)[:, None] * along + side * np.sin(angle)[:, None] * across


def _out(others: np.ndarray) -> np.ndarray:
    return -_unit(_unit(others).sum(1))


def _chiral(others: np.ndarray, hand: np.ndarray) -> np.ndarray:
    if others.shape[1] == 3:
        c, d, e = np.moveaxis(others, 1, 0)
        return -hand[:, None] * _unit(np.cross(d - c, e - c))
    half = _TETRAHEDRAL / 2
    normal = _unit(np.cross(others[:, 0], others[:, 1]))
    return np.cos(half) * _out(others) + np.sin(half) * hand[:, None] * normal


_DIRECTIONS = {
    "cis": lambda others, angle, hand: _in_plane(others, angle, 1.0),
    "trans": lambda others, angle, hand: _in_plane(others, angle, -1.0),
    "out": lambda others, angle, hand: _out(others),
    "chiral": lambda others, angle, hand: _chiral(others, hand)}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
