"""The six parts of the loss of the ``cvae`` family (Shmilovich et al. 2022, eq. 3; thesis 8.1 to 8.6).

Means over a batch. Positions (B, n, 3) are nm; squared lengths come out in angstrom^2.
"""

from __future__ import annotations

import torch

from openmm_backmap.energy.bridge import TorchEnergy
from openmm_backmap.training.dbm_losses import damped

ANGSTROM = 10.0


def voxel_loss(generated: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Of densities (B, n_atoms, cells)."""
    return (generated - reference).square().mean()


def position_loss(generated: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Of atoms, and of the beads that they make; angstrom^2."""
    return (ANGSTROM * (generated - reference)).square().mean()


def distance_loss(generated: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Half the mean squared difference of the distances between all atoms, angstrom^2."""
    return 0.5 * (ANGSTROM * (_distances(generated) - _distances(reference))).square().mean()


def energy_loss(energy: TorchEnergy, generated: torch.Tensor, reference: torch.Tensor, scale: float) -> torch.Tensor:
    """Squared difference of potential energies, (kJ/mol)^2; far above ``scale`` it is that of its logarithm.

    In double precision: atoms nearly on top of each other, as networks make them at first, have Lennard-Jones energies
    and gradients beyond the range of single precision.
    """
    difference = energy.total(generated.double()) - energy.total(reference.double())
    return damped(difference, scale).square().mean().to(generated.dtype)


def divergence_loss(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the latent vectors (B, latent) from the normal distribution."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


def _distances(x: torch.Tensor) -> torch.Tensor:
    # A bound keeps the gradient finite on the diagonal.
    return (x[:, :, None] - x[:, None]).square().sum(-1).clamp(min=1e-12).sqrt()
