"""The velocity field of the coherent flow: all internal coordinates of a molecule at once, given its beads and the
frame before.

Conditional flow matching (Lipman et al., ICLR 2023), on the circle for torsions that turn freely (Chen & Lipman, ICLR
2024): the path from x_0 to x_1 is the shortest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

_N_TIME = 8
#: of free torsions: a methyl group looks the same three times in a turn, and a network is slow to find that by itself
_HARMONICS = (1, 2, 3, 6)


@dataclass(frozen=True)
class CoherentHyperparameters:
    """Size of the network."""

    width: int = 256
    blocks: int = 4


class CoherentNetwork(nn.Module):
    """v(x_t, t | context) of ``n`` coordinates, those in ``rotor`` (n,) on the circle, and ``n_context`` numbers."""

    def __init__(self, hyper: CoherentHyperparameters, rotor: torch.Tensor, n_context: int):
        super().__init__()
        d = hyper.width
        self.hyper = hyper
        self.register_buffer("rotor", rotor, persistent=False)
        self.enter = nn.Linear(self.n_features, d)
        self.context = nn.Sequential(nn.Linear(n_context + self.n_features, d), nn.SiLU(), nn.Linear(d, d))
        self.time = nn.Sequential(nn.Linear(2 * _N_TIME + 1, d), nn.SiLU(), nn.Linear(d, d))
        self.blocks = nn.ModuleList(_Block(d) for _ in range(hyper.blocks))
        self.norm, self.leave = nn.LayerNorm(d), nn.Linear(d, len(rotor))
        nn.init.normal_(self.leave.weight, std=0.02)

    @property
    def n_features(self) -> int:
        """Numbers that tell a set of coordinates."""
        n_turning = int(self.rotor.sum())
        return len(self.rotor) + (2 * len(_HARMONICS) - 1) * n_turning

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Coordinates (B, n) as numbers (B, n_features) that do not jump where an angle does."""
        turning = torch.cat([k * x[:, self.rotor] for k in _HARMONICS], dim=-1)
        return torch.cat([x[:, ~self.rotor], turning.sin(), turning.cos()], dim=-1)

    def encode(self, context: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        """What does not depend on x_t or t, (B, width): ``context`` (B, n_context), and ``centre`` (B, n), about which
        the path begins."""
        return self.context(torch.cat([context, self.features(centre)], dim=-1))

    def velocity(self, encoded: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Velocity (B, n) at ``x`` (B, n) and times ``t`` (B,) or (1,)."""
        known = encoded + self.time(_waves(t))
        tokens = self.enter(self.features(x)) + known
        known = nn.functional.silu(known)
        for block in self.blocks:
            tokens = block(tokens, known)
        return self.leave(self.norm(tokens))


def _waves(t: torch.Tensor) -> torch.Tensor:
    angle = t[:, None] * torch.pi * torch.arange(1, _N_TIME + 1, device=t.device)
    return torch.cat([t[:, None], angle.sin(), angle.cos()], dim=-1)


class _Block(nn.Module):
    """A feed-forward net whose input is scaled and shifted by what is known."""

    def __init__(self, d: int):
        super().__init__()
        self.norm, self.adapt = nn.LayerNorm(d, elementwise_affine=False), nn.Linear(d, 2 * d)
        self.feed = nn.Sequential(nn.Linear(d, 2 * d), nn.SiLU(), nn.Linear(2 * d, d))
        nn.init.zeros_(self.adapt.weight), nn.init.zeros_(self.adapt.bias)

    def forward(self, tokens, known):
        scale, shift = self.adapt(known).chunk(2, dim=-1)
        return tokens + self.feed(self.norm(tokens) * (1 + scale) + shift)
