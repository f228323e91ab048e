"""Placing the atoms of a bead one after another: what training unrolls and inference runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from openmm_backmap.environments.voxels import VoxelEnvironment, VoxelTables, densities, step_masks, turned, unpack
from openmm_backmap.generators.dbm.network import DBMNetwork


@dataclass(frozen=True)
class Step:
    """One atom of each sequence placed, in each of E orientations; N = B E rows, those of a bead together.

    Attributes
    ----------
    environment : (N, F, cells)
        What the network saw.
    kind : (N,) index of the atom's type
    density : (N, cells)
    point : (N, 3), nm, in the orientation of the row
    """

    environment: torch.Tensor
    kind: torch.Tensor
    density: torch.Tensor
    point: torch.Tensor


class Scene:
    """Environments of a batch of beads in E orientations, as the atoms of one sequence are put into them.

    Parameters
    ----------
    tables : VoxelTables
    grid : VoxelGrid
    env : VoxelEnvironment
    angle : (B, E), rad
        Orientations about z.
    """

    def __init__(self, tables: VoxelTables, grid, env: VoxelEnvironment, angle: torch.Tensor):
        self.tables, self.grid, self.env, self.angle = tables, grid, env, angle
        self.own = turned(env.own, angle)                                           # (B, S, E, 3)
        near = env.near >= 0
        self._near = near.int().topk(int(near.sum(1).max()), dim=1).indices         # (B, K')
        self._is_near = torch.nn.functional.pad(near, (0, env.points.shape[1] - near.shape[1]))
        points = env.points.gather(1, self._near[..., None].expand(-1, -1, 3))
        self._near_points = turned(points, angle)                                   # (B, K', E, 3)
        self._points = grid.factors(turned(env.points, angle).transpose(1, 2))      # (B, E, K + J, ...)
        self._steady: tuple[torch.Tensor, torch.Tensor] | None = None

    def environment(self, column: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Channel densities (N, F, cells) while own atom ``column`` (B,) is placed and ``seen`` (B, S) are there."""
        masks = step_masks(self.tables, self.env, column, seen)
        own, others = masks.split([self.own.shape[1], masks.shape[1] - self.own.shape[1]], dim=1)
        near = torch.where(self._is_near, others, 0).gather(1, self._near)
        changing = self.grid.factors(torch.cat([self.own, self._near_points], dim=1).transpose(1, 2))
        steady = self._steady_densities(torch.where(self._is_near, 0, others))
        return densities(self._features(torch.cat([own, near], dim=1)), *changing, steady)

    def _steady_densities(self, masks: torch.Tensor) -> torch.Tensor:
        """Of atoms that are not within three bonds, and of beads: the same for all atoms of one type in a sequence."""
        if self._steady is None or not torch.equal(masks, self._steady[0]):
            self._steady = masks, densities(self._features(masks), *self._points)
        return self._steady[1]

    def _features(self, masks: torch.Tensor) -> torch.Tensor:
        return unpack(masks, self.tables.channels.n_channels, self.own.dtype)

    def put(self, column: torch.Tensor, point: torch.Tensor) -> None:
        """Own atom ``column`` (B,) lies at ``point`` (N, 3) from now on; gradients flow through it."""
        at = torch.nn.functional.one_hot(column, self.own.shape[1]).bool()[:, :, None, None]
        self.own = torch.where(at, point.view(len(column), 1, -1, 3), self.own)

    def kind(self, column: torch.Tensor) -> torch.Tensor:
        """Type (N,) of own atom ``column`` (B,)."""
        atom = self.tables.base.atoms_of_bead[self.env.bead, column]
        return self.tables.placed_type[atom].repeat_interleave(self.angle.shape[1])

    def own_local(self) -> torch.Tensor:
        """Own atoms (B, E, S, 3), nm, turned back into the beads' frames."""
        return turned(self.own, -self.angle).transpose(1, 2)

    def reference_density(self, column: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Densities (N, cells) of own atoms ``column`` where ``own`` (B, S, 3), local nm, says they are."""
        at = column[:, None, None].expand(-1, 1, 3)
        return self.grid.gaussians(turned(own.gather(1, at), self.angle)).flatten(0, 2)


def place(network: DBMNetwork, scene: Scene, columns: torch.Tensor, seen: torch.Tensor,
          noise: torch.Tensor) -> Iterator[Step]:
    """Place the atoms of a sequence, each given those before it.

    Parameters
    ----------
    columns : (B, L)
        The sequence; all of one length.
    seen : (B, S) bool
        Own atoms that are there at the start: in a forward pass none of the sequence, in a Gibbs sweep all.
    noise : (L, N, n_noise)
    """
    for column, given in zip(columns.unbind(1), noise):
        environment, kind = scene.environment(column, seen), scene.kind(column)
        density, point = network(environment, kind, given)
        scene.put(column, point)
        seen = seen.scatter(1, column[:, None], True)
        yield Step(environment, kind, density, point)
