"""The velocity field of the bead-wise flow: own atoms attend to each other and to their surroundings.

Conditional flow matching (Lipman et al., ICLR 2023) on the straight path x_t = (1 - t) x_0 + t x_1 from a Gaussian
about each atom's mean place to the reference positions, in the frame of the bead. Lengths inside are in angstrom.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from openmm_backmap.environments.local import N_GRAPH, N_OFFSETS, Environment

SCALE = 10.0
N_RADIAL = 16
RADIAL_MAX = 7.0
_HIDDEN = -1e9


@dataclass(frozen=True)
class FlowHyperparameters:
    """Size of the network and of its environments.

    Parameters
    ----------
    width, heads, layers : int
    context_atoms, context_beads : int
        Nearest atoms and beads that the network sees.
    """

    width: int = 128
    heads: int = 4
    layers: int = 4
    context_atoms: int = 40
    context_beads: int = 10


class FlowNetwork(nn.Module):
    """v(x_t, t | environment)."""

    def __init__(self, hyper: FlowHyperparameters, n_slots: int, n_bead_types: int):
        super().__init__()
        d, h, n = hyper.width, hyper.heads, hyper.layers
        self.hyper = hyper
        self.slot = nn.Embedding(n_slots, d)
        self.atom_slot = nn.Embedding(n_slots, d)
        self.bead_type = nn.Embedding(n_bead_types, d)
        self.offset = nn.Embedding(N_OFFSETS, d)
        self.place = nn.Linear(3 + N_RADIAL, d)
        self.context = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.SiLU(), nn.Linear(2 * d, d),
                                     nn.LayerNorm(d))
        self.time = nn.Sequential(nn.Linear(17, d), nn.SiLU(), nn.Linear(d, d), nn.SiLU())
        self.enter = nn.Linear(3, d)
        self.graph = nn.Embedding(N_GRAPH, (n + 1) * h)
        self.radial = nn.Linear(N_RADIAL, (n + 1) * h)
        self.keys_values = nn.Linear(d, 2 * d * n)
        self.layers = nn.ModuleList(_Layer(d, h) for _ in range(n))
        self.leave = _Leave(d, h)

    def encode(self, env: Environment) -> Context:
        """What does not depend on x_t or t: once an environment."""
        d, h, n = self.hyper.width, self.hyper.heads, self.hyper.layers
        atoms, beads = env.position * SCALE, env.bead_position * SCALE
        tokens = torch.cat([
            self.atom_slot(env.atom_slot) + self.offset(env.offset) + self._place(atoms),
            self.bead_type(env.bead_type) + self.offset(env.bead_offset) + self._place(beads)], dim=1)
        tokens = tokens + self.context(tokens)
        keys_values = self.keys_values(tokens).unflatten(-1, (n, 2, h, d // h)).permute(2, 3, 0, 4, 1, 5)
        with_room = lambda tokens: nn.functional.pad(tokens, (0, 0, 0, env.slot.shape[1]))  # noqa: E731
        far = env.graph.new_full((*env.graph.shape[:2], env.bead_type.shape[1]), N_GRAPH - 1)
        graph = self.graph(torch.cat([env.graph, far, env.own_graph], dim=2)) + self.radial.bias
        present = torch.cat([env.present, env.bead_present, env.own], dim=1)
        return Context(position=torch.cat([atoms, beads], dim=1),
                       keys_values=tuple(with_room(part) for layer in keys_values for part in layer),
                       last_keys=with_room(_heads(self.leave.context_key(tokens), h)),
                       bias=graph.permute(0, 3, 1, 2).masked_fill(~present[:, None, None], _HIDDEN).contiguous(),
                       slot=self.slot(env.slot))

    def velocity(self, context: Context, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Velocity (B, S, 3) at x (B, S, 3), angstrom, and t (B,), or (1,) where it is the same for all."""
        frequency = torch.arange(1, 9, device=t.device) * torch.pi
        angle = t[:, None] * frequency
        time = self.time(torch.cat([t[:, None], angle.sin(), angle.cos()], dim=-1))[:, None]
        tokens = context.slot + self.enter(x)
        position = torch.cat([context.position, x], dim=1)
        squared = (position.mT[:, :, None] - x.mT[..., None]).square().sum(1)        # (B, S, C + S)
        # Radial functions come before pairs: sums over them need no reordering of the many pairs, here or later.
        bias = torch.baddbmm(context.bias.flatten(2), self.radial.weight.expand(len(x), -1, -1),
                             _radial(squared, 1).flatten(2)).view_as(context.bias)
        *biases, last = bias.split(self.hyper.heads, dim=1)
        for layer, keys, values, bias in zip(self.layers, context.keys_values[::2], context.keys_values[1::2], biases):
            tokens = layer(tokens, time, keys, values, bias)
        return self.leave(tokens, time, context.last_keys, last, position, x, squared)

    def _place(self, position: torch.Tensor) -> torch.Tensor:
        return self.place(torch.cat([position / 5.0, _radial(position.square().sum(-1), -1)], dim=-1))


