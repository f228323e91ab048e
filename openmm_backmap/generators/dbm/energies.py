"""Energies of many beads' atoms in their surroundings at once: for each bead what
:meth:`openmm_backmap.energy.bridge.TorchEnergy.local` gives, for a batch of beads without a loop over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from openmm_backmap.chemistry import Target
from openmm_backmap.energy.bridge import TorchEnergy
from openmm_backmap.energy.neighbours import minimum_image
from openmm_backmap.energy.nonbonded import ONE_4PI_EPS0, Nonbonded, lennard_jones
from openmm_backmap.energy.terms import KINDS, distances
from openmm_backmap.environments.voxels import VoxelTables
from openmm_backmap.geometry.neighbours import Within
from openmm_backmap.units import GAS_CONSTANT

#: no atom lies farther from its bead; neighbours are looked for accordingly
REACH_NM = 0.6


def flexible_energy(target: Target, box) -> TorchEnergy:
    """The force field of ``target`` with bonds that carry energy: constraints would leave lengths unjudged."""
    from openmm_backmap.chemistry.system import create_flexible_system

    return TorchEnergy.from_system(create_flexible_system(target, box))


@dataclass(frozen=True)
class _Incidence:
    """Terms that touch each bead: rows ``first[b]:first[b + 1]`` of ``term`` and ``column`` belong to bead b."""

    first: torch.Tensor
    term: torch.Tensor
    column: torch.Tensor

    @classmethod
    def of(cls, atoms: torch.Tensor, bead_of_atom: torch.Tensor, column: torch.Tensor, n_beads: int) -> _Incidence:
        """``atoms`` (n_terms, k); ``column`` (n_atoms,) place of each atom in its bead."""
        n, k = atoms.shape
        term = torch.arange(n, device=atoms.device)[:, None].expand(n, k)
        keys = torch.unique((bead_of_atom[atoms] * max(n, 1) + term).flatten())
        bead, term = keys // max(n, 1), keys % max(n, 1)
        first = torch.searchsorted(bead, torch.arange(n_beads + 1, device=atoms.device))
        own = bead_of_atom[atoms[term]] == bead[:, None]
        return cls(first, term, torch.where(own, column[atoms[term]], -1))

    def rows(self, bead: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows that belong to beads (B,), and which of the batch each one belongs to."""
        counts = self.first[bead + 1] - self.first[bead]
        batch = torch.repeat_interleave(torch.arange(len(bead), device=bead.device), counts)
        inner = torch.arange(len(batch), device=bead.device) - (counts.cumsum(0) - counts)[batch]
        return self.first[bead][batch] + inner, batch


@dataclass(frozen=True)
class Placement:
    """What is to be judged: B beads, E candidates.

    Attributes
    ----------
    bead : (B,)
    columns : (B, L)
        Own atoms that were placed: energies are those that depend on them.
    own : (B, E, S, 3), nm
        Global positions of all own atoms.
    positions : (n_atoms, 3), nm
        Of everything else, whole molecules.
    there : (n_atoms,) bool
        Atoms that exist so far.
    hide_light : bool
        Leave out hydrogens of the bead and of beads bonded to it.
    """

    bead: torch.Tensor
    columns: torch.Tensor
    own: torch.Tensor
    positions: torch.Tensor
    there: torch.Tensor
    hide_light: bool


