"""Voxel environments: the surroundings of a bead as Gaussian densities on a grid, one channel a kind of particle.

Stieffenhofer et al. 2020 (II.C), 2021 (II.B), thesis 4.3. The cube is centred on the bead, z towards its first frame
bead, and mirrored for left-handed monomers (:mod:`openmm_backmap.environments.local`); the rotation about z is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from openmm_backmap.chemistry import Target
from openmm_backmap.environments.local import BeadSurroundings, TargetTables, Vocabulary, nearby_table
from openmm_backmap.environments.voxel_channels import Channels, pair_masks, type_masks
from openmm_backmap.geometry.tables import neighbour_table


@dataclass(frozen=True)
class VoxelGrid:
    """The grid and what is drawn on it.

    Parameters
    ----------
    n_cells : int
        Cells along an edge.
    edge_nm : float
        Edge of the cube.
    width_nm : float
        Standard deviation of the Gaussians. The published "sigma = 0.02" divides the squared distance: it is
        2 width^2 in nm^2, and 0.1 nm here.
    cutoff_nm : float
        Particles farther from the bead than this are not drawn.
    """

    n_cells: int = 8
    edge_nm: float = 1.2
    width_nm: float = 0.1
    cutoff_nm: float = 0.7

    def centres(self, like: torch.Tensor) -> torch.Tensor:
        """Places (n_cells,), nm, of the cells' centres along an axis."""
        step = self.edge_nm / self.n_cells
        return (torch.arange(self.n_cells, dtype=like.dtype, device=like.device) + 0.5) * step - self.edge_nm / 2

    def gaussians(self, x: torch.Tensor) -> torch.Tensor:
        """exp(-(c - x)^2 / 2 width^2) at all cells c (thesis 4.3, 4.12): (..., n_cells^3) for ``x`` (..., 3), nm."""
        plane, along = self.factors(x)
        return (plane[..., None] * along[..., None, :]).flatten(-2)

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gaussians as products of what they are across x and y (..., n_cells^2) and along z (..., n_cells)."""
        along = torch.exp(-(self.centres(x) - x[..., None]).square() / (2 * self.width_nm**2))   # (..., 3, n)
        return (along[..., 0, :, None] * along[..., 1, None, :]).flatten(-2), along[..., 2, :]

    def coordinates(self, density: torch.Tensor) -> torch.Tensor:
        """Weighted mean of the cells' centres (thesis 4.11): (..., 3), nm, of ``density`` (..., n_cells^3)."""
        cells = density.unflatten(-1, (self.n_cells,) * 3)
        cells = cells / cells.sum((-3, -2, -1), keepdim=True)
        c = self.centres(density)
        return torch.stack([cells.sum((-2, -1)) @ c, cells.sum((-3, -1)) @ c, cells.sum((-3, -2)) @ c], dim=-1)

    @property
    def mass(self) -> float:
        """What the density of one particle sums to, away from the walls."""
        return float((2 * np.pi) ** 1.5 * (self.width_nm * self.n_cells / self.edge_nm) ** 3)


def unpack(mask: torch.Tensor, n_channels: int, dtype=torch.float32) -> torch.Tensor:
    """Bits as numbers: (..., n_channels) of masks (...)."""
    return ((mask[..., None] >> torch.arange(n_channels, device=mask.device)) & 1).to(dtype)