@dataclass(frozen=True)
class Context:
    """An encoded batch of environments; C context atoms and beads, S own atoms, n layers, h heads.

    Attributes
    ----------
    position : (B, C, 3), angstrom
    keys_values : 2 n of (B, h, C + S, d / h)
        Keys and values of each layer in turn, with room for those of own atoms: :meth:`FlowNetwork.velocity` writes
        there.
    last_keys : (B, h, C + S, d / h)
    bias : (B, (n + 1) h, S, C + S), by graph distance; far below 0 where there is nothing
    slot : (B, S, d)
    """

    position: torch.Tensor
    keys_values: tuple[torch.Tensor, ...]
    last_keys: torch.Tensor
    bias: torch.Tensor
    slot: torch.Tensor

    def repeated(self, n: int) -> Context:
        """Every environment ``n`` times in a row."""
        more = lambda tensor: tensor.repeat_interleave(n, dim=0)  # noqa: E731
        return Context(more(self.position), tuple(map(more, self.keys_values)), more(self.last_keys), more(self.bias),
                       more(self.slot))


def _radial(squared: torch.Tensor, dim: int) -> torch.Tensor:
    """Gaussians of lengths given by their squares, angstrom^2; the N_RADIAL of them are dimension ``dim``, 1 or -1."""
    per_length = N_RADIAL / RADIAL_MAX * 0.7**0.5
    centres = torch.linspace(0, RADIAL_MAX * per_length, N_RADIAL, device=squared.device)
    centres = centres.view(-1, 1, 1) if dim == 1 else centres
    return (((squared + 1e-6).sqrt() * per_length).unsqueeze(dim) - centres).square_().neg_().exp_()


def _completed(room: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Keys or values of context and own atoms, (B, h, C + S, d / h): those of own atoms go into the ``room`` for them.

    Nothing is copied but them; only where gradients are wanted, which need what the room held before.
    """
    n = own.shape[2]
    if torch.is_grad_enabled():
        return torch.cat([room[:, :, :-n], own], dim=2)
    room[:, :, -n:] = own
    return room


def _heads(tokens: torch.Tensor, h: int) -> torch.Tensor:
    """(B, n, d) as (B, h, n, d / h)."""
    return tokens.unflatten(-1, (h, -1)).transpose(1, 2)


class _Layer(nn.Module):
    """Attention of own atoms to context and to each other, then a feed-forward net; both scaled by the time."""

    def __init__(self, d: int, h: int):
        super().__init__()
        self.h = h
        self.norm1, self.norm2 = nn.LayerNorm(d, elementwise_affine=False), nn.LayerNorm(d, elementwise_affine=False)
        self.adapt = nn.Linear(d, 6 * d)
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.feed = nn.Sequential(nn.Linear(d, 2 * d), nn.SiLU(), nn.Linear(2 * d, d))
        nn.init.zeros_(self.adapt.weight), nn.init.zeros_(self.adapt.bias)

    def forward(self, tokens, time, context_keys, context_values, bias):
        a1, b1, g1, a2, b2, g2 = self.adapt(time).chunk(6, dim=-1)
        q, k, v = (_heads(u, self.h) for u in self.qkv(self.norm1(tokens) * (1 + a1) + b1).chunk(3, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(
            q, _completed(context_keys, k), _completed(context_values, v), attn_mask=bias)
        tokens = tokens + (1 + g1) * self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + (1 + g2) * self.feed(self.norm2(tokens) * (1 + a2) + b2)


class _Leave(nn.Module):
    """Tokens to velocities: a free part in the bead's frame, and pulls along the lines to other atoms."""

    def __init__(self, d: int, h: int):
        super().__init__()
        self.h = h
        self.norm = nn.LayerNorm(d)
        self.adapt = nn.Linear(d, 2 * d)
        self.query = nn.Linear(d, d)
        self.context_key, self.own_key = nn.Linear(d, d), nn.Linear(d, d)
        self.pull = nn.Linear(h, 1, bias=False)
        self.free = nn.Linear(d, 3)
        for layer in (self.free, self.pull):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, tokens, time, context_keys, bias, position, x, squared):
        a, b = self.adapt(time).chunk(2, dim=-1)
        tokens = self.norm(tokens) * (1 + a) + b
        q = _heads(self.query(tokens), self.h)
        keys = _completed(context_keys, _heads(self.own_key(tokens), self.h))
        # Hidden atoms carry a bias far below 0, which the sigmoid turns into no pull at all.
        pulls = (q @ keys.mT) * q.shape[-1] ** -0.5 * bias.sigmoid()
        # Far atoms must not lever the result: the pull falls off with distance.
        weight = torch.einsum("bhsc,h->bsc", pulls, self.pull.weight[0]) * torch.exp(-squared / 9.0)
        return self.free(tokens) + weight @ position - weight.sum(-1, keepdim=True) * x
