"""The atomistic target of a coarse-grained system: what has to be placed, and the mapping M that must hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.chemistry.spec import Chemistry, MonomerSpec
from openmm_backmap.errors import ChemistryError
from openmm_backmap.geometry.plain import WeightedSums, bonds_apart

if TYPE_CHECKING:
    from scipy import sparse

NONE = -1


@dataclass(frozen=True)
class Target:
    """Plain arrays that describe the atoms to be generated for a set of beads.

    Attributes
    ----------
    chemistry : Chemistry
    chains : tuple of tuple of str
        Monomer names, chain by chain.
    atom_names, residue_of_atom, residue_names, chain_of_residue
        The atomistic topology; ``residue_names[residue_of_atom[i]]`` is the force-field template of atom i's residue.
    elements : tuple of str, length n_atoms
    atom_type : ndarray of int, shape (n_atoms,)
        Index into ``chemistry.type_classes``.
    masses : ndarray, shape (n_atoms,), dalton
    bonds : ndarray of int, shape (n_bonds, 2)
    bead_type : ndarray of int, shape (n_beads,)
        Index into ``chemistry.bead_types``.
    bead_of_atom : ndarray of int, shape (n_atoms,)
    bead_bonds : ndarray of int, shape (n_bead_bonds, 2)
    bead_frame : ndarray of int, shape (n_beads, 2)
        Beads that orient the frame of each bead (z towards the first, x towards the second); -1 where there is none.
    mapping : scipy.sparse.csr_array, shape (n_beads, n_atoms)
        M, rows normalised: bead positions are ``mapping @ atom positions`` of whole molecules. Where there is no
        scipy, a :class:`~openmm_backmap.geometry.plain.WeightedSums`.
    stereo : ndarray of int, shape (n_centres, 4)
        Centre and three neighbours; ``stereo_sign`` is the required sign of (n1-c) x (n2-c) . (n3-c).
    stereo_sign : ndarray of int, shape (n_centres,)
    bead_hand : ndarray of int, shape (n_beads,)
        Hand of the bead's monomer, +1 or -1: environments of either hand are mirror images of each other.
    excluded : ndarray of int, shape (n_excluded, 2)
        Pairs that have no nonbonded interaction beyond what the force field itself excludes.
    swaps : tuple of (ndarray, ndarray)
        Each a pair of atom index arrays whose labels are equivalent by symmetry.
    molecule_of_bead : ndarray of int, shape (n_beads,)
    molecule_of_atom : ndarray of int, shape (n_atoms,)
    """

    chemistry: Chemistry
    chains: tuple[tuple[str, ...], ...]
    atom_names: tuple[str, ...]
    residue_of_atom: np.ndarray
    residue_names: tuple[str, ...]
    chain_of_residue: np.ndarray
    elements: tuple[str, ...]
    atom_type: np.ndarray
    masses: np.ndarray
    bonds: np.ndarray
    bead_type: np.ndarray
    bead_of_atom: np.ndarray
    bead_bonds: np.ndarray
    bead_frame: np.ndarray
    mapping: sparse.csr_array = field(repr=False)
    stereo: np.ndarray
    stereo_sign: np.ndarray
    bead_hand: np.ndarray
    excluded: np.ndarray
    swaps: tuple[tuple[np.ndarray, np.ndarray], ...]
    molecule_of_bead: np.ndarray
    molecule_of_atom: np.ndarray

    @property
    def n_atoms(self) -> int:
        return len(self.atom_type)

    @property
    def n_beads(self) -> int:
        return len(self.bead_type)

    def atoms_that_are_beads(self) -> np.ndarray | None:
        """Atoms (n_beads,) at which the beads are; None where a bead is more than one atom."""
        mapping = self.mapping.toarray()
        return mapping.argmax(1) if ((mapping > 0).sum(1) == 1).all() else None

    def atoms_by_name(self) -> dict[tuple[int, str], int]:
        """Atoms by residue and name."""
        return {(int(residue), name): k for k, (residue, name) in enumerate(zip(self.residue_of_atom, self.atom_names))}

    @cached_property
    def topology(self):
        """The atomistic ``openmm.app.Topology`` (no box; see :func:`openmm_backmap.chemistry.system.with_box`)."""
        return self.new_topology()

    def new_topology(self):
        """One that belongs to the caller; to copy :attr:`topology` takes twice as long."""
        from openmm import app

        topology = app.Topology()
        chains = [topology.addChain() for _ in self.chains]
        first = self._first_residue_of_chain()
        residues = [topology.addResidue(self.chemistry.written(name), chains[c], str(1 + i - first[c]))
                    for i, (name, c) in enumerate(zip(self.residue_names, self.chain_of_residue))]
        atoms = [topology.addAtom(name, app.Element.getBySymbol(element), residues[r])
                 for name, element, r in zip(self.atom_names, self.elements, self.residue_of_atom)]
        for i, j in self.bonds.tolist():
            topology.addBond(atoms[i], atoms[j])
        return topology

    def _first_residue_of_chain(self) -> np.ndarray:
        return np.searchsorted(self.chain_of_residue, np.arange(len(self.chains)))

    def graph_distances(self, max_distance: int) -> sparse.csr_array:
        """Numbers of bonds between atoms of one molecule, up to ``max_distance``; sparse, self and farther absent."""
        from scipy import sparse

        n = self.n_atoms
        i, j = self.bonds.T
        adjacency = sparse.csr_array((np.ones(2 * len(i), bool), (np.r_[i, j], np.r_[j, i])), shape=(n, n))
        seen = sparse.csr_array(sparse.eye_array(n, dtype=bool))
        front, distance = seen, sparse.csr_array((n, n), dtype=np.int8)
        for step in range(1, max_distance + 1):
            reached = (front @ adjacency).astype(bool)
            front = (reached.astype(np.int8) - reached.multiply(seen).astype(np.int8)) > 0
            seen = (seen + front).astype(bool)
            distance = distance + front.astype(np.int8) * step
        distance.eliminate_zeros()
        return sparse.csr_array(distance)

    def graph_pairs(self, max_distance: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The entries of :meth:`graph_distances`: row, column, distance, each (n_pairs,); needs no scipy."""
        try:
            pairs = self.graph_distances(max_distance).tocoo()
        except ImportError:
            return bonds_apart(self.n_atoms, self.bonds, max_distance)
        return pairs.row.astype(np.int64), pairs.col.astype(np.int64), pairs.data


