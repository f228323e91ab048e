"""A coarse-grained force field with a small neural network: a prior that holds the molecule together, and a correction.

The energy of one molecule is U = U_prior + kT N(features). The prior keeps beads where reference frames have been, for
a network says nothing sensible where it has seen nothing (J. Wang et al., ACS Cent. Sci. 5, 755 (2019)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from openmm_backmap.chemistry import Target
from openmm_backmap.coarse.internal import coordinates_of, values
from openmm_backmap.units import GAS_CONSTANT

# The wall between beads that are neither one nor two bonds apart, kT (a/r)^12: a is the distance that this share of
# frames is below.
_WALL_SHARE = 0.001
_HARMONICS, _BINS = 6, 72
# Where there is no frame, a dihedral's prior is as high as half a frame in a bin makes it.
_FEWEST = 0.5
# Frames in a bin that a correction needs.
_ENOUGH = 25
# torch.quantile takes no more numbers than 16 million.
_QUANTILE_FRAMES = 100_000


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes of the network.

    Parameters
    ----------
    width, depth : int
        Hidden units of a layer, and hidden layers.
    """

    width: int = 96
    depth: int = 2


class CGNetwork(nn.Module):
    """Energy of one kind of molecule.

    Parameters
    ----------
    target : Target
        One molecule.
    temperature_K : float
    settings : NetworkSettings
    """

    def __init__(self, target: Target, temperature_K: float, settings: NetworkSettings = NetworkSettings()):
        super().__init__()
        self.coordinates, self.kT, self.settings = coordinates_of(target), GAS_CONSTANT * temperature_K, settings
        c = self.coordinates
        n_torsions, n_features = len(c.torsions), len(c.pairs) + 2 * len(c.torsions)
        self.register_buffer("differences", torch.as_tensor(c.differences(target.n_beads)), persistent=False)
        self.register_buffer("orders", torch.arange(1.0, _HARMONICS + 1)[:, None, None], persistent=False)
        for name, n in (("length", len(c.pairs)), ("stiffness", len(c.pairs)), ("wall", len(c.pairs)),
                        ("mean", n_features), ("spread", n_features)):
            self.register_buffer(name, torch.ones(n, 1))
        self.register_buffer("series", torch.zeros(2, _HARMONICS, n_torsions, 1))
        sizes = [n_features, *[settings.width] * settings.depth]
        layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.Tanh())]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1, bias=False))

    @torch.no_grad()
    def fit_prior(self, x: torch.Tensor) -> None:
        """Boltzmann inversion of each coordinate by itself, in frames ``x`` (n_frames, n_beads, 3), nm.

        Distances over one and two bonds are harmonic, with the mean and the variance of the frames, and so are
        impropers, up to their period; dihedrals have a Fourier series through -kT ln p, shared among those about one
        bond; all other pairs have a wall.
        """
        c, (distance, cosine, sine) = self.coordinates, self._values(x)
        near = torch.as_tensor(c.apart < 3)[:, None]
        self.length = distance.mean(1, keepdim=True)
        self.stiffness = torch.where(near, self.kT / distance.var(1, keepdim=True), 0.0)
        wall = torch.quantile(distance[:, :_QUANTILE_FRAMES], _WALL_SHARE, dim=1, keepdim=True)
        self.wall = torch.where(near, 0.0, wall)
        angles, dihedrals = torch.atan2(sine, cosine).double().numpy(), range(c.n_dihedrals)
        series = [_inverted(row) / n if k in dihedrals else _around_mean(row)
                  for k, (row, n) in enumerate(zip(angles, _about_one_bond(c.torsions), strict=True))]
        if series:
            self.series = torch.as_tensor(self.kT * np.stack(series, axis=-1)[..., None], dtype=x.dtype)
        features = torch.cat([1.0 / distance, cosine, sine])
        self.mean, self.spread = features.mean(1, keepdim=True), features.std(1, keepdim=True).clamp(min=1e-4)

    @torch.no_grad()
    def correct_dihedrals(self, reference: torch.Tensor, run: torch.Tensor) -> None:
        """Add kT ln(p_run / p_reference) of every dihedral (shared among those about one bond), where both have been.

        How much of the one basin there is and how much of another follows from the forces on the few frames between
        them; the frames in them know it better. ``reference`` and ``run`` are beads (n_frames, n_beads, 3), nm, the
        latter under this very force field.
        """
        n = self.coordinates.n_dihedrals
        theirs, ours = (torch.atan2(sine, cosine)[:n].double().numpy()
                        for _, cosine, sine in (self._values(reference), self._values(run)))
        shares = 1 / _about_one_bond(self.coordinates.torsions)
        for k in range(n):
            change = self.kT * shares[k] * _series(_log_ratio(ours[k], theirs[k]))
            self.series[:, :, k, 0] += torch.as_tensor(change, dtype=self.series.dtype)

    def _values(self, x: torch.Tensor):
        return values(x.permute(2, 1, 0).contiguous(), self.differences, len(self.coordinates.torsions))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Energies (n_molecules,), kJ/mol, of beads ``x`` (n_molecules, n_beads, 3), nm."""
        distance, cosine, sine = self._values(x)
        features = (torch.cat([1.0 / distance, cosine, sine]) - self.mean) / self.spread
        return self._prior(distance, cosine, sine) + self.kT * self.layers(features.T)[:, 0]

    def prior(self, x: torch.Tensor) -> torch.Tensor:
        """Energies (n_molecules,), kJ/mol, of the prior alone; see :meth:`forward`."""
        return self._prior(*self._values(x))

    def _prior(self, distance: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        waves, near = torch.atan2(sine, cosine) * self.orders, (self.wall / distance).square()
        return (((distance - self.length).square() * self.stiffness).sum(0) / 2
                + self.kT * (near * near * near).square().sum(0)
                + (waves.cos() * self.series[0] + waves.sin() * self.series[1]).sum((0, 1)))


def forces(energy, x: torch.Tensor, differentiable: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies (n_molecules,) and forces (n_molecules, n_beads, 3), kJ/mol and nm, of a function of beads ``x``."""
    x = x.detach().requires_grad_()
    found = energy(x)
    force = -torch.autograd.grad(found.sum(), x, create_graph=differentiable)[0]
    return (found if differentiable else found.detach()), force


