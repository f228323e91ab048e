"""Generator and critic: 3D residual convolutions (thesis fig. A.1).

The generator encodes the environment on a grid of half as many cells along an edge; noise and the type of the atom join
at the embedding, and a decoder ends in a density over all cells or in a point. The critic embeds the environment and
the atom's density together. With a stem, the ways to the coarser grid and back are those published: convolutions on the
full grid, with a pooling and an upsampling layer. Without one, a layer makes one cell of eight, another eight of one.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import nn

from openmm_backmap.environments.voxels import VoxelGrid

HEADS = ("density", "coordinates")
_SLOPE = 0.1


@dataclass(frozen=True)
class DBMHyperparameters:
    """Size of the networks and of what they see.

    Parameters
    ----------
    stem, width : int
        Channels on the full grid, and on the coarser one. A stem of 0 does without convolutions on the full grid, which
        would take half of the time.
    blocks : int
        Residual blocks of the encoder, of the decoder, and twice as many of the critic.
    noise : int
        Numbers in the noise vector.
    groups : int
        Groups of the normalisation; 1 normalises over all channels, as published.
    head : str
        ``density`` (thesis 4.11) or ``coordinates`` (4.12).
    order : str
        Order of the atoms in a bead: ``depth-first``, ``breadth-first`` or ``random``.
    turn_deg : float
        Environments are seen turned about z by angles from 0 to this. 360, as published, leaves the direction across z
        to be found; with less, x points to the second bead of the frame, to within this much, and less data do.
    n_cells, edge_nm, width_nm, cutoff_nm : int, float
        See :class:`~openmm_backmap.environments.voxels.VoxelGrid`.
    """

    stem: int = 0
    width: int = 48
    blocks: int = 1
    noise: int = 32
    groups: int = 1
    head: str = "density"
    order: str = "depth-first"
    turn_deg: float = 360.0
    n_cells: int = 8
    edge_nm: float = 1.2
    width_nm: float = 0.1
    cutoff_nm: float = 0.7

    @property
    def grid(self) -> VoxelGrid:
        return VoxelGrid(self.n_cells, self.edge_nm, self.width_nm, self.cutoff_nm)

    def orientations(self, share: torch.Tensor) -> torch.Tensor:
        """Angles about z, rad, at shares of the turn; what is beyond 1 begins anew."""
        return math.radians(self.turn_deg) * (share % 1.0)


#: sizes by name: ``small`` for one CPU core, ``published`` as the authors' (64 channels, 128 on the coarser grid)
PRESETS = {"small": {}, "published": {"stem": 64, "width": 128, "blocks": 2, "noise": 64}}


class _Residual(nn.Module):
    """Two convolutions and the identity."""

    def __init__(self, width: int, groups: int, wrap):
        super().__init__()
        self.body = nn.Sequential(
            wrap(nn.Conv3d(width, width, 3, padding=1)), nn.GroupNorm(groups, width), nn.LeakyReLU(_SLOPE),
            wrap(nn.Conv3d(width, width, 3, padding=1)), nn.GroupNorm(groups, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(x + self.body(x), _SLOPE)


def _encoder(n_in: int, hyper: DBMHyperparameters, n_blocks: int, wrap) -> nn.Sequential:
    if hyper.stem:
        first = [wrap(nn.Conv3d(n_in, hyper.stem, 3, padding=1)), nn.GroupNorm(hyper.groups, hyper.stem),
                 nn.LeakyReLU(_SLOPE), nn.AvgPool3d(2), wrap(nn.Conv3d(hyper.stem, hyper.width, 1))]
    else:
        first = [wrap(nn.Conv3d(n_in, hyper.width, 2, stride=2)), nn.GroupNorm(hyper.groups, hyper.width),
                 nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*first, *(_Residual(hyper.width, hyper.groups, wrap) for _ in range(n_blocks)))


class _Finer(nn.Module):
    """Eight channels of a cell (N, 8, n, n, n) to the eight cells that it is made of, all (N, 8 n^3) of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(1, (2, 2, 2)).permute(0, 4, 1, 5, 2, 6, 3).flatten(1)


def _density_head(hyper: DBMHyperparameters) -> nn.Sequential:
    # Softmax takes no notice of a bias.
    if not hyper.stem:
        return nn.Sequential(nn.Conv3d(hyper.width, 8, 3, padding=1), _Finer())
    return nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv3d(hyper.width, hyper.stem, 3, padding=1),
        nn.GroupNorm(hyper.groups, hyper.stem), nn.LeakyReLU(_SLOPE),
        nn.Conv3d(hyper.stem, 1, 3, padding=1, bias=False), nn.Flatten())


