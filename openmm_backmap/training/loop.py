"""The loop of a training by gradients: updates, a running mean of the weights, records, exact continuation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from openmm_backmap.errors import InputError


class NetworkTrainer:
    """A training run that can be stopped and continued exactly: :meth:`state` and :meth:`load_state`.

    A family sets ``network``, ``average`` (a copy of it, which becomes the running mean), ``optimizer``, ``batches``
    and ``held_out``, and gives ``_loss(network, batches, seed)``: a scalar tensor for a random batch. A family that
    does more than lower one loss has its own :meth:`_update`.
    """

    #: what has a state_dict
    kept = ("network", "average", "optimizer")
    #: what a user whose run diverges should lower
    rate_setting = "learning_rate"
    #: share of the learning rate that is left at the end
    last_rate = 0.005

    def __init__(self, settings, chemistry, device: str):
        self.settings, self.chemistry, self.device = settings, chemistry, device
        self.seed = torch.Generator().manual_seed(settings.seed)
        self.step = 0
        self.history: list[tuple[int, float, float]] = []

    def train(self, until: int | None = None, deadline: float | None = None, report: Callable | None = None,
              every: int = 500) -> None:
        """Train up to step ``until`` (default: the end) or clock time ``deadline``; ``report(trainer)`` at times."""
        until = min(until or self.settings.steps, self.settings.steps)
        running: list[dict[str, float]] = []
        first = self.step
        # At least one update, so that there always is a loss to tell of.
        while self.step < until and (self.step == first or self._in_time(deadline)):
            running.append(self._update())
            self.step += 1
            self._follow()
            if self.step % every == 0 or self.step == until:
                self._record(running)
                running = []
                if report and getattr(self, "writes", True):
                    report(self)
        if running:
            self._record(running)

    def _in_time(self, deadline: float | None) -> bool:
        return deadline is None or time.monotonic() < deadline

    def _update(self) -> dict[str, float]:
        """One update of the weights; the parts of its loss by name, ``loss`` among them."""
        s = self.settings
        loss = self._loss(self.network, self.batches, self.seed)
        self._descend(self.optimizer, loss, s.learning_rate * cosine(self.step, s.steps, s.warmup, self.last_rate))
        return {"loss": loss.item()}

    def _descend(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
        self._check_finite(loss)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._clip([parameter for group in optimizer.param_groups for parameter in group["params"]])
        optimizer.step()

    def _check_finite(self, values: torch.Tensor) -> None:
        if not torch.isfinite(values).all():
            raise InputError(f"training diverged at step {self.step}; lower {self.rate_setting}")

    def _clip(self, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
        """Shorten the gradients to at most 1; how long they were."""
        return torch.nn.utils.clip_grad_norm_(parameters, 1.0)

    @torch.no_grad()
    def _follow(self) -> None:
        # Over few steps at first, so that the weights of the beginning are soon forgotten.
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.network.parameters()):
            mean.lerp_(value, 1 - decay)

    def _record(self, parts: list[dict[str, float]]) -> dict[str, float]:
        """Add a line to the history; means of the parts of the losses since the line before."""
        names = sorted({name for part in parts for name in part})
        means = {name: self._mean([part[name] for part in parts if name in part]) for name in names}
        self.history.append((self.step, means["loss"], self.validation_loss()))
        return means

    def _mean(self, values: list[float]) -> float:
        return float(np.mean(values))

    @torch.no_grad()
    def validation_loss(self, n_batches: int = 8) -> float:
        """Loss of the averaged weights on the held-out snapshots, always on the same batches and random numbers."""
        seed = torch.Generator().manual_seed(self.settings.seed + 1)
        return float(np.mean([self._loss(self.average, self.held_out, seed).item() for _ in range(n_batches)]))

    def _same(self) -> dict[str, str]:
        """What a run must share with the one that it continues."""
        return {"settings": repr(self.settings)}

    def state(self) -> dict:
        """Everything that a continued run needs, as tensors and plain values."""
        return {"step": self.step, "seed": self.seed.get_state(), "history": self.history, **self._same(),
                **{name: getattr(self, name).state_dict() for name in self.kept}}

    def load_state(self, state: dict, where: str = "checkpoint") -> None:
        """Continue from :meth:`state`; :class:`InputError` where the settings differ."""
        if any(state[name] != own for name, own in self._same().items()):
            raise InputError(f"{where}: was written with other settings; use another output or the same settings")
        for name in self.kept:
            getattr(self, name).load_state_dict(state[name])
        self.seed.set_state(state["seed"])
        self.step, self.history = state["step"], [tuple(row) for row in state["history"]]


def cosine(step: int, steps: int, warmup: int, last: float) -> float:
    """Share of a learning rate: it rises for ``warmup`` steps, and falls as a cosine to ``last`` at ``steps``."""
    fall = last + (1 - last) * 0.5 * (1 + math.cos(math.pi * (step / steps)))
    return min(1.0, (step + 1) / max(1, warmup)) * fall
