"""Matching what a file holds to what a chemistry knows: beads to monomers and chains, or atoms to templates.

Nothing is guessed: a bead that is missing, doubled or out of order, and a chain with a gap, are errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from openmm_backmap.chemistry.aliases import name_pattern, parse_aliases, rename
from openmm_backmap.chemistry.cg import CGTopology, as_cg_topology
from openmm_backmap.chemistry.spec import Chemistry, MonomerSpec
from openmm_backmap.chemistry.target import Target, build_target
from openmm_backmap.errors import ChemistryError, InputError
from openmm_backmap.geometry.periodic import make_whole, minimum_image
from openmm_backmap.geometry.plain import point_tree

__all__ = ["Match", "match_atoms", "match_beads", "parse_aliases", "whole_beads"]

SAME_PLACE_NM = 1e-4
# Last residue numbers of .pdb and .gro files, after which they start again from 0.
_NUMBERS_END = (9999, 99999)


@dataclass(frozen=True)
class Match:
    """Beads of a file, matched.

    Attributes
    ----------
    target : Target
        The atoms to place.
    bead_index : ndarray of int, shape (n_beads,)
        Bead of the file that is each bead of the target.
    """

    target: Target
    bead_index: np.ndarray


def match_beads(chemistry: Chemistry, topology, positions: np.ndarray, box: np.ndarray | None, *,
                aliases: Mapping[str, str] | None = None, where: str = "input") -> Match:
    """Find the chains of a coarse-grained system and lay out their atoms.

    Parameters
    ----------
    chemistry : Chemistry
    topology : CGTopology, openmm.app.Topology or mdtraj.Topology
    positions : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm, or None
    aliases : mapping, optional
        See :func:`openmm_backmap.chemistry.aliases.parse_aliases`.
    where : str
        Name of the input for messages.

    Raises
    ------
    ChemistryError
        Names are not known, beads are missing, or a chain has a gap.
    InputError
        Positions are not finite, two beads are in one place, or the numbers of beads and positions differ.
    """
    cg = as_cg_topology(topology)
    positions = np.asarray(positions, dtype=float)
    _check_positions(cg, positions, where)
    reader = _ResidueReader(chemistry, cg, aliases or {}, where)
    reader.check_names()
    chains = _chains(reader)
    for chain in chains:
        _check_length(chemistry, cg, chain, where)
    target = build_target(chemistry, [[unit.monomer for unit in chain] for chain in chains])
    bead_index = np.array([bead for chain in chains for unit in chain for bead in unit.beads], dtype=np.int64)
    _check_distinct(cg, positions, box, where)
    _check_links(target, cg, bead_index, positions, box, where)
    return Match(target, bead_index)


def whole_beads(target: Target, positions: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Positions (n_beads, 3), nm, in the order of ``target``, with chains joined that are broken across the box."""
    return make_whole(positions, box, target.bead_bonds)


@dataclass(frozen=True)
class _Unit:
    """A monomer found in the file: its name, residue and beads."""

    monomer: str
    residue: int
    beads: range