def turned(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Positions (B, P, E, 3): ``x`` (B, P, 3) or (B, P, E, 3) turned about z by angles (B, E), rad."""
    if x.ndim == 3:
        x = x[:, :, None].expand(-1, -1, angle.shape[1], -1)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    return torch.stack([cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1], x[..., 2]], dim=-1)


class VoxelTables:
    """Tables that depend on the target and the channels alone.

    Attributes
    ----------
    base : TargetTables
    light : (n_atoms,) bool, hydrogens
    placed_type : (n_atoms,) int, index of each atom's type in ``channels.types``
    own_mask : (n_beads, S, S) channels of own atoms while another own atom is placed
    near, near_mask : (n_beads, G), (n_beads, S, G)
        Other beads' atoms within three bonds of own atoms (-1 pads), and their channels.
    pair_mask : (n_types, n_types) channels of all others; bead_mask : (n_bead_types,)
    adjacent : (n_beads, D) beads bonded to each bead, itself first, -1 pads
    """

    def __init__(self, target: Target, channels: Channels, device="cpu"):
        channels.check(target)
        tensor = lambda a: torch.as_tensor(a, device=device)  # noqa: E731
        self.target, self.channels, self.device = target, channels, device
        self.base = TargetTables(target, Vocabulary.of(target), device)
        atoms = self.base.atoms_of_bead.cpu().numpy()
        index = {name: k for k, name in enumerate(channels.types)}
        known = np.array([index.get(name, -1) for name in channels.type_names(target)])
        self.light = tensor(np.array([element == "H" for element in target.elements]))
        self.placed_type, self.atom_type = tensor(known[target.atom_type]), tensor(target.atom_type)
        _, pair, bead = type_masks(target, channels)
        self.pair_mask, self.bead_mask = tensor(pair), tensor(bead)
        own, near, near_mask = _mask_tables(target, channels, atoms, self.base.column_of_atom.cpu().numpy(), pair)
        self.own_mask, self.near, self.near_mask = tensor(own), tensor(near), tensor(near_mask)
        self.adjacent = tensor(_adjacent(target))


def _mask_tables(target: Target, channels: Channels, atoms: np.ndarray, column: np.ndarray, pair: np.ndarray):
    types = np.where(atoms >= 0, target.atom_type[atoms], 0)
    own = pair[types[:, :, None], types[:, None, :]]
    placed, other, mask = pair_masks(target, channels)
    bead = target.bead_of_atom[placed]
    inside = bead == target.bead_of_atom[other]
    own[bead[inside], column[placed[inside]], column[other[inside]]] = mask[inside]
    placed, other, mask, bead = placed[~inside], other[~inside], mask[~inside], bead[~inside]
    near, rank = nearby_table(target, bead, other)
    # Where an atom is near one own atom and far from another, the latter sees it as any other of its type.
    near_mask = pair[types[:, :, None], target.atom_type[near][:, None, :]]
    near_mask[bead, column[placed], rank] = mask
    return own, near, near_mask


def _adjacent(target: Target) -> np.ndarray:
    return np.c_[np.arange(target.n_beads), neighbour_table(target.n_beads, target.bead_bonds)]


@dataclass(frozen=True)
class VoxelEnvironment:
    """A batch of environments; B beads, S own atoms (padded), K context atoms, J beads; positions local, nm.

    Attributes
    ----------
    bead : (B,)
    own, own_there : (B, S, 3), (B, S)
        Own atoms and which of them are there to be seen.
    points : (B, K + J, 3)
        Context atoms, then beads.
    kind, near, present : (B, K)
        Type of each context atom, its column in ``VoxelTables.near`` or -1, and whether it is there.
    bead_mask : (B, J) channels of the beads, 0 where there is none
    """

    bead: torch.Tensor
    own: torch.Tensor
    own_there: torch.Tensor
    points: torch.Tensor
    kind: torch.Tensor
    near: torch.Tensor
    present: torch.Tensor
    bead_mask: torch.Tensor


class VoxelSurroundings(BeadSurroundings):
    """Frames and neighbouring beads for one set of bead positions; makes :class:`VoxelEnvironment` batches."""

    def __init__(self, voxels: VoxelTables, beads: np.ndarray, box, grid: VoxelGrid):
        super().__init__(voxels.base, beads, box, 0, 0)
        self.voxels, self.grid = voxels, grid

    @cached_property
    def neighbour_adjacent(self) -> torch.Tensor:
        """(n_beads, MAX_NEIGHBOURS) whether a neighbour is bonded to the bead."""
        return ((self.index[:, :, None] == self.voxels.adjacent[:, None, :]) & (self.index[:, :, None] >= 0)).any(2)

    def environment(self, bead: torch.Tensor, positions: torch.Tensor, there: torch.Tensor, hide_light: bool,
                    shown: torch.Tensor | None = None) -> VoxelEnvironment:
        """Environments of ``bead`` (B,).

        Parameters
        ----------
        bead : (B,) int
        positions : (n_atoms, 3), nm, whole molecules
        there : (n_atoms,) bool
            Atoms that have been placed.
        hide_light : bool
            Leave out hydrogens of the bead and of beads bonded to it (thesis 5.1.4).
        shown : (B, MAX_NEIGHBOURS) bool, optional
            Neighbouring beads whose atoms may be seen, or, when hydrogens are placed, whose hydrogens; all by default.
        """
        base, cutoff = self.tables, self.grid.cutoff_nm
        neighbour = self.index[bead]
        atoms = base.atoms_of_bead[neighbour.clamp(min=0)]                          # (B, M, S)
        seen = (atoms >= 0) & (neighbour >= 0)[..., None] & there[atoms.clamp(min=0)]
        if shown is not None:
            seen &= shown[..., None] if hide_light else shown[..., None] | ~self.voxels.light[atoms.clamp(min=0)]
        if hide_light:
            seen &= ~(self.voxels.light[atoms.clamp(min=0)] & self.neighbour_adjacent[bead][..., None])
        local = self.to_local(bead, positions[atoms.clamp(min=0)] + self.shift[bead][:, :, None])
        distance = torch.where(seen, local.square().sum(-1), torch.inf).flatten(1)
        seen = distance < cutoff**2
        chosen = distance.topk(max(1, int(seen.sum(1).max())), dim=1, largest=False).indices
        atom, present = (t.flatten(1).gather(1, chosen) for t in (atoms, seen))
        context = local.flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, 3)) * present[..., None]
        near = torch.where(present, self._near(bead, atom), -1)
        own, own_there = self._own(bead, positions, there, hide_light)
        beads, bead_mask = self._beads(bead)
        return VoxelEnvironment(
            bead=bead, own=own, own_there=own_there, points=torch.cat([context, beads], dim=1),
            kind=self.voxels.atom_type[atom.clamp(min=0)], near=near, present=present, bead_mask=bead_mask)

    def _own(self, bead, positions, there, hide_light: bool):
        atoms = self.tables.atoms_of_bead[bead]
        width = int((atoms >= 0).sum(1).max())
        atoms = atoms[:, :width]
        inside = atoms.clamp(min=0)
        own_there = (atoms >= 0) & there[inside]
        if hide_light:
            own_there = own_there & ~self.voxels.light[inside]
        return self.to_local(bead, positions[inside]) * (atoms >= 0)[..., None], own_there

    def _near(self, bead: torch.Tensor, atom: torch.Tensor) -> torch.Tensor:
        """(B, K) column of each context atom in ``VoxelTables.near``, -1 for the others."""
        found, where = (self.voxels.near[bead][:, None, :] == atom[:, :, None]).max(dim=2)
        return torch.where(found, where, -1)

    def _beads(self, bead: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Local positions (B, J, 3) and channels (B, J) of the beads within the cutoff, the bead itself first."""
        tables = self.tables
        index = torch.cat([bead[:, None], self.index[bead]], dim=1)
        shift = torch.cat([torch.zeros_like(self.shift[bead][:, :1]), self.shift[bead]], dim=1)
        local = self.to_local(bead, self.centre[index.clamp(min=0)] + shift)
        # Neighbours are sorted by distance.
        near = (index >= 0) & (local.square().sum(-1) < self.grid.cutoff_nm**2)
        width = int(near.sum(1).max())
        near, index = near[:, :width], index[:, :width]
        mask = torch.where(near, self.voxels.bead_mask[tables.bead_type[index.clamp(min=0)]], 0)
        return local[:, :width] * near[..., None], mask


def step_masks(tables: VoxelTables, env: VoxelEnvironment, column: torch.Tensor,
               own_seen: torch.Tensor) -> torch.Tensor:
    """Channels (B, S + K + J) of own atoms, context atoms and beads while own atom ``column`` (B,) is placed.

    ``own_seen`` (B, S) tells which own atoms are there; the atom placed is never among them.
    """
    rows = torch.arange(len(column), device=column.device)
    width = env.own.shape[1]
    own = torch.where(own_seen, tables.own_mask[env.bead, column, :width], 0)
    own[rows, column] = 0
    placed = tables.atom_type[tables.base.atoms_of_bead[env.bead, column]]
    near = tables.near_mask[env.bead, column].gather(1, env.near.clamp(min=0))
    context = torch.where(env.near >= 0, near, tables.pair_mask[placed[:, None], env.kind])
    return torch.cat([own, torch.where(env.present, context, 0), env.bead_mask], dim=1)


def densities(features: torch.Tensor, plane: torch.Tensor, along: torch.Tensor,
              others: torch.Tensor | None = None) -> torch.Tensor:
    """Channel densities (B E, F, cells): the particles' features (B, P, F) times their Gaussians, added to ``others``.

    The Gaussians (:meth:`VoxelGrid.factors`; (B, E, P, ...)) are not multiplied out, which would take most of the
    time, and channels lie next to each other in memory, as convolutions want them.
    """
    # A product lies in memory as its factors do; otherwise it would be copied.
    weighted = (along.contiguous()[..., None] * features[:, None, :, None]).flatten(3).flatten(0, 1)
    left = plane.flatten(0, 1).transpose(1, 2)
    if others is None:
        product = torch.bmm(left, weighted)
    else:
        product = torch.baddbmm(others.transpose(1, 2).reshape(*left.shape[:2], -1), left, weighted)
    return product.view(len(product), -1, features.shape[2]).transpose(1, 2)
