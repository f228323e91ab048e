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
        n_batch, n_context = tokens.shape[:2]
        keys_values = self.keys_values(tokens).view(n_batch, n_context, n, 2, h, d // h).permute(2, 3, 0, 4, 1, 5)
        present = torch.cat([env.present, env.bead_present], dim=1)
        far = env.graph.new_full((*env.graph.shape[:2], env.bead_type.shape[1]), N_GRAPH - 1)
        return Context(
            tokens=tokens, keys_values=[kv.unbind(0) for kv in keys_values.unbind(0)],
            position=torch.cat([atoms, beads], dim=1), hidden=~present,
            graph=self.graph(torch.cat([env.graph, far], dim=2)), own_graph=self.graph(env.own_graph),
            own_hidden=~env.own, slot=self.slot(env.slot))

    def velocity(self, context: Context, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Velocity (B, T, S, 3) at x (B, T, S, 3), angstrom, for T times t (B, T) of each environment."""
        h = self.hyper.heads
        frequency = torch.arange(1, 9, device=t.device) * torch.pi
        angle = t[..., None] * frequency
        time = self.time(torch.cat([t[..., None], angle.sin(), angle.cos()], dim=-1))[:, :, None]
        tokens = context.slot[:, None] + self.enter(x)
        to_context = context.position[:, None, None] - x[:, :, :, None]              # (B, T, S, C, 3)
        to_own = x[:, :, None] - x[:, :, :, None]                                    # (B, T, S, S, 3)
        bias = torch.cat([self.radial(_radial(to_context)) + context.graph[:, None],
                          self.radial(_radial(to_own)) + context.own_graph[:, None]], dim=-2)
        hidden = torch.cat([context.hidden, context.own_hidden], dim=1)[:, None, None, :, None]
        bias = bias.masked_fill(hidden, -1e9).movedim(-1, 2)                         # (B, T, L h, S, C + S)
        *biases, last = bias.unflatten(2, (-1, h)).unbind(2)
        for layer, keys_values, bias in zip(self.layers, context.keys_values, biases):
            tokens = layer(tokens, time, *keys_values, bias)
        vectors = torch.cat([to_context, to_own], dim=-2)
        return self.leave(tokens, time, context.tokens, last, vectors)

    def _place(self, position: torch.Tensor) -> torch.Tensor:
        return self.place(torch.cat([position / 5.0, _radial(position)], dim=-1))


@dataclass(frozen=True)
class Context:
    """An encoded batch of environments."""

    tokens: torch.Tensor
    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    position: torch.Tensor
    hidden: torch.Tensor
    graph: torch.Tensor
    own_graph: torch.Tensor
    own_hidden: torch.Tensor
    slot: torch.Tensor


def _radial(vectors: torch.Tensor) -> torch.Tensor:
    """Gaussians of the length (angstrom) of vectors (..., 3)."""
    length = (vectors.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    centres = torch.linspace(0, RADIAL_MAX, N_RADIAL, device=vectors.device)
    return torch.exp(-((length - centres) * (N_RADIAL / RADIAL_MAX)).square() * 0.7)


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
        q, k, v = self.qkv(self.norm1(tokens) * (1 + a1) + b1).unflatten(-1, (3, self.h, -1)).permute(3, 0, 1, 4, 2, 5)
        logits = torch.cat([_against_context(q, context_keys), q @ k.mT], dim=-1) * q.shape[-1] ** -0.5 + bias
        weights = logits.softmax(dim=-1)
        from_context, from_own = weights.split([context_keys.shape[-2], k.shape[-2]], dim=-1)
        mixed = _against_context(from_context, context_values.mT) + from_own @ v
        tokens = tokens + (1 + g1) * self.out(mixed.movedim(2, 3).flatten(-2))
        return tokens + (1 + g2) * self.feed(self.norm2(tokens) * (1 + a2) + b2)


def _against_context(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a (B, T, h, S, c) times the transpose of b (B, h, C, c), the same for all T: (B, T, h, S, C)."""
    n_times, n_own = a.shape[1], a.shape[3]
    product = a.transpose(1, 2).flatten(2, 3) @ b.mT
    return product.unflatten(2, (n_times, n_own)).transpose(1, 2)


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

    def forward(self, tokens, time, context, bias, vectors):
        a, b = self.adapt(time).chunk(2, dim=-1)
        tokens = self.norm(tokens) * (1 + a) + b
        split = lambda u: u.unflatten(-1, (self.h, -1)).transpose(-2, -3)  # noqa: E731
        q = split(self.query(tokens))
        logits = torch.cat([_against_context(q, split(self.context_key(context))),
                            q @ split(self.own_key(tokens)).mT], dim=-1) * q.shape[-1] ** -0.5
        # Hidden atoms carry a bias of -1e9, which the sigmoid turns into no pull at all.
        weight = torch.einsum("bthsc,h->btsc", logits * bias.sigmoid(), self.pull.weight[0])[..., None]
        # Far atoms must not lever the result: the pull falls off with distance.
        reach = torch.exp(-vectors.square().sum(-1, keepdim=True) / 9.0)
        return self.free(tokens) + (weight * reach * vectors).sum(dim=-2)
