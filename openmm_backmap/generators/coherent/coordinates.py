"""What the coherent flow draws, and what it knows: coordinates of atoms and of beads, scaled by how much they vary."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

from openmm_backmap.chemistry import Target
from openmm_backmap.generators.coherent.frames import BeadShape
from openmm_backmap.generators.coherent.placing import Placing

#: mean resultant length below which a torsion turns freely
_FREE = 0.7
_LEAST = 1e-6


def wrapped(angle: torch.Tensor) -> torch.Tensor:
    """Angles in -pi to pi."""
    return angle - 2 * math.pi * torch.round(angle / (2 * math.pi))


@dataclass(frozen=True)
class Coordinates:
    """Bonds, angles and torsions of a placing as numbers of mean 0 and spread 1; angstrom and rad.

    Attributes
    ----------
    mean, spread : Tensor, shape (n, 3)
        A spread of 0 marks a coordinate that does not change. Torsions that turn freely have the spread 1.
    rotor : Tensor of bool, shape (n, 3)
        Which turn freely.
    """

    mean: torch.Tensor
    spread: torch.Tensor
    rotor: torch.Tensor

    @classmethod
    def of(cls, molecule: Target, placing: Placing, values: torch.Tensor) -> Coordinates:
        """From values (n_frames, n, 3) of frames."""
        turn = torch.polar(torch.ones_like(values[..., 2]), values[..., 2]).mean(0)
        mean, rotor = values.mean(0), torch.zeros(values.shape[1:], dtype=torch.bool)
        mean[:, 2], rotor[:, 2] = turn.angle(), turn.abs() < _FREE
        apart = values - mean
        apart[..., 2] = wrapped(apart[..., 2])
        spread = torch.where(rotor, 1.0, apart.square().mean(0).sqrt().clamp(min=_LEAST))
        spread[:, 0] = torch.where(_constrained(molecule, placing), 0.0, spread[:, 0])
        return cls(mean, spread, rotor)

    def to(self, device) -> Coordinates:
        return Coordinates(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @property
    def moving(self) -> torch.Tensor:
        """Which of the n x 3 change."""
        return (self.spread > 0).flatten()

    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        """Those that change, (B, n_moving), of values (B, n, 3)."""
        apart = values - self.mean
        apart = torch.cat([apart[..., :2], wrapped(apart[..., 2:])], dim=-1).flatten(1)[:, self.moving]
        return apart / self.spread.flatten()[self.moving]

    def values(self, scaled: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`scaled`."""
        found = self.mean.flatten().repeat(len(scaled), 1)
        found[:, self.moving] += scaled * self.spread.flatten()[self.moving]
        return found.unflatten(1, self.mean.shape)


def _constrained(molecule: Target, placing: Placing) -> torch.Tensor:
    """Rows (n,) whose bond the chemistry holds at one length."""
    kind = molecule.chemistry.constraints
    light = torch.tensor([element == "H" for element in molecule.elements])
    return torch.full((len(placing.rows),), kind == "all-bonds") | (
        light[placing.rows[:, :2]].any(1) & (kind == "h-bonds"))


@dataclass(frozen=True)
class Trend:
    """What is linear about stiff coordinates: how they follow the beads, and how they vary together.

    With it taken out, they are nearly independent Gaussians of spread 1, in soft and in stiff directions alike. Free
    torsions stay as they are.

    Attributes
    ----------
    rotor : Tensor of bool, shape (n,)
        Free torsions.
    slope : Tensor, shape (n_stiff, n_features + 1)
        Least-squares fit to the features of the beads, and a constant.
    colour : Tensor, shape (n_stiff, n_stiff)
        Cholesky factor of the covariance that is left.
    """

    rotor: torch.Tensor
    slope: torch.Tensor
    colour: torch.Tensor

    @classmethod
    def of(cls, scaled: torch.Tensor, features: torch.Tensor, rotor: torch.Tensor) -> Trend:
        """From coordinates (n_frames, n) and bead features (n_frames, n_features) of the same frames."""
        known = torch.cat([features, torch.ones_like(features[:, :1])], dim=-1)
        # Features depend on each other: the smallest solution is the steady one.
        slope = (torch.linalg.pinv(known, rtol=1e-4) @ scaled[:, ~rotor]).mT
        left = scaled[:, ~rotor] - known @ slope.mT
        covariance = left.mT @ left / len(left)
        return cls(rotor, slope, torch.linalg.cholesky(covariance + _LEAST * torch.eye(len(covariance))))

    def to(self, device) -> Trend:
        return Trend(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def without(self, scaled: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Coordinates (B, n) with the trend taken out."""
        left = scaled[:, ~self.rotor] - self._fit(features)
        x = scaled.clone()
        x[:, ~self.rotor] = torch.linalg.solve_triangular(self.colour, left.mT, upper=False).mT
        return x

    def restored(self, x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`without`."""
        scaled = x.clone()
        scaled[:, ~self.rotor] = x[:, ~self.rotor] @ self.colour.mT + self._fit(features)
        return scaled

    def _fit(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.slope[:, :-1].mT + self.slope[:, -1]


@dataclass(frozen=True)
class BeadFeatures:
    """Conformations of beads as numbers: places on the common shape, and distances; scaled to mean 0 and spread 1."""

    shape: BeadShape
    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def of(cls, beads: torch.Tensor) -> BeadFeatures:
        """From conformations (n_frames, n_beads, 3)."""
        shape = BeadShape.of(beads)
        raw = _raw(shape, beads)
        return cls(shape, raw.mean(0), raw.std(0).clamp(min=_LEAST))

    def to(self, device) -> BeadFeatures:
        return BeadFeatures(BeadShape(self.shape.beads.to(device)), self.mean.to(device), self.spread.to(device))

    def __call__(self, beads: torch.Tensor) -> torch.Tensor:
        """(B, n_features) of beads (B, n_beads, 3)."""
        return (_raw(self.shape, beads) - self.mean) / self.spread


def _raw(shape: BeadShape, beads: torch.Tensor) -> torch.Tensor:
    centre, turn = shape.frames(beads)
    i, j = torch.triu_indices(beads.shape[1], beads.shape[1], 1)
    return torch.cat([((beads - centre) @ turn).flatten(1), (beads[:, i] - beads[:, j]).norm(dim=-1)], dim=-1)