def _same(layer: nn.Module) -> nn.Module:
    return layer


class DBMNetwork(nn.Module):
    """The generator: environment, atom type and noise to a density and a point."""

    def __init__(self, hyper: DBMHyperparameters, n_channels: int, n_types: int):
        super().__init__()
        self.hyper, self.n_channels, self.n_types, self.grid = hyper, n_channels, n_types, hyper.grid
        half = hyper.n_cells // 2
        self.encoder = _encoder(n_channels, hyper, hyper.blocks, _same)
        self.join = nn.Sequential(nn.Linear(hyper.noise + n_types, hyper.width * half**3), nn.LeakyReLU(_SLOPE),
                                  nn.Unflatten(1, (hyper.width, half, half, half)))
        self.decoder = nn.Sequential(
            nn.Conv3d(2 * hyper.width, hyper.width, 1), nn.GroupNorm(hyper.groups, hyper.width),
            nn.LeakyReLU(_SLOPE), *(_Residual(hyper.width, hyper.groups, _same) for _ in range(hyper.blocks)))
        if hyper.head == "density":
            self.head = _density_head(hyper)
        else:
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(hyper.width * half**3, 64), nn.LeakyReLU(_SLOPE),
                                      nn.Linear(64, 3))
        _channels_last(self)

    def forward(self, environment: torch.Tensor, kind: torch.Tensor, noise: torch.Tensor):
        """Density (N, cells) and point (N, 3), local nm.

        Parameters
        ----------
        environment : (N, n_channels, cells)
        kind : (N,) index of the type of the atom to place
        noise : (N, noise) standard normal
        """
        return self.decode(self.encode(environment), kind, noise)

    def encode(self, environment: torch.Tensor) -> torch.Tensor:
        """What does not depend on type and noise, for :meth:`decode`."""
        return self.encoder(_cells(environment, self.hyper.n_cells))

    def decode(self, seen: torch.Tensor, kind: torch.Tensor, noise: torch.Tensor):
        """Density and point, as :meth:`forward` gives them, of encoded environments."""
        given = torch.cat([noise, nn.functional.one_hot(kind, self.n_types).to(noise.dtype)], dim=1)
        out = self.head(self.decoder(torch.cat([seen, self.join(given).to(seen.dtype)], dim=1))).float()
        if self.hyper.head == "density":
            # Softmax makes it a density of one particle: never negative, and of a Gaussian's total.
            density = self.grid.mass * out.softmax(dim=1)
            return density, self.grid.coordinates(density)
        point = self.grid.edge_nm / 2 * torch.tanh(out)
        return self.grid.gaussians(point), point


class DBMCritic(nn.Module):
    """A number for an environment and an atom in it; higher for what it takes for reference."""

    def __init__(self, hyper: DBMHyperparameters, n_channels: int, n_types: int, spectral_norm: bool):
        super().__init__()
        wrap = nn.utils.parametrizations.spectral_norm if spectral_norm else _same
        half = hyper.n_cells // 2
        self.hyper, self.n_types = hyper, n_types
        self.encoder = _encoder(n_channels + 1, hyper, 0, wrap)
        self.join = wrap(nn.Linear(n_types, hyper.width))
        self.body = nn.Sequential(*(_Residual(hyper.width, hyper.groups, wrap) for _ in range(2 * hyper.blocks)))
        self.score = wrap(nn.Linear(hyper.width * half**3, 1))
        _channels_last(self)

    def forward(self, environment: torch.Tensor, kind: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
        """Scores (N,) of densities (N, cells) in environments (N, n_channels, cells)."""
        x = self.encoder(_cells(torch.cat([environment, density[:, None]], dim=1), self.hyper.n_cells))
        known = self.join(nn.functional.one_hot(kind, self.n_types).to(x.dtype))
        return self.score(self.body(x + known[..., None, None, None]).flatten(1)).squeeze(1).float()


def _cells(flat: torch.Tensor, n: int) -> torch.Tensor:
    return flat.unflatten(2, (n, n, n)).contiguous(memory_format=torch.channels_last_3d)


def _channels_last(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d) and not hasattr(layer, "parametrizations"):
            layer.to(memory_format=torch.channels_last_3d)


def precision(name: str, device: str):
    """A context in which networks run in ``name`` (``float32`` or ``bfloat16``)."""
    if name == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