class BeadEnergies:
    """Energies around the beads of one system at fixed bead positions.

    Parameters
    ----------
    tables : VoxelTables
    energy : TorchEnergy
        Of the whole system; pairs are cut at its cutoff, or at the chemistry's where it has none.
    beads : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm, or None
    """

    def __init__(self, tables: VoxelTables, energy: TorchEnergy, beads: np.ndarray, box, dtype=torch.float32):
        self.tables, self.energy = tables, energy.to(tables.device, dtype)
        self.cutoff = tables.target.chemistry.nonbonded.cutoff_nm
        self.box = None if box is None else torch.as_tensor(box, dtype=dtype, device=tables.device)
        self.centre = torch.as_tensor(beads, dtype=dtype, device=tables.device)
        periodic = any(part.settings.periodic for part in energy.nonbonded)
        self._near = Within(beads, box if periodic else None, self.cutoff + 2 * REACH_NM)

    def _incidence(self, atoms: torch.Tensor) -> _Incidence:
        base = self.tables.base
        return _Incidence.of(atoms, base.bead_of_atom, base.column_of_atom, self.tables.target.n_beads)

    @cached_property
    def _bonded(self) -> list[_Incidence]:
        return [self._incidence(part.atoms) for part in self.energy.bonded]

    @cached_property
    def _exceptions(self) -> list[_Incidence]:
        return [self._incidence(part.exceptions) for part in self.energy.nonbonded]

    def terms(self, placed: Placement) -> dict[str, torch.Tensor]:
        """Energy by term, each (B, E), kJ/mol; names as those of :class:`TorchEnergy`. Differentiable in ``own``."""
        found: dict[str, torch.Tensor] = {}
        moved = torch.zeros_like(placed.own[:, 0, :, 0], dtype=torch.bool).scatter(1, placed.columns, True)
        for part, incidence in zip(self.energy.bonded, self._bonded):
            x, term, batch = self._gather(placed, moved, incidence, part.atoms)
            values = KINDS[part.kind](x, part.parameters[term][:, None], self.box if part.periodic else None)
            self._add(found, part.kind, placed, batch, values)
        for part, incidence in zip(self.energy.nonbonded, self._exceptions):
            x, term, batch = self._gather(placed, moved, incidence, part.exceptions)
            image = self.box if part.settings.periodic_exceptions else None
            r = distances(minimum_image(x[..., 0, :] - x[..., 1, :], image))
            product, sigma, epsilon = part.exception_parameters[term][:, None].unbind(-1)
            self._add(found, "lj", placed, batch, lennard_jones(r, sigma, epsilon))
            self._add(found, "coulomb", placed, batch, ONE_4PI_EPS0 * product / r)
            for pieces in (self._inner(part, placed, moved), self._outer(part, placed)):
                found["lj"], found["coulomb"] = found["lj"] + pieces[0], found["coulomb"] + pieces[1]
        return found

    @staticmethod
    def _add(found: dict, name: str, placed: Placement, batch: torch.Tensor, values: torch.Tensor) -> None:
        total = values.new_zeros(placed.own.shape[:2]).index_add(0, batch, values)
        found[name] = found[name] + total if name in found else total

    def _seen(self, placed: Placement, bead: torch.Tensor, atom: torch.Tensor) -> torch.Tensor:
        """Which of ``atom`` (R, ...) exist for beads (R,); own atoms that were placed are not asked about."""
        seen = placed.there[atom]
        if placed.hide_light:
            adjacent = self.tables.adjacent[bead][:, *(None,) * (atom.ndim - 1)]
            near = (adjacent == self.tables.base.bead_of_atom[atom][..., None]).any(-1)
            seen = seen & ~(self.tables.light[atom] & near)
        return seen

    def _gather(self, placed: Placement, moved: torch.Tensor, incidence: _Incidence, atoms: torch.Tensor):
        """Positions (R, E, k, 3) of the terms that depend on placed atoms, their numbers, and whose they are."""
        rows, batch = incidence.rows(placed.bead)
        column, atom = incidence.column[rows], atoms[incidence.term[rows]]
        placed_here = (column >= 0) & moved[batch[:, None], column.clamp(min=0)]
        whole = (placed_here | self._seen(placed, placed.bead[batch], atom)).all(1) & placed_here.any(1)
        column, atom, batch = column[whole], atom[whole], batch[whole]
        own = placed.own[batch[:, None], :, column.clamp(min=0)].transpose(1, 2)      # (R, E, k, 3)
        x = torch.where((column >= 0)[:, None, :, None], own, placed.positions[atom][:, None])
        return x, incidence.term[rows][whole], batch

    def _inner(self, part: Nonbonded, placed: Placement, moved: torch.Tensor):
        """Pairs of own atoms, at least one of them placed: each (B, E)."""
        atoms = self.tables.base.atoms_of_bead[placed.bead][:, :placed.own.shape[2]]
        i, j = torch.triu_indices(atoms.shape[1], atoms.shape[1], 1, device=atoms.device)
        inside = atoms.clamp(min=0)
        exists = moved | ((atoms >= 0) & self._seen(placed, placed.bead, inside))
        counts = exists[:, i] & exists[:, j] & (moved[:, i] | moved[:, j]) & part.allowed(inside[:, i], inside[:, j])
        box = self.box if part.settings.periodic else None
        r = distances(minimum_image(placed.own[:, :, i] - placed.own[:, :, j], box))
        pieces = self._pairs(part, r, inside[:, None, i], inside[:, None, j])
        return [torch.where(counts[:, None], piece, 0.0).sum(-1) for piece in pieces]

    def _outer(self, part: Nonbonded, placed: Placement):
        """Pairs of a placed atom and one of another bead: each (B, E)."""
        moved = placed.own.gather(2, placed.columns[:, None, :, None].expand(-1, placed.own.shape[1], -1, 3))
        moved = moved - self.centre[placed.bead][:, None, None]                                # (B, E, L, 3)
        index = self.tables.base.atoms_of_bead[placed.bead].gather(1, placed.columns)          # (B, L)
        other, x, exists = self._around(placed, moved)
        counts = exists[:, None] & part.allowed(index[:, :, None], other[:, None])             # (B, L, K)
        r = _distances_between(moved.flatten(1, 2), x).unflatten(1, moved.shape[1:3])
        pieces = self._pairs(part, r, index[:, None, :, None], other[:, None, None])
        return [torch.where(counts[:, None], piece, 0.0).sum((-2, -1)) for piece in pieces]

    def _around(self, placed: Placement, moved: torch.Tensor):
        """Atoms (B, K) of other beads that a candidate may see, where they are (B, K, 3), seen from the bead, and
        whether there are any. An atom may be there several times: as its images."""
        bead, device = placed.bead, placed.bead.device
        row, index, shift = (torch.as_tensor(t, device=device) for t in self._near.of(bead.cpu().numpy()))
        there = _filled(row, len(bead))
        neighbour, image = index.new_zeros(there.shape), self.centre.new_zeros(*there.shape, 3)
        neighbour[there], image[there] = index, shift.to(image.dtype)
        atoms = self.tables.base.atoms_of_bead[neighbour]                                      # (B, M, S)
        vectors = placed.positions[atoms.clamp(min=0)] + (image - self.centre[bead][:, None])[:, :, None]
        reach = self.cutoff + moved.detach().norm(dim=-1).amax((1, 2))
        near = there[..., None] & (atoms >= 0) & (vectors.square().sum(-1) < reach[:, None, None].square())
        chosen, there = _packed(near.flatten(1))
        atoms = atoms.flatten(1).gather(1, chosen)
        x = vectors.flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, 3))
        return atoms, x, there & self._seen(placed, bead, atoms)

    def _pairs(self, part: Nonbonded, r: torch.Tensor, i: torch.Tensor, j: torch.Tensor):
        lj, coulomb = part.pair_energies(r, i, j, local=True)
        if part.settings.cutoff_nm is None:
            inside = r < self.cutoff
            return torch.where(inside, lj, 0.0), torch.where(inside, coulomb, 0.0)
        return lj, coulomb