class _ResidueReader:
    """Reads the beads of residues as monomers; residues of equal names are read once."""

    def __init__(self, chemistry: Chemistry, cg: CGTopology, aliases: Mapping[str, str], where: str):
        self.chemistry, self.cg, self.aliases, self.where = chemistry, cg, aliases, where
        self.known = {*chemistry.cg.residues, *chemistry.monomers}
        self.start = np.flatnonzero(np.diff(cg.residue_of_bead, prepend=-1))
        self.stop = np.append(self.start[1:], cg.n_beads)
        self._renamed: dict[str, str] = {}
        self._read: dict[tuple, list[list[tuple[str, int, int]]]] = {}

    def check_names(self) -> None:
        unknown = Counter(name for name in self.cg.residue_names if self._name(name) not in self.known)
        if unknown:
            listing = ", ".join(f"{name or '(blank)'} ({count})" for name, count in unknown.most_common(12))
            listing += f" and {len(unknown) - 12} more names" if len(unknown) > 12 else ""
            raise ChemistryError(
                f"{self.where}: the chemistry {self.chemistry.name} does not know the residues {listing}; it knows "
                f"{', '.join(sorted(self.known))}: remove them from the input, or rename them with --alias OLD=NEW")

    def runs(self, residue: int) -> list[list[_Unit]]:
        """The monomers of a residue, in runs of consecutive numbers: a run is a chain, or a part of one."""
        start = int(self.start[residue])
        names = tuple(map(self._name, self.cg.bead_names[start:self.stop[residue]]))
        key = (self._name(self.cg.residue_names[residue]), names)
        if key not in self._read:
            self._read[key] = self._parse(residue, *key)
        return [[_Unit(monomer, residue, range(start + a, start + b)) for monomer, a, b in run]
                for run in self._read[key]]

    def _parse(self, residue: int, residue_name: str, names: tuple[str, ...]):
        for naming in self.chemistry.cg.namings:
            for monomer in self._candidates(residue_name):
                beads = [bead.name for bead in monomer.beads]
                if set(beads) <= set(naming):
                    table = {name: _as_bead(name, beads, naming) for name in set(names)}
                    if None not in table.values():
                        return self._walk(residue, monomer, naming, [table[name] for name in names], names)
        namings = " or ".join(", ".join(sorted(n.values())) for n in self.chemistry.cg.namings)
        raise ChemistryError(f"{self._label(residue)}: its beads {_short(names)} fit none of the names that the "
                             f"chemistry {self.chemistry.name} knows ({namings}; # is an optional number): rename them "
                             "with --alias OLD=NEW")

    def _candidates(self, residue_name: str) -> list[MonomerSpec]:
        monomers = self.chemistry.monomers
        return [monomers[residue_name]] if residue_name in monomers else list(monomers.values())

    def _walk(self, residue: int, monomer: MonomerSpec, naming, beads: list[tuple[str, int | None]], names):
        """Cut beads, read as (bead, number), into monomers and runs; refuse what is missing or out of order."""
        order, size = [bead.name for bead in monomer.beads], len(monomer.beads)
        runs: list[list[tuple[str, int, int]]] = [[]]
        first = beads[0][1]
        expected = first
        for i, (bead, number) in enumerate(beads):
            place = i % size
            if place == 0 and i and first is not None:
                # Numbers that start again open another chain, as where several chains share one residue number.
                if number == first:
                    runs.append([])
                expected = number if number == first else expected + 1
            if bead != order[place] or number != expected:
                wanted = naming[order[place]].replace("#", "" if expected is None else str(expected))
                after = f" after bead {names[i - 1]}" if i else ""
                raise ChemistryError(f"{self._label(residue)}: found bead {names[i]} where {wanted} was expected"
                                     f"{after}: a bead is missing or out of order")
            if place == size - 1:
                runs[-1].append((monomer.name, i + 1 - size, i + 1))
        if len(beads) % size:
            wanted = naming[order[len(beads) % size]].replace("#", "" if expected is None else str(expected))
            raise ChemistryError(f"{self._label(residue)}: bead {wanted} is missing after its last bead {names[-1]}")
        if not self.chemistry.cg.chain_in_residue and len(beads) > size:
            raise ChemistryError(f"{self._label(residue)} holds {len(beads)} beads; a residue of the chemistry "
                                 f"{self.chemistry.name} holds one monomer of {size}: {', '.join(order)}")
        return runs

    def _label(self, residue: int) -> str:
        return f"{self.where}: residue {self.cg.residue_label(residue)}"

    def _name(self, name: str) -> str:
        if name not in self._renamed:
            self._renamed[name] = rename(name, self.aliases)
        return self._renamed[name]


def _as_bead(name: str, beads: list[str], naming: Mapping[str, str]) -> tuple[str, int | None] | None:
    for bead in beads:
        if found := name_pattern(naming[bead]).fullmatch(name):
            return bead, int(found.group(1)) if found.groups() and found.group(1) else None
    return None