def _inverted(angles: np.ndarray) -> np.ndarray:
    """Coefficients (2, n_harmonics) of cosines and sines of -ln p of ``angles`` (n_frames,), radians."""
    return _series(-np.log(np.maximum(_histogram(angles), _FEWEST)))


def _histogram(angles: np.ndarray) -> np.ndarray:
    return np.histogram(angles, _BINS, (-np.pi, np.pi))[0]


def _log_ratio(run: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """ln(p_run / p_reference) (n_bins,) of angles, radians; 0 where either has hardly been."""
    ours, theirs = _histogram(run), _histogram(reference)
    known = (ours >= _ENOUGH) & (theirs >= _ENOUGH)
    return np.where(known, np.log(np.maximum(ours, 1) / len(run) * len(reference) / np.maximum(theirs, 1)), 0.0)


def _series(energy: np.ndarray) -> np.ndarray:
    """Coefficients (2, n_harmonics) of cosines and sines of ``energy`` (n_bins,), from -pi to pi."""
    middle = (np.arange(_BINS) + 0.5) * 2 * np.pi / _BINS - np.pi
    waves = np.arange(1, _HARMONICS + 1)[:, None] * middle
    return np.stack([2 * (energy * np.cos(waves)).mean(1), 2 * (energy * np.sin(waves)).mean(1)])


def _around_mean(angles: np.ndarray) -> np.ndarray:
    """Coefficients as :func:`_inverted`, of (1 - cos(angle - mean)) / variance."""
    mean = np.angle(np.exp(1j * angles).mean())
    away = np.angle(np.exp(1j * (angles - mean)))
    found = np.zeros((2, _HARMONICS))
    found[:, 0] = -np.array([np.cos(mean), np.sin(mean)]) / away.var()
    return found


def _about_one_bond(torsions: np.ndarray) -> np.ndarray:
    """How many (n_torsions,) share the middle bond of each."""
    middle = np.sort(torsions[:, 1:3], axis=1)
    return (middle[:, None] == middle[None]).all(-1).sum(1)
