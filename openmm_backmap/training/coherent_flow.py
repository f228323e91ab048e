"""Training of the ``coherent-flow`` family: conditional flow matching on consecutive frames of trajectories."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from openmm_backmap.errors import InputError
from openmm_backmap.generators.coherent.coordinates import BeadFeatures, Coordinates, Trend, wrapped
from openmm_backmap.generators.coherent.flow import SCALE, CoherentFlowGenerator, Memory, Molecule
from openmm_backmap.generators.coherent.network import CoherentHyperparameters, CoherentNetwork
from openmm_backmap.generators.coherent.placing import choose_placing
from openmm_backmap.model_file import ModelFile
from openmm_backmap.training.dataset import Dataset
from openmm_backmap.training.flow import numbers
from openmm_backmap.training.pairs import Pairs

_SOME_FRAMES = 20000
_REACH = 1.0  # rad


@dataclass(frozen=True)
class CoherentFlowTraining:
    """Settings of a training run.

    Parameters
    ----------
    steps : int
        Updates of the weights; the learning rate falls over all of them.
    molecules : int
        Pairs of frames in a batch.
    learning_rate, warmup, decay : float, int, float
        Peak of the schedule, its first steps, weight decay.
    jitter : float
        Largest displacement (standard deviation, in scaled coordinates) of the frame before, so that its faults are not
        handed on.
    forget : float
        Share of pairs without the frame before: the model then also draws frames by themselves.
    average : float
        Decay of the running mean of the weights.
    seed : int
    network : CoherentHyperparameters
    """

    steps: int = 20000
    molecules: int = 512
    learning_rate: float = 1e-3
    warmup: int = 200
    decay: float = 1e-3
    jitter: float = 0.1
    forget: float = 0.2
    average: float = 0.999
    seed: int = 1
    network: CoherentHyperparameters = field(default_factory=CoherentHyperparameters)

    @classmethod
    def from_dict(cls, content: dict, where: str = "settings") -> CoherentFlowTraining:
        """From a settings file; unknown keys and values that are no numbers are refused."""
        if not isinstance(content, dict) or not isinstance(content.get("network", {}), dict):
            raise InputError(f"{where}: settings are 'name: value' lines, those of the network indented "
                             "under 'network:'")
        network = numbers(CoherentHyperparameters, content.get("network", {}), where)
        return replace(numbers(cls, {k: v for k, v in content.items() if k != "network"}, where), network=network)


class _Measured:
    """Pairs whose coordinates are measured once, for all batches."""

    def __init__(self, pairs: Pairs, molecule: Molecule, device: str):
        self.pairs, self.device = pairs, device
        parts = [molecule.known(x.double() * SCALE) for x in pairs.positions.split(_SOME_FRAMES)]
        self.coordinates, self.features = map(torch.cat, zip(*parts))

    def draw(self, n: int, seed: torch.Generator):
        """Coordinates (n, n_moving) and bead features (n, n_features) of frames before, and the same after."""
        before, after = self.pairs.draw(n, seed)
        return [(self.coordinates[k].to(self.device), self.features[k].to(self.device)) for k in (before, after)]


class CoherentFlowTrainer:
    """A training run that can be stopped and continued exactly: :meth:`state` and :meth:`load_state`.

    ``start`` is a model to begin with, of the same network and molecule.
    """

    settings_type, loss_unit, starts = CoherentFlowTraining, "of the variance", True

    def __init__(self, dataset: Dataset, validation: Dataset, settings: CoherentFlowTraining, device: str = "cpu",
                 start: ModelFile | None = None):
        self.settings, self.device, self.chemistry = settings, device, dataset.chemistry
        pairs, held_out = Pairs.of(dataset), Pairs.of(validation)
        self.molecule = pairs.molecule
        if held_out.molecule.chains != self.molecule.chains:
            raise InputError("the validation snapshots are of another molecule than the training snapshots")
        torch.manual_seed(settings.seed)
        given = None if start is None else self._given(start)
        model = given.model.to("cpu") if given else _molecule(pairs)
        self.network = (given.network if given else model.network(settings.network)).train().to(device)
        self.batches, self.held_out = _Measured(pairs, model, device), _Measured(held_out, model, device)
        self.model, self.rotor = model.to(device), model.rotor.to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), settings.learning_rate, betas=(0.9, 0.99),
                                           weight_decay=settings.decay)
        self.seed = torch.Generator().manual_seed(settings.seed)
        self.step = 0
        self.history: list[tuple[int, float, float]] = []

    def _given(self, model: ModelFile) -> CoherentFlowGenerator:
        given = CoherentFlowGenerator.from_model(model, self.device)
        if given.network.hyper != self.settings.network or given.molecule.chains != self.molecule.chains:
            raise InputError(f"{model.name}: its network or its molecule is not that of this training: give the same "
                             "'network:' settings and chemistry")
        return given

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
        done = self.step / self.settings.steps
        rate = min(1.0, (self.step + 1) / self.settings.warmup) * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate
        loss = self._loss(self.network, self.batches, self.settings.molecules, self.seed)
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

    def _loss(self, network: CoherentNetwork, batches: _Measured, n: int, seed: torch.Generator) -> torch.Tensor:
        """Mean squared error of the velocity, in scaled coordinates."""
        (past, before), (x1, now) = batches.draw(n, seed)
        random = lambda *shape: torch.rand(shape, generator=seed).to(self.device)  # noqa: E731
        normal = lambda *shape: torch.randn(shape, generator=seed).to(self.device)  # noqa: E731
        known = (random(n, 1) >= self.settings.forget).float()
        blurred = past + self.settings.jitter * (2 * random(n, 1) - 1).clamp(min=0) * normal(*past.shape)
        centre = self.model.memory.share * blurred * known
        x0 = centre + self.model.memory.spread_for(known, self.rotor) * normal(*past.shape)
        way = torch.where(self.rotor, wrapped(x1 - x0), x1 - x0)
        t = random(n)
        encoded = network.encode(torch.cat([now, before * known, known], dim=-1), centre)
        return (network.velocity(encoded, x0 + t[:, None] * way, t) - way).square().mean()

    @torch.no_grad()
    def validation_loss(self, n_batches: int = 8) -> float:
        """Loss of the averaged weights on the held-out pairs, always on the same pairs and times."""
        seed = torch.Generator().manual_seed(self.settings.seed + 1)
        return float(np.mean([self._loss(self.average, self.held_out, self.settings.molecules, seed).item()
                              for _ in range(n_batches)]))

    def generator(self) -> CoherentFlowGenerator:
        """The generator with the averaged weights."""
        return CoherentFlowGenerator(self.molecule, self.model, copy.deepcopy(self.average), self.device)

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


def _molecule(pairs: Pairs) -> Molecule:
    """The coordinates that suit the molecule, and how they vary over some of the frames."""
    some = pairs.positions[::max(1, len(pairs.positions) // _SOME_FRAMES)].double() * SCALE
    placing = choose_placing(pairs.molecule, some.numpy())
    coordinates = Coordinates.of(pairs.molecule, placing, placing.measure(some).float())
    features = BeadFeatures.of(some[:, placing.beads].float())
    trend = Trend.of(coordinates.scaled(placing.measure(some).float()), features(some[:, placing.beads].float()),
                     coordinates.rotor.flatten()[coordinates.moving])
    molecule = Molecule(placing, coordinates, features, trend, Memory(torch.empty(0), torch.empty(0)))
    (past, _), (now, _) = (molecule.known(pairs.positions[k].double() * SCALE)
                           for k in pairs.draw(_SOME_FRAMES, torch.Generator().manual_seed(0)))
    share = torch.where(trend.rotor, 1.0, ((past * now).mean(0) / past.square().mean(0)).clamp(0, 1))
    left = now - share * past
    spread = torch.where(trend.rotor, wrapped(left), left).square().mean(0).sqrt()
    # Rare turns to another side, a third of the circle away, must lie within reach.
    spread = torch.where(trend.rotor, spread.clamp(min=_REACH), spread)
    return replace(molecule, memory=Memory(share, spread))