def _short(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _chains(reader: _ResidueReader) -> list[list[_Unit]]:
    """Chains in file order: a residue with several monomers is one, residues with a single monomer are joined."""
    chains: list[list[_Unit]] = []
    singles: list[_Unit] = []
    for residue in range(reader.cg.n_residues):
        runs = reader.runs(residue)
        if len(runs) == 1 and len(runs[0]) == 1:
            singles.append(runs[0][0])
        else:
            chains.extend(runs)
    chains.extend(_join(reader, singles))
    return sorted(chains, key=lambda chain: chain[0].beads[0])


def _join(reader: _ResidueReader, units: list[_Unit]) -> list[list[_Unit]]:
    linkable = [u for u in units if reader.chemistry.monomers[u.monomer].in_chains]
    lone = [[u] for u in units if not reader.chemistry.monomers[u.monomer].in_chains]
    if not linkable:
        return lone
    _check_numbering(reader, linkable)
    if reader.cg.bonds is not None and len(reader.cg.bonds):
        return lone + _join_by_bonds(reader, linkable)
    chains = [[linkable[0]]]
    for before, unit in zip(linkable, linkable[1:]):
        if _follows(reader.cg, before.residue, unit.residue):
            chains[-1].append(unit)
        else:
            chains.append([unit])
    return lone + chains


def _step(cg: CGTopology, before: int, residue: int) -> int:
    """By how much the residue number grows; 0 where a new chain starts."""
    a, b = int(cg.residue_numbers[before]), int(cg.residue_numbers[residue])
    if cg.chain_of_residue[before] != cg.chain_of_residue[residue]:
        return 0
    if b in (0, 1) and a in _NUMBERS_END and residue == before + 1:
        return 1
    return max(0, b - a)


def _follows(cg: CGTopology, before: int, residue: int) -> bool:
    return _step(cg, before, residue) == 1


def _check_numbering(reader: _ResidueReader, units: list[_Unit]) -> None:
    cg = reader.cg
    for before, unit in zip(units, units[1:]):
        if _step(cg, before.residue, unit.residue) > 1:
            raise ChemistryError(
                f"{reader.where}: gap between residues {cg.residue_label(before.residue)} and "
                f"{cg.residue_label(unit.residue)} of one chain: residues are missing; if they are two chains, give "
                "them different chain identifiers or restart the residue numbers")


def _join_by_bonds(reader: _ResidueReader, units: list[_Unit]) -> list[list[_Unit]]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    cg = reader.cg
    ends = cg.residue_of_bead[cg.bonds]
    ends = ends[ends[:, 0] != ends[:, 1]]
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(cg.n_residues, cg.n_residues))
    component = connected_components(graph, directed=False)[1]
    bonded = {frozenset(pair) for pair in ends.tolist()}
    chains: dict[int, list[_Unit]] = {}
    for unit in units:
        chain = chains.setdefault(int(component[unit.residue]), [])
        if chain and frozenset((chain[-1].residue, unit.residue)) not in bonded:
            raise ChemistryError(
                f"{reader.where}: residues {cg.residue_label(chain[-1].residue)} and {cg.residue_label(unit.residue)} "
                "follow each other in one bonded molecule but are not bonded: a chain must be linear, with its "
                "monomers in order")
        chain.append(unit)
    return list(chains.values())


def _check_length(chemistry: Chemistry, cg: CGTopology, chain: list[_Unit], where: str) -> None:
    monomer = chemistry.monomers[chain[0].monomer]
    if len(chain) == 1 and "single" not in monomer.residues:
        raise ChemistryError(
            f"{where}: residue {cg.residue_label(chain[0].residue)} is a chain of one monomer; the chemistry "
            f"{chemistry.name} needs at least 2 in a chain: if it belongs to a longer one, its bonds, chain identifier "
            "or residue number do not say so")


def _check_positions(cg: CGTopology, positions: np.ndarray, where: str) -> None:
    if positions.shape != (cg.n_beads, 3):
        raise InputError(f"{where}: positions of shape {positions.shape} for {cg.n_beads} beads; expected "
                         f"({cg.n_beads}, 3)")
    if not cg.n_beads:
        raise InputError(f"{where}: there are no beads")
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise InputError(f"{where}: {cg.bead_label(bad[0])} has a position that is not finite"
                         + (f" ({len(bad)} such beads)" if len(bad) > 1 else ""))


