"""Atoms placed one after the other by a bond, an angle and a torsion, outwards from atoms that are beads.

In these coordinates the stiff motions of a molecule are nearly independent of each other and nearly Gaussian, bonds
of fixed length are numbers that do not change, and beads are met exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from openmm_backmap.chemistry import Target
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.tables import neighbour_lists

# Three atoms nearer to a line than this (sine of their angle) tell no torsion.
_BENT = 0.2


@dataclass(frozen=True)
class Placing:
    """How the atoms of a molecule are placed.

    Attributes
    ----------
    beads : Tensor of int, shape (n_beads,)
        The atom that is each bead.
    rows : Tensor of int, shape (n, 4)
        Each of the other atoms, in the order of placing, and the three that it is placed from: the end of its bond,
        of its angle and of its torsion.
    """

    beads: torch.Tensor
    rows: torch.Tensor

    @cached_property
    def _levels(self) -> list[torch.Tensor]:
        """Indices into ``rows`` of atoms that can be placed together."""
        level = dict.fromkeys(self.beads.tolist(), 0)
        for atom, *others in self.rows.tolist():
            level[atom] = 1 + max(level[k] for k in others)
        of_row = torch.tensor([level[atom] for atom in self.rows[:, 0].tolist()])
        return [torch.nonzero(of_row == k).squeeze(1) for k in range(1, 1 + int(of_row.max()))]

    def measure(self, x: torch.Tensor) -> torch.Tensor:
        """Bond (the unit of ``x``), angle and torsion (rad) of each row: (B, n, 3) of positions (B, n_atoms, 3)."""
        a, p, g, r = (x[:, k] for k in self.rows.T)
        u, v, w = a - p, p - g, r - g
        length, n = u.norm(dim=-1), torch.linalg.cross(u, v)
        angle = torch.atan2(n.norm(dim=-1), -(u * v).sum(-1))
        m = torch.linalg.cross(w, v)
        torsion = torch.atan2((torch.linalg.cross(m, n) * v).sum(-1) / v.norm(dim=-1), (m * n).sum(-1))
        return torch.stack([length, angle, torsion], dim=-1)

    def place(self, beads: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Positions (B, n_atoms, 3) of beads (B, n_beads, 3) and what :meth:`measure` gives, (B, n, 3)."""
        x = beads.new_zeros(len(beads), len(self.beads) + len(self.rows), 3)
        x[:, self.beads] = beads
        for level in self._levels:
            atom, p, g, r = self.rows[level].T
            bond, angle, torsion = values[:, level, None].unbind(-1)
            z = torch.nn.functional.normalize(x[:, g] - x[:, p], dim=-1)
            w = x[:, r] - x[:, g]
            e = torch.nn.functional.normalize(w - (w * z).sum(-1, keepdim=True) * z, dim=-1)
            across = torsion.cos() * e + torsion.sin() * torch.linalg.cross(e, z)
            x[:, atom] = x[:, p] + bond * (angle.cos() * z + angle.sin() * across)
        return x


def choose_placing(molecule: Target, positions: np.ndarray) -> Placing:
    """The placing in which torsions vary least over ``positions`` (n_frames, n_atoms, 3).

    Raises
    ------
    InputError
        Where beads are not single atoms, or too few to place others from.
    """
    beads = molecule.atoms_that_are_beads()
    if beads is None:
        raise InputError(f"chemistry {molecule.chemistry.name}: its beads are not single atoms, which this family of "
                         "models needs")
    near = neighbour_lists(molecule.n_atoms, np.concatenate([molecule.bonds, beads[molecule.bead_bonds]]))
    placed, rows = set(beads.tolist()), []
    while len(placed) < molecule.n_atoms:
        reached = sorted((molecule.elements[a] == "H", a) for a in range(molecule.n_atoms)
                         if a not in placed and placed & set(near[a]))
        options = [row for _, atom in reached[:1] for row in _options(atom, near, placed)]
        if not options:
            raise InputError(f"the molecule {'-'.join(molecule.chains[0])} has too few beads, or beads too far apart, "
                             "to place its atoms from")
        rows.append(min(options, key=lambda row: _vagueness(positions, row)))
        placed.add(rows[-1][0])
    return Placing(torch.as_tensor(beads), torch.tensor(rows))


def _options(atom: int, near: list[list[int]], placed: set[int]) -> Iterator[tuple[int, int, int, int]]:
    for p in placed & set(near[atom]):
        for g in placed & set(near[p]):
            for r in (placed & (set(near[p]) | set(near[g]))) - {p, g}:
                yield atom, p, g, r


def _vagueness(positions: np.ndarray, row: tuple[int, int, int, int]) -> float:
    """Circular variance of a torsion; more than any where it is not defined."""
    _, p, g, r = (positions[:, k] for k in row)
    sine = np.linalg.norm(np.cross(p - g, r - g), axis=-1) / (
        np.linalg.norm(p - g, axis=-1) * np.linalg.norm(r - g, axis=-1))
    torsion = Placing(torch.empty(0), torch.tensor([row])).measure(torch.as_tensor(positions))[:, 0, 2]
    # A place is blurred by 1 / sine where the three atoms lie nearly on a line.
    spread = 1 - float(torch.polar(torch.ones_like(torsion), torsion).mean().abs())
    return 2.0 if sine.min() < _BENT else spread / float(sine.mean())
