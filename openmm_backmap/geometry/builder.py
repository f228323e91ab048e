"""Three-dimensional molecules from their bond graph: ideal local geometry, random torsions, the right hands."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.geometry.checks import pierced_rings
from openmm_backmap.geometry.periodic import spanning_order
from openmm_backmap.geometry.tables import neighbour_lists

_TETRAHEDRAL = np.arccos(-1 / 3)
_ENOUGH_NM = 0.22
_CLOSED_NM = 0.02
_TRIES = 24
_REGROWTHS = 50


def build_coordinates(target: Target, rng: np.random.Generator) -> np.ndarray:
    """Positions (n_atoms, 3), nm, of every molecule of ``target`` by itself, with random staggered torsions.

    Atoms with four bonds are tetrahedral, with three trigonal, and so is an atom of a ring with two (an aromatic
    nitrogen); bonds between trigonal atoms are planar, so regular rings close, and others nearly. Torsions that leave
    room are preferred, and molecules with a bond through a ring are grown again; what still overlaps, and rings that
    are not quite closed, are for a minimiser.
    """
    from openmm_backmap.chemistry import create_system

    lengths = _bond_lengths(create_system(target, None))
    grower = _Grower(target, lengths, rng)
    grower.grow(np.arange(len(target.chains)))
    for _ in range(_REGROWTHS):
        pierced = _pierced_molecules(target, grower.x)
        if not len(pierced):
            break
        grower.grow(pierced)
    return grower.x


def _pierced_molecules(target: Target, positions: np.ndarray) -> np.ndarray:
    """Molecules in which a bond passes through one of their own rings."""
    width = 2 * np.abs(positions).max() + 1.0
    apart = positions + target.molecule_of_atom[:, None] * np.array([width, 0.0, 0.0])
    bonds = pierced_rings(target, apart, None)[:, 1]
    return np.unique(target.molecule_of_atom[target.bonds[bonds, 0]])


def _bond_lengths(system) -> dict[tuple[int, int], float]:
    from openmm import HarmonicBondForce, unit

    nm = unit.nanometer
    found = {}
    for k in range(system.getNumConstraints()):
        i, j, length = system.getConstraintParameters(k)
        found[i, j] = found[j, i] = length.value_in_unit(nm)
    for force in system.getForces():
        if isinstance(force, HarmonicBondForce):
            for k in range(force.getNumBonds()):
                i, j, length, _ = force.getBondParameters(k)
                found[i, j] = found[j, i] = length.value_in_unit(nm)
    return found


class _Grower:
    """Grows molecules atom by atom along a spanning tree of the bond graph."""

    def __init__(self, target: Target, lengths, rng):
        self.target, self.lengths, self.rng = target, lengths, rng
        self.neighbours = neighbour_lists(target.n_atoms, target.bonds)
        self.order, self.before = spanning_order(target.n_atoms, target.bonds)
        self.stereo = {row[0]: (row[1:], sign) for row, sign in zip(target.stereo.tolist(), target.stereo_sign)}
        graph = nx.Graph(target.bonds.tolist())
        self.rings_of: dict[int, list[set[int]]] = {}
        for ring in map(set, nx.cycle_basis(graph)):
            for atom in ring:
                self.rings_of.setdefault(atom, []).append(ring)
        self.slots_of = [3 if len(near) == 2 and atom in self.rings_of else len(near)
                         for atom, near in enumerate(self.neighbours)]
        self.x = np.full((target.n_atoms, 3), np.nan)

    def grow(self, molecules: np.ndarray) -> None:
        molecule = self.target.molecule_of_atom
        self.x[np.isin(molecule, molecules)] = np.nan
        sequence = self.order[np.argsort(molecule[self.order], kind="stable")]
        parts = np.split(sequence, np.cumsum(np.bincount(molecule))[:-1])
        for m in molecules.tolist():
            self._grow(parts[m].tolist())

    def _grow(self, members: list[int]) -> None:
        self.x[members[0]] = 0.0
        placed = np.array(members[:1])
        for atom in members:
            children = [n for n in self.neighbours[atom] if np.isnan(self.x[n, 0])]
            if children:
                self.x[children] = self._roomiest(atom, children, placed)
                placed = np.append(placed, children)

    def _roomiest(self, atom: int, children: list[int], placed: np.ndarray) -> np.ndarray:
        """Positions of ``children``: the first that leave enough room, else those that leave the most; where a ring
        does not close, those that close it best."""
        near = [atom, *self.neighbours[atom], *(n for child in children for n in self.neighbours[child])]
        placed = np.setdiff1d(placed, near)
        length = np.array([[self.lengths[atom, c]] for c in children])
        best, best_gap, nearest, least = None, -1.0, None, np.inf
        for directions in self._directions(atom, len(children)):
            spots = self.x[atom] + directions * length
            misfit = self._misfit(atom, children, spots)
            if misfit > _CLOSED_NM:
                if nearest is None or misfit < least:
                    nearest, least = spots, misfit
                continue
            gap = np.linalg.norm(spots[:, None] - self.x[placed], axis=-1).min() if len(placed) else np.inf
            if gap > best_gap:
                best, best_gap = spots, gap
            if gap > _ENOUGH_NM:
                break
        return nearest if best is None else best

    def _misfit(self, atom: int, children: list[int], spots: np.ndarray) -> float:
        """How far (nm) rings are from meeting their own atoms at bond length; infinite where they turn outwards."""
        parent, misfit = self.before[atom], 0.0
        for child, spot in zip(children, spots):
            if parent >= 0 and self._in_one_ring(atom, parent, child) and not self._cis(atom, parent, child, spot):
                return np.inf
            for n in self.neighbours[child]:
                if n != atom and not np.isnan(self.x[n, 0]):
                    misfit = max(misfit, abs(np.linalg.norm(self.x[n] - spot) - self.lengths[n, child]))
        return misfit

    def _in_one_ring(self, *atoms: int) -> bool:
        return any(ring.issuperset(atoms) for ring in self.rings_of.get(atoms[0], ()))

    def _cis(self, atom: int, parent: int, child: int, spot: np.ndarray) -> bool:
        ahead = [n for n in self.neighbours[parent] if n != atom and self._in_one_ring(atom, parent, n, child)]
        return all((spot - self.x[atom]) @ (self.x[n] - self.x[parent]) > 0
                   for n in ahead if not np.isnan(self.x[n, 0]))

    def _directions(self, atom: int, n_children: int):
        """Arrays (n_children, 3) of unit vectors to try, in random order of torsion and with the right hand."""
        parent, degree = self.before[atom], self.slots_of[atom]
        if parent < 0:
            frame, slots = _random_frame(self.rng), _slots(degree)[:n_children]
            yield from self._handed(atom, n_children, [slots @ frame])
            return
        towards = _unit(self.x[atom] - self.x[parent])
        others = [n for n in self.neighbours[parent] if n != atom and not np.isnan(self.x[n, 0])]
        others.sort(key=lambda n: not self._in_one_ring(atom, parent, n))
        side = self.x[others[0]] - self.x[parent] if others else self.rng.normal(size=3)
        frame = _frame(towards, side)
        slots = _slots(degree)[1:]
        planar = degree == 3 and self.slots_of[parent] == 3
        for turn in [0.0] if planar and others else self._turns(degree):
            yield from self._handed(atom, n_children, [self._untaken(atom, _rotate(slots, turn) @ frame)])

    def _untaken(self, atom: int, rows: np.ndarray) -> np.ndarray:
        """Without the directions in which a ring has already put a neighbour."""
        for n in self.neighbours[atom]:
            if n != self.before[atom] and not np.isnan(self.x[n, 0]):
                rows = np.delete(rows, np.argmax(rows @ (self.x[n] - self.x[atom])), axis=0)
        return rows

    def _turns(self, degree: int):
        if degree == 4:
            staggered = np.pi + 2 * np.pi / 3 * self.rng.permutation(3)
        else:
            staggered = self.rng.uniform(0, 2 * np.pi, 6)
        for _ in range(_TRIES // len(staggered)):
            yield from staggered + self.rng.normal(scale=0.25, size=len(staggered))

    def _handed(self, atom: int, n_children: int, directions):
        for rows in directions:
            orders = list(itertools.permutations(range(len(rows)), n_children))
            for k in self.rng.permutation(len(orders)):
                turned = rows[list(orders[k])]
                if self._right_hand(atom, turned):
                    yield turned

    def _right_hand(self, atom: int, directions: np.ndarray) -> bool:
        if atom not in self.stereo:
            return True
        neighbours, sign = self.stereo[atom]
        children = [n for n in self.neighbours[atom] if np.isnan(self.x[n, 0])]
        a, b, c = (directions[children.index(n)] if n in children else self.x[n] - self.x[atom] for n in neighbours)
        return np.sign(np.cross(a, b) @ c) == sign


def _slots(degree: int) -> np.ndarray:
    """Unit vectors of the bonds of an atom; the first points back (-z), to the parent."""
    back = np.array([[0.0, 0.0, -1.0]])
    n, angle = max(degree - 1, 1), {4: _TETRAHEDRAL, 3: 2 * np.pi / 3}.get(degree, np.pi - 1e-9)
    phi = 2 * np.pi * np.arange(n) / n
    tilt = np.pi - angle
    ring = np.stack([np.sin(tilt) * np.cos(phi), np.sin(tilt) * np.sin(phi), np.full(n, np.cos(tilt))], axis=1)
    return np.concatenate([back, ring])


def _rotate(vectors: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return vectors @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def _frame(z: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Rows x, y, z: z given, x in the half plane of ``side``."""
    x = side - (side @ z) * z
    if np.linalg.norm(x) < 1e-6:
        x = np.cross(z, np.eye(3)[np.argmin(np.abs(z))])
    x = _unit(x)
    return np.array([x, np.cross(z, x), z])


def _random_frame(rng) -> np.ndarray:
    return _frame(_unit(rng.normal(size=3)), rng.normal(size=3))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)