def _distances_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distances (B, n, m), nm, of points ``a`` (B, n, 3) and ``b`` (B, m, 3) near the origin.

    By a matrix product, since differences would take most of the time; squares are right to 1e-6 nm^2.
    """
    squares = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None]
    return torch.baddbmm(squares, a, b.transpose(1, 2), alpha=-2).clamp(min=1e-6).sqrt()


def _packed(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns (B, width) of what is ``chosen`` (B, N) of each row, and which of them count: others fill up the row."""
    row, column = chosen.nonzero(as_tuple=True)
    there = _filled(row, len(chosen))
    packed = torch.zeros_like(there, dtype=torch.long)
    packed[there] = column
    return packed, there


def _filled(row: torch.Tensor, n: int) -> torch.Tensor:
    """Places (n, width), from the left, of what belongs to the rows ``row``, which ascend."""
    counts = torch.bincount(row, minlength=n)
    return torch.arange(int(counts.max()), device=row.device) < counts[:, None]


def pick(energies: torch.Tensor, how: str, temperature_K: float, seed: torch.Generator | None = None) -> torch.Tensor:
    """Which candidate of each bead is kept: (B,) of energies (B, E), kJ/mol.

    ``lowest`` as published; ``boltzmann`` draws by exp(-E / RT); ``first`` takes the first, whatever its energy.
    """
    if how == "first":
        return torch.zeros(len(energies), dtype=torch.long, device=energies.device)
    energies = torch.nan_to_num(energies.double(), nan=torch.inf, posinf=1e300, neginf=-1e300).clamp(max=1e300)
    if how == "lowest":
        return energies.argmin(dim=1)
    weight = torch.exp(-(energies - energies.amin(1, keepdim=True)) / (GAS_CONSTANT * temperature_K))
    return torch.multinomial(weight, 1, generator=seed).squeeze(1)

