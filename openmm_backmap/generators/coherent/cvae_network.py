"""The conditional variational autoencoder on voxels: encoder and decoder (Shmilovich et al. 2022, secs. 2.1 and 2.2).

Every atom and every bead is a Gaussian on a grid, in a channel of its own. The encoder makes a latent vector of
(r_t, R_t, r_{t-1}), the decoder a density for each atom of (R_t, r_{t-1}) and a latent vector; atoms are the weighted
means of their densities (eq. 2). Blocks of 2 x 2 x 2 cells are taken together at once, and made out again at the end:
residual convolutions work on the coarser grid, which makes them eight times as fast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from openmm_backmap.environments.voxels import VoxelGrid

ORIENTATIONS = ("superposed", "random")
_SLOPE = 0.1
_LOG_VARIANCE = 10.0


@dataclass(frozen=True)
class CVAEHyperparameters:
    """Size of the networks, and how they see a molecule. The paper leaves the numbers to its SI; these are ours.

    Parameters
    ----------
    width : int
        Channels of the convolutions.
    encoder_blocks, decoder_blocks : int
        Residual blocks, of two convolutions each.
    latent : int
        Numbers in the latent vector.
    orientation : str
        ``random``, as published: the networks have to learn what a rotation does. ``superposed``: molecules are laid
        upon a mean shape of their beads before, and the result is turned back.
    guess : bool
        Whether densities begin as Gaussians about weighted means of beads and former atoms, with learned weights,
        which convolutions correct; without it, as published, convolutions make them from nothing.
    n_cells : int
        Cells along an edge.
    edge_nm : float
        Edge of the grid, which has to hold the molecule in any orientation it may have.
    sigma_nm : float
        Standard deviation of the Gaussians. From 0.74 cells on their weighted means are exact to 2e-4 cells.
    """

    width: int = 48
    encoder_blocks: int = 1
    decoder_blocks: int = 2
    latent: int = 24
    orientation: str = "superposed"
    guess: bool = True
    n_cells: int = 6
    edge_nm: float = 1.3
    sigma_nm: float = 0.16

    @property
    def grid(self) -> VoxelGrid:
        return VoxelGrid(self.n_cells, self.edge_nm, self.sigma_nm, self.edge_nm)


class _Residual(nn.Module):
    """Two convolutions and the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(1, width), nn.LeakyReLU(_SLOPE), nn.Conv3d(width, width, 3, padding=1),
            nn.GroupNorm(1, width), nn.LeakyReLU(_SLOPE), nn.Conv3d(width, width, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class CVAENetwork(nn.Module):
    """Encoder and decoder of one molecule; positions are nm on the grid, centred."""

    def __init__(self, hyper: CVAEHyperparameters, n_atoms: int, n_beads: int):
        super().__init__()
        width, half, n_condition = hyper.width, hyper.n_cells // 2, n_atoms + n_beads
        self.hyper, self.grid, self.n_atoms = hyper, hyper.grid, n_atoms
        residual = lambda n: (_Residual(width) for _ in range(n))  # noqa: E731
        self.encoder = nn.Sequential(
            nn.Conv3d(n_condition + n_atoms, width, 2, stride=2), *residual(hyper.encoder_blocks),
            nn.LeakyReLU(_SLOPE), nn.Flatten(), nn.Linear(width * half**3, 2 * hyper.latent))
        self.condition = nn.Conv3d(n_condition, width, 2, stride=2)
        # The latent vector joins before and after the blocks: without the latter, training stood still for hundreds of
        # steps before it told rotations of methyl groups apart.
        self.join = nn.Sequential(nn.Linear(hyper.latent, 2 * width * half**3),
                                  nn.Unflatten(1, (2 * width, half, half, half)))
        self.decoder = nn.Sequential(*residual(hyper.decoder_blocks), nn.LeakyReLU(_SLOPE))
        self.head = nn.ConvTranspose3d(width, n_atoms, 2, stride=2)
        # Where each atom was is the first guess.
        self.weights = nn.Parameter(torch.eye(n_atoms, n_condition).roll(n_beads, 1)) if hyper.guess else None
        for layer in self.modules():
            if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
                layer.to(memory_format=torch.channels_last_3d)

    @torch.no_grad()
    def set_guess(self, weights: torch.Tensor) -> None:
        """Begin with weights (n_atoms, n_beads + n_atoms), each row of sum 1."""
        self.weights.copy_(weights)

    def encode(self, atoms: torch.Tensor, beads: torch.Tensor, previous: torch.Tensor):
        """Mean and log variance, each (B, latent), of frames (B, n_atoms, 3) with their conditions."""
        seen = self.encoder(self._cells(self.grid.gaussians(torch.cat([atoms, beads, previous], 1)))).float()
        mean, log_variance = seen.chunk(2, dim=1)
        return mean, log_variance.clamp(-_LOG_VARIANCE, _LOG_VARIANCE)

    def decode(self, beads: torch.Tensor, previous: torch.Tensor, latent: torch.Tensor):
        """Densities (B, n_atoms, cells) and positions (B, n_atoms, 3), nm."""
        given = torch.cat([beads, previous], 1)
        before, after = self.join(latent).chunk(2, dim=1)
        seen = self.decoder(self.condition(self._cells(self.grid.gaussians(given))) + before)
        out = self.head(seen + after).flatten(2).float()
        if self.weights is not None:
            out = out + self._log_gaussians((self.weights / self.weights.sum(1, keepdim=True)) @ given)
        # Softmax makes it a density of one particle: never negative, and of a Gaussian's total.
        density = self.grid.mass * out.softmax(dim=2)
        return density, self.grid.coordinates(density)

    def _log_gaussians(self, x: torch.Tensor) -> torch.Tensor:
        """Logarithms (..., cells) of Gaussians about ``x`` (..., 3)."""
        along = -(self.grid.centres(x) - x[..., None]).square() / (2 * self.hyper.sigma_nm**2)
        plane = along[..., 0, :, None] + along[..., 1, None, :]
        return (plane[..., None] + along[..., 2, None, None, :]).flatten(-3)

    def _cells(self, flat: torch.Tensor) -> torch.Tensor:
        n = self.hyper.n_cells
        return flat.unflatten(2, (n, n, n)).contiguous(memory_format=torch.channels_last_3d)