def _check_distinct(cg: CGTopology, positions: np.ndarray, box: np.ndarray | None, where: str) -> None:
    """Refuse two beads in one place; a tree over periodic fractional coordinates also holds for triclinic boxes."""
    if box is None:
        points, period, stretch = positions, None, 1.0
    else:
        inverse = np.linalg.inv(box)
        points = np.mod(positions @ inverse, 1.0)
        points[points >= 1.0] = 0.0
        period, stretch = 1.0, np.linalg.norm(inverse, 2)
    # Exact doubles first: a tree is slow where many points coincide.
    _, first, inverse_index = np.unique(points, axis=0, return_index=True, return_inverse=True)
    pairs = np.stack([first[inverse_index.ravel()], np.arange(len(points))], axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    if not len(pairs):
        pairs = point_tree(points, boxsize=period).query_pairs(SAME_PLACE_NM * stretch, output_type="ndarray")
    distances = np.linalg.norm(minimum_image(positions[pairs[:, 0]] - positions[pairs[:, 1]], box), axis=1)
    close = pairs[distances < SAME_PLACE_NM]
    if len(close):
        a, b = close[0]
        raise InputError(f"{where}: {cg.bead_label(a)} and {cg.bead_label(b)} are in one place"
                         + (f" ({len(close)} such pairs)" if len(close) > 1 else ""))


def _check_links(target: Target, cg: CGTopology, bead_index, positions, box, where: str) -> None:
    i, j = bead_index[target.bead_bonds].T
    distances = np.linalg.norm(minimum_image(positions[j] - positions[i], box), axis=1)
    limit = target.chemistry.cg.max_link_nm
    far = np.flatnonzero(distances > limit)
    if len(far):
        k = far[np.argmax(distances[far])]
        hint = ": without a periodic box, molecules must be whole" if box is None else \
            ": check the box, and whether these are two chains that chain identifiers, bonds or restarting residue " \
            "numbers should tell apart"
        raise ChemistryError(f"{where}: gap of {distances[k]:.3f} nm between linked {cg.bead_label(i[k])} and "
                             f"{cg.bead_label(j[k])}; at most {limit:g} nm are allowed ({len(far)} such gaps){hint}")


def match_atoms(chemistry: Chemistry, topology, *, where: str = "input") -> Target:
    """The target of an atomistic structure whose residues are templates of the chemistry, in its atom order.

    Chains are told apart by template: one opens where a residue is a monomer's first or single template, after a
    residue that closes a chain, or where the file begins another chain.
    """
    cg = as_cg_topology(topology)
    target = build_target(chemistry, _template_chains(chemistry, cg, where))
    for k in range(max(len(target.residue_names), cg.n_residues)):
        found = cg.residue_label(k) if k < cg.n_residues else "the end of the file"
        if k >= min(len(target.residue_names), cg.n_residues) or cg.residue_names[k] not in (
                target.residue_names[k], chemistry.written(target.residue_names[k])):
            wanted = target.residue_names[k] if k < len(target.residue_names) else "no more residues"
            raise ChemistryError(f"{where}: found {found} where the chemistry {chemistry.name} expects {wanted}")
    same = np.array_equal(cg.residue_of_bead, target.residue_of_atom)
    if not same or cg.bead_names != target.atom_names:
        raise ChemistryError(f"{where}: {_first_difference(cg, target)}")
    return target


def _template_chains(chemistry: Chemistry, cg: CGTopology, where: str) -> list[list[str]]:
    monomer_of = {t: m for m in chemistry.monomers.values()
                  for name in m.residues.values() for t in (name, chemistry.written(name))}
    end = chemistry.end.residue if chemistry.end else None
    chains: list[list[str]] = []
    is_open, file_chain = False, None
    for k, name in enumerate(cg.residue_names):
        if name == end:
            is_open = False
            continue
        if name not in monomer_of:
            known = ", ".join(sorted({*monomer_of, *([end] if end else [])}))
            raise ChemistryError(f"{where}: residue {cg.residue_label(k)} is no template of the chemistry "
                                 f"{chemistry.name} ({known})")
        monomer = monomer_of[name]
        opens = name in (monomer.residues.get("first"), monomer.residues.get("single"))
        if opens or not is_open or not monomer.in_chains or cg.chain_of_residue[k] != file_chain:
            chains.append([])
        chains[-1].append(monomer.name)
        is_open, file_chain = name != monomer.residues.get("last"), cg.chain_of_residue[k]
    return chains


def _first_difference(cg: CGTopology, target: Target) -> str:
    for k, name in enumerate(target.residue_names):
        wanted = [target.atom_names[i] for i in np.flatnonzero(target.residue_of_atom == k)]
        found = [cg.bead_names[i] for i in np.flatnonzero(cg.residue_of_bead == k)]
        if wanted != found:
            return (f"residue {cg.residue_label(k)} holds the atoms {', '.join(found)}; template {name} has "
                    f"{', '.join(wanted)} in this order")
    raise AssertionError("called for structures that do not differ")
