"""Training of the ``flow`` family: conditional flow matching on local environments of reference snapshots."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch

from openmm_backmap.environments.local import BeadSurroundings, Environment, TargetTables, Vocabulary
from openmm_backmap.errors import InputError
from openmm_backmap.generators.flow.generator import BaseDistribution, FlowGenerator
from openmm_backmap.generators.flow.network import SCALE, FlowHyperparameters, FlowNetwork
from openmm_backmap.model_file import ModelFile
from openmm_backmap.training.dataset import Dataset, with_settled_labels


@dataclass(frozen=True)
class FlowTraining:
    """Settings of a training run.

    Parameters
    ----------
    steps : int
        Updates of the weights; the learning rate falls over all of them.
    beads, times : int
        Environments in a batch, and times on the path drawn for each of them.
    learning_rate, warmup, decay : float, int, float
        Peak of the schedule, its first steps, weight decay.
    late : float
        Times are 1 - u^late, u uniform: above 1 puts weight on late times, where bonds sharpen.
    jitter_nm : float
        Largest displacement (standard deviation) of context atoms, in half of the environments.
    average : float
        Decay of the running mean of the weights.
    seed : int
    network : FlowHyperparameters
    """

    steps: int = 20000
    beads: int = 64
    times: int = 4
    learning_rate: float = 1e-3
    warmup: int = 300
    decay: float = 1e-3
    late: float = 1.7
    jitter_nm: float = 0.004
    average: float = 0.999
    seed: int = 1
    network: FlowHyperparameters = field(default_factory=FlowHyperparameters)

    @classmethod
    def from_dict(cls, content: dict, where: str = "settings") -> FlowTraining:
        """From a settings file; unknown keys and values that are no numbers are refused."""
        if not isinstance(content, dict) or not isinstance(content.get("network", {}), dict):
            raise InputError(f"{where}: settings are 'name: value' lines, those of the network indented "
                             "under 'network:'")
        network = numbers(FlowHyperparameters, content.get("network", {}), where)
        if network.width % network.heads:
            raise InputError(f"{where}: width {network.width} is not a multiple of heads {network.heads}")
        return replace(numbers(cls, {k: v for k, v in content.items() if k != "network"}, where), network=network)


def numbers(kind: type, given: dict, where: str):
    """``kind(**given)`` with the types of its defaults; YAML takes 1e-3 for a text."""
    default, known = kind(), [f.name for f in fields(kind)]
    values = {}
    for name, value in given.items():
        if name not in known:
            raise InputError(f"{where}: unknown setting {name}; known: {', '.join(known)}")
        try:
            values[name] = type(getattr(default, name))(value)
            if float(values[name]) != float(value):
                raise ValueError
        except (TypeError, ValueError):
            raise InputError(f"{where}: {name} is {value!r}; expected a number like "
                             f"{getattr(default, name)}") from None
    return kind(**values)


class _Batches:
    """Random batches of environments with the reference positions of their own atoms."""

    def __init__(self, dataset: Dataset, settings: FlowTraining, vocabulary: Vocabulary, device: str):
        self.settings, self.device = settings, device
        self.frames: list[tuple[BeadSurroundings, torch.Tensor]] = []
        hyper = settings.network
        for system in with_settled_labels(dataset).systems:
            tables = TargetTables(system.target, vocabulary, device)
            for positions, box in system.snapshots():
                beads = system.target.mapping @ positions.astype(float)
                around = BeadSurroundings(tables, beads, box, hyper.context_atoms, hyper.context_beads)
                self.frames.append((around, torch.as_tensor(positions, device=device)))

    def draw(self, seed: torch.Generator) -> tuple[Environment, torch.Tensor]:
        """An environment batch and the local reference positions (B, S, 3), angstrom, of its own atoms."""
        around, positions = self.frames[int(torch.randint(len(self.frames), (), generator=seed))]
        bead = self._beads(around, seed)
        env = around.environment(bead, positions, self._shown(around, len(bead), seed))
        env = replace(env, position=env.position + self._jitter(env, seed) * env.present[..., None])
        return env, self.own_positions(around, bead, positions)

    def _beads(self, around: BeadSurroundings, seed: torch.Generator) -> torch.Tensor:
        """Random beads with about as many atoms as each other, so that little is padded."""
        size = around.tables.size.cpu()
        pivot = size[torch.randint(len(size), (), generator=seed)]
        alike = torch.nonzero((size - pivot).abs() <= 1).squeeze(1)
        return alike[torch.randperm(len(alike), generator=seed)[:self.settings.beads]].to(self.device)

    def _shown(self, around: BeadSurroundings, n: int, seed: torch.Generator) -> torch.Tensor:
        # A third see everything (Gibbs), a tenth nothing (the first colour), the rest any share (the forward pass).
        share = torch.rand(n, 1, generator=seed) * 1.6 - 0.16
        return (torch.rand(n, around.index.shape[1], generator=seed) < share).to(self.device)

    def _jitter(self, env: Environment, seed: torch.Generator) -> torch.Tensor:
        n = len(env.position)
        size = self.settings.jitter_nm * (torch.rand(n, 1, 1, generator=seed) * 2 - 1).clamp(min=0)
        return (size * torch.randn(env.position.shape, generator=seed)).to(self.device)

    @staticmethod
    def own_positions(around: BeadSurroundings, bead: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        atoms = around.tables.atoms_of_bead[bead]
        atoms = atoms[:, :int((atoms >= 0).sum(1).max())]
        local = around.to_local(bead, positions[atoms.clamp(min=0)])
        return local * (atoms >= 0)[..., None] * SCALE

    def base(self, n_slots: int) -> BaseDistribution:
        """Mean place and spread of each atom slot over all frames."""
        total, square, count = (torch.zeros(n_slots, w, dtype=torch.float64) for w in (3, 1, 1))
        for around, positions in self.frames:
            bead = torch.arange(len(around.index), device=self.device)
            atoms = around.tables.atoms_of_bead
            there = atoms >= 0
            slot = around.tables.slot_of_atom[atoms[there]].cpu()
            x = self.own_positions(around, bead, positions)[there].cpu().double()
            total.index_add_(0, slot, x)
            square.index_add_(0, slot, x.square().sum(1, keepdim=True))
            count.index_add_(0, slot, torch.ones(len(x), 1, dtype=torch.float64))
        mean = total / count.clamp(min=1)
        variance = (square / count.clamp(min=1) - mean.square().sum(1, keepdim=True)) / 3
        return BaseDistribution(mean.float(), variance.clamp(min=0.15**2).sqrt().squeeze(1).float())


class FlowTrainer:
    """A training run that can be stopped and continued exactly: :meth:`state` and :meth:`load_state`.

    ``start`` is a model to begin with, of the same network and chemistry.
    """

    settings_type, loss_unit, starts = FlowTraining, "angstrom^2", True

    def __init__(self, dataset: Dataset, validation: Dataset, settings: FlowTraining, device: str = "cpu",
                 start: ModelFile | None = None):
        self.settings, self.device, self.chemistry = settings, device, dataset.chemistry
        self.vocabulary = _vocabulary(dataset)
        unknown = set(_vocabulary(validation).slots) - set(self.vocabulary.slots)
        if unknown or validation.chemistry.bead_types != dataset.chemistry.bead_types:
            raise InputError("the validation snapshots are of another chemistry than the training snapshots: "
                             f"{validation.chemistry.name}, not {dataset.chemistry.name}")
        self.batches = _Batches(dataset, settings, self.vocabulary, device)
        self.held_out = _Batches(validation, settings, self.vocabulary, device)
        torch.manual_seed(settings.seed)
        n_slots = len(self.vocabulary.slots)
        self.network = FlowNetwork(settings.network, n_slots, len(self.vocabulary.bead_types)).to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.base = self.batches.base(n_slots).to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), settings.learning_rate, betas=(0.9, 0.99),
                                           weight_decay=settings.decay)
        self.seed = torch.Generator().manual_seed(settings.seed)
        self.step = 0
        self.history: list[tuple[int, float, float]] = []
        if start is not None:
            self._start_from(start)

    def _start_from(self, model: ModelFile) -> None:
        given = FlowGenerator.from_model(model, self.device)
        if (given.network.hyper, given.vocabulary) != (self.settings.network, self.vocabulary):
            raise InputError(f"{model.name}: its network, or the atoms it knows, are not those of this training: "
                             "give the same 'network:' settings and chemistry")
        for network in (self.network, self.average):
            network.load_state_dict(given.network.state_dict())
        self.base = given.base

    def train(self, until: int | None = None, deadline: float | None = None, report: Callable | None = None,
              every: int = 500) -> None:
        """Train up to step ``until`` (default: the end) or clock time ``deadline``; ``report(trainer)`` at times."""
        until = min(until or self.settings.steps, self.settings.steps)
        running: list[float] = []
        first = self.step
        # At least one update, so that there always is a loss to tell of.
        while self.step < until and (deadline is None or self.step == first or time.monotonic() < deadline):
            running.append(self._update())
            if self.step % every == 0 or self.step == until:
                self._record(running)
                running = []
                if report:
                    report(self)
        if running:
            self._record(running)

    def _record(self, losses: list[float]) -> None:
        self.history.append((self.step, float(np.mean(losses)), self.validation_loss()))

    def _update(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self._schedule()
        env, x1 = self.batches.draw(self.seed)
        loss = self._loss(self.network, env, x1, self.seed)
        if not torch.isfinite(loss):
            raise InputError(f"training diverged at step {self.step}; lower learning_rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.network.parameters()):
                mean.lerp_(value, 1 - decay)
        return loss.item()

    def _schedule(self) -> float:
        done = self.step / self.settings.steps
        return min(1.0, (self.step + 1) / self.settings.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def _loss(self, network: FlowNetwork, env: Environment, x1: torch.Tensor, seed: torch.Generator) -> torch.Tensor:
        """Mean squared error of the velocity, angstrom^2, over real atoms and drawn times."""
        n, times = len(x1), self.settings.times
        repeated = lambda values: values.repeat_interleave(times, dim=0)  # noqa: E731
        t = 1 - torch.rand(n * times, generator=seed).pow(self.settings.late).to(self.device)
        noise = torch.randn(n * times, *x1.shape[1:], generator=seed).to(self.device)
        x0 = repeated(self.base.mean[env.slot]) + repeated(self.base.spread[env.slot])[..., None] * noise
        x1, own, s = repeated(x1), repeated(env.own), t[:, None, None]
        error = network.velocity(network.encode(env).repeated(times), (1 - s) * x0 + s * x1, t) - (x1 - x0)
        return (error.square() * own[..., None]).sum() / (own.sum() * 3)

    @torch.no_grad()
    def validation_loss(self, n_batches: int = 8) -> float:
        """Loss of the averaged weights on the held-out snapshots, always on the same environments and times."""
        seed = torch.Generator().manual_seed(self.settings.seed + 1)
        return float(np.mean([self._loss(self.average, *self.held_out.draw(seed), seed).item()
                              for _ in range(n_batches)]))

    def generator(self) -> FlowGenerator:
        """The generator with the averaged weights."""
        return FlowGenerator(self.average, self.base, self.vocabulary, self.device)

    def state(self) -> dict:
        """Everything that a continued run needs, as tensors and plain values."""
        return {"step": self.step, "network": self.network.state_dict(), "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(), "seed": self.seed.get_state(), "history": self.history,
                "settings": repr(self.settings)}

    def load_state(self, state: dict, where: str = "checkpoint") -> None:
        """Continue from :meth:`state`; :class:`InputError` where the settings differ."""
        if state["settings"] != repr(self.settings):
            raise InputError(f"{where}: was written with other settings; use another output or the same settings")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.seed.set_state(state["seed"])
        self.step, self.history = state["step"], [tuple(row) for row in state["history"]]


def _vocabulary(dataset: Dataset) -> Vocabulary:
    slots = {name for system in dataset.systems for name in Vocabulary.of(system.target).slots}
    return Vocabulary(tuple(sorted(slots)), dataset.chemistry.bead_types)
