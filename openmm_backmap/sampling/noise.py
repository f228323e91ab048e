"""Random numbers by counter: each is a function of a key and of what it is for, whoever draws it and in what order.

Philox 4x32-10 of Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

from __future__ import annotations

import math

import torch

_WORD = 2**32 - 1
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def philox(counter: torch.Tensor, key: int) -> torch.Tensor:
    """Random words (..., 4) below 2^32 for counters (..., 4) of such words and a key of 64 bits."""
    a, b, c, d = counter.unbind(-1)
    low, high = key & _WORD, key >> 32 & _WORD
    for _ in range(_ROUNDS):
        # Products of 64 bits wrap to negative numbers, whose bits are right.
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (second >> 32 & _WORD) ^ b ^ low, second & _WORD, (first >> 32 & _WORD) ^ d ^ high, first & _WORD
        low, high = low + _STEPS[0] & _WORD, high + _STEPS[1] & _WORD
    return torch.stack([a, b, c, d], dim=-1)


def normals(key: int, number: torch.Tensor, visit: int, n: int) -> torch.Tensor:
    """Standard normal numbers (B, n), by Box and Muller, for the ``visit``-th draw of what is numbered ``number`` (B,).
    """
    blocks = torch.arange(-(-n // 4), device=number.device)
    counter = torch.stack(torch.broadcast_tensors(
        number[:, None], torch.full_like(blocks, visit), blocks, torch.zeros_like(blocks)), dim=-1)
    uniform = (philox(counter, key).double() + 0.5) / 2**32
    length = (-2 * uniform[..., :2].log()).sqrt()
    angle = 2 * math.pi * uniform[..., 2:]
    return torch.cat([length * angle.cos(), length * angle.sin()], dim=-1).flatten(1)[:, :n].float()
