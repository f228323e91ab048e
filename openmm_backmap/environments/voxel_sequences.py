"""Orders in which beads, and the atoms inside them, are placed one after another (thesis 4.2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from openmm_backmap.chemistry import Target
from openmm_backmap.environments.voxels import VoxelTables
from openmm_backmap.geometry.tables import neighbour_lists

ORDERS = ("depth-first", "breadth-first", "random")


@dataclass(frozen=True)
class Sequences:
    """One sequence of heavy atoms and one of hydrogens for each bead, as columns of ``TargetTables.atoms_of_bead``.

    Attributes
    ----------
    heavy, light : Tensor of int, (n_beads, longest), -1 pads
    heavy_length, light_length : Tensor of int, (n_beads,)
    """

    heavy: torch.Tensor
    light: torch.Tensor

    @property
    def heavy_length(self) -> torch.Tensor:
        return (self.heavy >= 0).sum(1)

    @property
    def light_length(self) -> torch.Tensor:
        return (self.light >= 0).sum(1)

    def of(self, light: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Columns and lengths of the hydrogens' or the heavy atoms' sequences."""
        return (self.light, self.light_length) if light else (self.heavy, self.heavy_length)


def walk(neighbours: list[list[int]], root: int, order: str, rng: np.random.Generator) -> list[int]:
    """Nodes of a connected graph from ``root`` on, by ``order`` (one of :data:`ORDERS`)."""
    seen, front, found = {root}, [root], {}  # a dict keeps the order, and is searched at once
    while front:
        place = {"depth-first": -1, "breadth-first": 0}.get(order)
        node = front.pop(int(rng.integers(len(front))) if place is None else place)
        if node in found:
            continue
        found[node] = None
        near = [k for k in neighbours[node] if k not in found]
        # A stack gives back last what came first.
        front += near[::-1] if order == "depth-first" else [k for k in near if k not in seen]
        seen.update(near)
    return list(found)


def atom_sequences(tables: VoxelTables, order: str, rng: np.random.Generator) -> Sequences:
    """Sequences of all beads; beads of one kind get the same.

    The walk starts at the heavy atom bonded to an earlier bead, failing that at an end of the molecule: one bonded to
    the fewest heavy atoms. Hydrogens follow the order of the atoms that carry them.
    """
    atoms = tables.base.atoms_of_bead.cpu().numpy()
    light = tables.light.cpu().numpy()
    inside, entry = _bonds_inside(tables.target, tables.base.column_of_atom.cpu().numpy(), light)
    slots = np.where(atoms >= 0, tables.base.slot_of_atom.cpu().numpy()[atoms], -1)
    branches = np.where(atoms >= 0, _heavy_neighbours(tables.target, light)[atoms], 0)
    _, first, kind = np.unique(np.c_[slots, branches, entry], axis=0, return_index=True, return_inverse=True)
    made = [_sequence(inside(b), np.where(atoms[b] >= 0, light[atoms[b]], True), atoms[b] >= 0, entry[b], branches[b],
                      order, rng) for b in first]
    tensor = lambda rows: torch.as_tensor(_padded(rows)[kind.ravel()], device=tables.device)  # noqa: E731
    return Sequences(tensor([heavy for heavy, _ in made]), tensor([hydrogens for _, hydrogens in made]))


def _bonds_inside(target: Target, column: np.ndarray, light: np.ndarray):
    """A function that gives the bonds (n, 2) of a bead as columns; and the column where each bead is entered, or -1."""
    i, j = np.concatenate([target.bonds, target.bonds[:, ::-1]]).T
    of_i, of_j = target.bead_of_atom[i], target.bead_of_atom[j]
    entry = np.full(target.n_beads, -1)
    earlier = (of_j < of_i) & ~light[i] & ~light[j]
    entry[of_i[earlier]] = column[i[earlier]]
    own = of_i == of_j
    i, j, of_i = i[own], j[own], of_i[own]
    order = np.argsort(of_i, kind="stable")
    pairs = np.c_[column[i], column[j]][order]
    start = np.searchsorted(of_i[order], np.arange(target.n_beads + 1))
    return lambda b: pairs[start[b]:start[b + 1]], entry


def _heavy_neighbours(target: Target, light: np.ndarray) -> np.ndarray:
    """(n_atoms,) how many heavy atoms each is bonded to."""
    i, j = np.concatenate([target.bonds, target.bonds[:, ::-1]]).T
    return np.bincount(i[~light[j]], minlength=target.n_atoms)


def _sequence(bonds: np.ndarray, light: np.ndarray, there: np.ndarray, entry: int, branches: np.ndarray, order: str,
              rng: np.random.Generator) -> tuple[list[int], list[int]]:
    heavy = np.flatnonzero(~light).tolist()
    near = [sorted(int(j) for i, j in bonds if i == k) for k in range(len(light))]
    among = [[j for j in row if not light[j]] for row in near]
    found: list[int] = []
    while rest := [k for k in heavy if k not in found]:
        root = entry if entry in rest else min(rest, key=lambda k: branches[k])
        found += walk(among, root, order, rng)
    carried = [j for k in found for j in near[k] if light[j]]
    return found, carried + [int(k) for k in np.flatnonzero(light & there) if k not in carried]


def _padded(rows: list[list[int]]) -> np.ndarray:
    table = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
    for k, row in enumerate(rows):
        table[k, :len(row)] = row
    return table


def bead_ranks(target: Target, order: str, rng: np.random.Generator) -> np.ndarray:
    """Place (n_beads,) of each bead in the published order: molecule by molecule, each walked along its beads."""
    n = target.n_beads
    neighbours = neighbour_lists(n, target.bead_bonds)
    found: list[int] = []
    start = np.searchsorted(target.molecule_of_bead, np.arange(target.molecule_of_bead.max() + 2))
    for first, last in zip(start[:-1].tolist(), start[1:].tolist()):
        left = set(range(first, last))
        while left:
            root = min(left, key=lambda k: (len(neighbours[k]), k))
            walked = walk(neighbours, root, order, rng)
            found += walked
            left -= set(walked)
    rank = np.empty(n, dtype=np.int64)
    rank[found] = np.arange(n)
    return rank


def waves(neighbour: np.ndarray, distance: np.ndarray, reach_nm: float, rank: np.ndarray) -> np.ndarray:
    """Waves (n_beads,) from 0: each bead comes right after the last bead within reach that has a lower rank.

    Beads of one wave do not see each other, so drawing wave by wave is the same as drawing strictly by rank.
    ``neighbour`` and ``distance`` (n_beads, k) as for :func:`~openmm_backmap.sampling.colouring.colour_beads`.
    """
    n = len(neighbour)
    close = (neighbour >= 0) & (distance < reach_nm)
    rows, cols = np.repeat(np.arange(n), close.sum(1)), neighbour[close]
    rows, cols = np.concatenate([rows, cols]), np.concatenate([cols, rows])
    later = rank[rows] > rank[cols]
    rows, cols = rows[later], cols[later]
    wave = np.full(n, -1)
    for k in range(n):
        waiting = np.zeros(n, bool)
        waiting[rows[wave[cols] < 0]] = True
        wave[(wave < 0) & ~waiting] = k
        if (wave >= 0).all():
            break
    return wave
