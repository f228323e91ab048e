"""Bonded energies in torch: bonds, angles and torsions of the functional forms that OpenMM offers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from openmm_backmap.energy.neighbours import minimum_image


def move(value, device=None, dtype=None):
    """A frozen dataclass with its tensors on ``device``; floating-point ones as ``dtype``."""
    moved = {}
    for f in dataclasses.fields(value):
        tensor = getattr(value, f.name)
        if isinstance(tensor, torch.Tensor):
            moved[f.name] = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
    return dataclasses.replace(value, **moved)


@dataclass(frozen=True)
class BondedTerms:
    """All bonded terms of one kind.

    Attributes
    ----------
    kind : str
        A key of :data:`KINDS`.
    atoms : Tensor of int, shape (n_terms, 2, 3 or 4)
    parameters : Tensor, shape (n_terms, n_parameters)
        Units of nm, rad, kJ/mol; columns as the function in :data:`KINDS` says.
    periodic : bool
        Whether the force takes nearest images; most do not and need whole molecules.
    """

    kind: str
    atoms: torch.Tensor
    parameters: torch.Tensor
    periodic: bool

    def energies(self, x: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        """Energy of every term, (..., n_terms), kJ/mol, at positions ``x`` (..., n_atoms, 3), nm."""
        return KINDS[self.kind](x[..., self.atoms, :], self.parameters, box if self.periodic else None)

    def touching(self, atoms: torch.Tensor) -> BondedTerms:
        """The terms in which at least one of ``atoms`` takes part."""
        keep = torch.isin(self.atoms, atoms).any(dim=1)
        return dataclasses.replace(self, atoms=self.atoms[keep], parameters=self.parameters[keep])


def distances(vectors: torch.Tensor) -> torch.Tensor:
    """Lengths (...) of vectors (..., 3), nm; below 0.001 nm taken as 0.001 nm, which keeps energies finite."""
    return torch.sqrt(torch.clamp((vectors * vectors).sum(dim=-1), min=1e-6))


def _norm(vectors: torch.Tensor) -> torch.Tensor:
    # The bound keeps the gradient of collinear angles finite.
    return torch.sqrt(torch.clamp((vectors * vectors).sum(dim=-1), min=1e-30))


def _bond(x: torch.Tensor, parameters: torch.Tensor, box) -> torch.Tensor:
    """k/2 (r - r0)^2; columns r0, k."""
    length, k = parameters.unbind(-1)
    return 0.5 * k * (distances(minimum_image(x[..., 0, :] - x[..., 1, :], box)) - length) ** 2


def _angle(x: torch.Tensor, parameters: torch.Tensor, box) -> torch.Tensor:
    """k/2 (theta - theta0)^2; columns theta0, k."""
    a = minimum_image(x[..., 0, :] - x[..., 1, :], box)
    b = minimum_image(x[..., 2, :] - x[..., 1, :], box)
    theta = torch.atan2(_norm(torch.linalg.cross(a, b)), (a * b).sum(dim=-1))
    angle, k = parameters.unbind(-1)
    return 0.5 * k * (theta - angle) ** 2


def dihedrals(x: torch.Tensor, box=None) -> torch.Tensor:
    """Dihedral angles (...), rad in (-pi, pi], 0 for cis, of positions (..., 4, 3)."""
    a, b, c = (minimum_image(x[..., k + 1, :] - x[..., k, :], box) for k in range(3))
    normal, other = torch.linalg.cross(a, b), torch.linalg.cross(b, c)
    return torch.atan2(_norm(b) * (a * other).sum(dim=-1), (normal * other).sum(dim=-1))


def _torsion(x: torch.Tensor, parameters: torch.Tensor, box) -> torch.Tensor:
    """k (1 + cos(n phi - phi0)); columns n, phi0, k."""
    n, phase, k = parameters.unbind(-1)
    return k * (1 + torch.cos(n * dihedrals(x, box) - phase))


def _rb_torsion(x: torch.Tensor, parameters: torch.Tensor, box) -> torch.Tensor:
    """Sum of C_m cos(psi)^m with psi = phi - pi, 0 for trans; columns C_0 to C_5."""
    cosine = -torch.cos(dihedrals(x, box))
    energy = torch.zeros_like(cosine)
    for coefficient in reversed(parameters.unbind(-1)):
        energy = energy * cosine + coefficient
    return energy


def _improper(x: torch.Tensor, parameters: torch.Tensor, box) -> torch.Tensor:
    """k/2 (phi - phi0)^2, the difference taken into (-pi, pi] where the third column is 1; columns k, phi0, wrapped."""
    k, angle, wrapped = parameters.unbind(-1)
    difference = dihedrals(x, box) - angle
    nearest = difference - 2 * math.pi * torch.round(difference / (2 * math.pi))
    return 0.5 * k * torch.where(wrapped > 0, nearest, difference) ** 2


KINDS = {"bond": _bond, "angle": _angle, "torsion": _torsion, "rb_torsion": _rb_torsion, "improper": _improper}
