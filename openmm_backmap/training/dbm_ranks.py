"""Several processes that train one model: started by ``torchrun``, each with its part of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import distributed

from openmm_backmap.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls, device: str) -> Ranks:
        """As ``torchrun`` set ``RANK`` and ``WORLD_SIZE``; joins the group (nccl on GPUs, gloo elsewhere)."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        if not distributed.is_initialized():
            try:
                distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
            except (RuntimeError, ValueError) as error:
                raise InputError(f"WORLD_SIZE is {world}, but the processes do not find each other "
                                 f"({str(error).splitlines()[0][:120]}); start them by torchrun") from None
        return cls(distributed.get_rank(), distributed.get_world_size())

    def device(self, name: str) -> str:
        """This process' own GPU where ``name`` is ``cuda``."""
        return f"cuda:{os.environ.get('LOCAL_RANK', self.rank)}" if self.world > 1 and name == "cuda" else name

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Mean of the gradients over all processes, in place.

        By hand, and not by DistributedDataParallel: that takes one forward pass for each backward pass, and a
        sequence is many of them; the critic's penalty differentiates twice besides.
        """
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        distributed.all_reduce(flat)
        for gradient, mean in zip(gradients, (flat / self.world).split([g.numel() for g in gradients])):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, value: float, device: str) -> float:
        """Mean of a number over all processes."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return float(total) / self.world

    def agree(self, value: bool, device: str) -> bool:
        """What process 0 says: all must stop at the same step."""
        if self.world == 1:
            return value
        said = torch.tensor(int(value), device=device)
        distributed.broadcast(said, 0)
        return bool(said)
