"""Molecules laid upon a common shape of their beads, so that a network need not know how they lie in space."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BeadShape:
    """A conformation of a molecule's beads, (n_beads, 3), centred; any unit."""

    beads: torch.Tensor

    @classmethod
    def of(cls, beads: torch.Tensor, rounds: int = 10) -> BeadShape:
        """The mean of conformations (n, n_beads, 3), each laid upon it."""
        shape = cls(beads[0] - beads[0].mean(0))
        for _ in range(rounds):
            centre, rotation = shape.frames(beads)
            mean = ((beads - centre) @ rotation).mean(0)
            shape = cls(mean - mean.mean(0))
        return shape

    def frames(self, beads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Centres (B, 1, 3) and rotations (B, 3, 3) so that ``(x - centre) @ rotation`` lies on the shape, with the
        least mean squared distance of the beads (Kabsch, Acta Cryst. A 32, 922 (1976))."""
        centre = beads.mean(1, keepdim=True)
        u, _, vt = torch.linalg.svd((beads - centre).mT @ self.beads.to(beads.dtype))
        hand = torch.ones_like(u[:, 0])
        hand[:, 2] = torch.linalg.det(u @ vt)
        return centre, (u * hand[:, None]) @ vt