def build_target(chemistry: Chemistry, chains) -> Target:
    """Lay out the atoms of ``chains`` (lists of monomer names, one list a chain) in the order of their beads.

    Beads are numbered chain by chain, monomer by monomer, in the order in which the chemistry lists them.
    """
    chains = tuple(tuple(chain) for chain in chains)
    # A melt has few distinct chains and many copies: each is laid out once.
    parts = {chain: _ChainBuilder(chemistry, chain).build() for chain in dict.fromkeys(chains)}
    return _join([parts[chain] for chain in chains])


def _join(parts: list[Target]) -> Target:
    """One target of many single-chain ones."""
    def offsets(counts) -> np.ndarray:
        return np.cumsum([0, *counts])[:-1]

    def shifted(name: str, by: np.ndarray) -> np.ndarray:
        arrays = [getattr(part, name) for part in parts]
        return np.concatenate([np.where(a >= 0, a + shift, a) for a, shift in zip(arrays, by, strict=True)])

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    def names(name: str) -> tuple[str, ...]:
        return tuple(chain.from_iterable(getattr(part, name) for part in parts))

    atom, bead = offsets([p.n_atoms for p in parts]), offsets([p.n_beads for p in parts])
    residue, number = offsets([len(p.residue_names) for p in parts]), np.arange(len(parts))
    swaps = [(a + shift, b + shift) for part, shift in zip(parts, atom, strict=True) for a, b in part.swaps]
    return Target(
        chemistry=parts[0].chemistry, chains=names("chains"), atom_names=names("atom_names"),
        residue_of_atom=shifted("residue_of_atom", residue), residue_names=names("residue_names"),
        chain_of_residue=shifted("chain_of_residue", number), elements=names("elements"),
        atom_type=joined("atom_type"), masses=joined("masses"), bonds=shifted("bonds", atom),
        bead_type=joined("bead_type"), bead_of_atom=shifted("bead_of_atom", bead),
        bead_bonds=shifted("bead_bonds", bead), bead_frame=shifted("bead_frame", bead),
        mapping=_block_diagonal([part.mapping for part in parts]),
        stereo=shifted("stereo", atom), stereo_sign=joined("stereo_sign"), bead_hand=joined("bead_hand"),
        excluded=shifted("excluded", atom), swaps=tuple(swaps),
        molecule_of_bead=shifted("molecule_of_bead", number), molecule_of_atom=shifted("molecule_of_atom", number))


def _block_diagonal(parts: list):
    if isinstance(parts[0], WeightedSums):
        return WeightedSums.block_diagonal(parts)
    from scipy import sparse

    return sparse.csr_array(sparse.block_diag(parts, format="csr"))


def normalised_rows(weights: list[float], rows: list[int], columns: list[int], shape: tuple[int, int]):
    """The matrix of these entries, each row divided by its sum."""
    try:
        from scipy import sparse
    except ImportError:
        weight, row = np.array(weights), np.array(rows, dtype=np.int64)
        return WeightedSums(row, np.array(columns, dtype=np.int64), weight / np.bincount(row, weight)[row], shape)
    mapping = sparse.csr_array((weights, (rows, columns)), shape=shape)
    return sparse.csr_array(sparse.diags_array(1.0 / mapping.sum(axis=1)) @ mapping)


class _ChainBuilder:
    """Collects atoms and beads of one chain."""

    def __init__(self, chemistry: Chemistry, chain: tuple[str, ...]):
        self.chemistry, self.chain = chemistry, chain
        self.type_index = {name: k for k, name in enumerate(chemistry.type_classes)}
        self.bead_type_index = {name: k for k, name in enumerate(chemistry.bead_types)}
        self.atoms: list = []                 # TemplateAtom
        self.residue_of_atom: list[int] = []
        self.bead_of_atom: list[int] = []
        self.residue_names: list[str] = []
        self.bonds: list[tuple[int, int]] = []
        self.bead_specs: list = []
        self.frames: list[tuple[int, int]] = []
        self.bead_bonds: list[tuple[int, int]] = []
        self.rows: list[int] = []
        self.cols: list[int] = []
        self.weights: list[float] = []
        self.stereo: list[tuple[int, ...]] = []
        self.signs: list[int] = []
        self.hands: list[int] = []
        self.no_nonbonded_beads: list[int] = []
        self.no_nonbonded_pairs: list[tuple[int, int]] = []
        self.swaps: list[tuple[np.ndarray, np.ndarray]] = []

    def build(self) -> Target:
        self._add_chain()
        mapping = normalised_rows(self.weights, self.rows, self.cols, (len(self.bead_specs), len(self.atoms)))
        array = lambda values, width: np.array(values, dtype=np.int64).reshape(-1, width)  # noqa: E731
        return Target(
            chemistry=self.chemistry, chains=(self.chain,), atom_names=tuple(a.name for a in self.atoms),
            residue_of_atom=np.array(self.residue_of_atom), residue_names=tuple(self.residue_names),
            chain_of_residue=np.zeros(len(self.residue_names), dtype=np.int64),
            elements=tuple(a.element for a in self.atoms),
            atom_type=np.array([self.type_index[a.type_class] for a in self.atoms]),
            masses=np.array([a.mass for a in self.atoms]), bonds=array(self.bonds, 2),
            bead_type=np.array([self.bead_type_index[s.type] for s in self.bead_specs]),
            bead_of_atom=np.array(self.bead_of_atom), bead_bonds=array(self.bead_bonds, 2),
            bead_frame=array(self.frames, 2), mapping=mapping, stereo=array(self.stereo, 4),
            stereo_sign=np.array(self.signs, dtype=np.int64),
            bead_hand=np.array(self.hands, dtype=np.int64), excluded=self._excluded(), swaps=tuple(self.swaps),
            molecule_of_bead=np.zeros(len(self.bead_specs), dtype=np.int64),
            molecule_of_atom=np.zeros(len(self.atoms), dtype=np.int64))

    def _add_chain(self) -> None:
        monomers = [self._monomer(name) for name in self.chain]
        atom_of = [self._add_atoms(m.residue(k, len(self.chain))) for k, m in enumerate(monomers)]
        bead_of = [self._add_beads(m) for m in monomers]
        for k, monomer in enumerate(monomers):
            self._add_monomer(k, monomer, atom_of, bead_of)
        if self.chemistry.end:
            self._add_end(atom_of, bead_of)

    def _monomer(self, name: str) -> MonomerSpec:
        try:
            return self.chemistry.monomers[name]
        except KeyError:
            raise ChemistryError(f"chemistry {self.chemistry.name} has no monomer {name!r}; "
                                 f"known: {', '.join(self.chemistry.monomers)}") from None

    def _add_atoms(self, residue: str) -> dict[str, int]:
        template = self.chemistry.templates[residue]
        start = len(self.atoms)
        index = {atom.name: start + k for k, atom in enumerate(template.atoms)}
        self.atoms.extend(template.atoms)
        self.residue_of_atom.extend([len(self.residue_names)] * len(template.atoms))
        self.bead_of_atom.extend([NONE] * len(template.atoms))
        self.residue_names.append(residue)
        self.bonds.extend((index[a], index[b]) for a, b in template.bonds)
        return index

    def _add_beads(self, monomer: MonomerSpec) -> dict[str, int]:
        start = len(self.bead_specs)
        self.bead_specs.extend(monomer.beads)
        return {bead.name: start + k for k, bead in enumerate(monomer.beads)}

    def _add_monomer(self, k: int, monomer: MonomerSpec, atom_of, bead_of) -> None:
        last = len(atom_of) - 1
        for bead in monomer.beads:
            b = bead_of[k][bead.name]
            # The templates of a monomer may differ: an amino acid has other atoms at the ends of a chain.
            for atom in atom_of[k].keys() & set(bead.atoms):
                self.bead_of_atom[atom_of[k][atom]] = b
            shares = bead.first if bead.first and k == 0 else bead.last if bead.last and k == last else bead.mass_shares
            for ref, share in shares.items():
                atom = _resolve(ref, k, atom_of)
                if atom is not None:
                    self.rows.append(b), self.cols.append(atom)
                    self.weights.append(float(share) * self.atoms[atom].mass)
            self.frames.append(_first_frame(bead.frames, k, bead_of))
        for refs, table, out in ((monomer.links, atom_of, self.bonds), (monomer.bead_bonds, bead_of, self.bead_bonds),
                                 (monomer.no_nonbonded, atom_of, self.no_nonbonded_pairs)):
            for a, b in refs:
                pair = (_resolve(a, k, table), _resolve(b, k, table))
                if None not in pair:
                    out.append(pair)
        hands = [c.sign * (-1 if c.pattern == "alternate" and k % 2 else 1) for c in monomer.stereocentres]
        self.hands.extend([hands[0] if hands else 1] * len(monomer.beads))
        for centre, hand in zip(monomer.stereocentres, hands):
            atoms = [_resolve(ref, k, atom_of) for ref in (centre.centre, *centre.neighbours)]
            if None not in atoms:
                self.stereo.append(tuple(atoms))
                self.signs.append(hand)
        self.no_nonbonded_beads.extend(bead_of[k][name] for name in monomer.no_nonbonded_within)
        for a, b in monomer.equivalent:
            self.swaps.append((np.array([atom_of[k][x] for x in a]), np.array([atom_of[k][x] for x in b])))

    def _add_end(self, atom_of, bead_of) -> None:
        index = self._add_atoms(self.chemistry.end.residue)
        place = {"first": 0, "last": len(atom_of) - 1}
        for atom in self.chemistry.end.atoms:
            side, name = atom.bond
            self.bonds.append((atom_of[place[side]][name], index[atom.name]))
            side, name = atom.bead
            self.bead_of_atom[index[atom.name]] = bead_of[place[side]][name]

    def _excluded(self) -> np.ndarray:
        wanted = set(self.no_nonbonded_beads)
        members: dict[int, list[int]] = {}
        for atom, bead in enumerate(self.bead_of_atom):
            if bead in wanted:
                members.setdefault(bead, []).append(atom)
        pairs = [(i, j) for atoms in members.values() for n, i in enumerate(atoms) for j in atoms[n + 1:]]
        pairs.extend((min(pair), max(pair)) for pair in self.no_nonbonded_pairs)
        return np.array(list(dict.fromkeys(pairs)), dtype=np.int64).reshape(-1, 2)


def _resolve(ref: str, k: int, table) -> int | None:
    """Index of ``ref`` (``NAME``, ``-NAME``, ``+NAME``) seen from place ``k``; None where the chain ends before it."""
    shift = {"-": -1, "+": 1}.get(ref[0], 0)
    if not 0 <= k + shift < len(table):
        return None
    return table[k + shift][ref.lstrip("+-")]


def _first_frame(frames, k: int, bead_of) -> tuple[int, int]:
    """The first frame whose beads all exist; failing that, the first existing single neighbour; failing that none."""
    best = (NONE, NONE)
    for pair in frames:
        found = [_resolve(ref, k, bead_of) for ref in pair]
        if None not in found:
            return found[0], found[1] if len(found) > 1 else NONE
        if best == (NONE, NONE) and found[0] is not None:
            best = (found[0], NONE)
    return best
