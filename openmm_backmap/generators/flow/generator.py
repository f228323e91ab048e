"""The ``flow`` family: all atoms of a bead at once, by flow matching in the bead's own frame."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Self

import numpy as np
import torch

from openmm_backmap.chemistry import Target
from openmm_backmap.environments.local import BeadSurroundings, Environment, TargetTables, Vocabulary
from openmm_backmap.errors import InputError
from openmm_backmap.generators.flow.network import SCALE, FlowHyperparameters, FlowNetwork
from openmm_backmap.model_file import ModelFile
from openmm_backmap.sampling.domains import (
    Division,
    Part,
    PartDrawing,
    Workers,
    in_turn,
    n_domains,
    sample_divided,
)
from openmm_backmap.sampling.sweeps import Drawing, Noise, SweepSettings, sample_beads

#: of the time axis; late times are resolved more finely, since bonds sharpen there
_POWER = 1.5


@dataclass(frozen=True)
class FlowSampling:
    """How velocities are integrated: ``steps`` midpoint steps, each two network passes."""

    steps: int = 3


class FlowGenerator:
    """Draws atoms bead by bead, many beads at once; see :mod:`openmm_backmap.sampling.sweeps` for the outer loop."""

    family = "flow"
    divides = True

    def __init__(self, network: FlowNetwork, base: BaseDistribution, vocabulary: Vocabulary, device: str = "cpu",
                 sampling: FlowSampling = FlowSampling(), sweeps: SweepSettings = SweepSettings()):
        self.network, self.base, self.vocabulary = network.to(device).eval(), base.to(device), vocabulary
        self.device, self.sampling, self.sweeps = device, sampling, sweeps

    @classmethod
    def from_model(cls, model: ModelFile, device: str = "cpu") -> FlowGenerator:
        """From a model file; :class:`InputError` where its content does not fit together."""
        try:
            network, base, vocabulary = unpacked(model, FlowNetwork, BaseDistribution)
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{model.name}: weights and hyperparameters do not fit together "
                             f"({str(error).splitlines()[0][:120]})") from None
        return cls(network, base, vocabulary, device, FlowSampling(**model.hyperparameters.get("sampling", {})))

    def to_model(self, chemistry, provenance: dict) -> ModelFile:
        """Pack everything into a model file."""
        weights, hyperparameters = packed(self.network, self.base, self.vocabulary)
        return ModelFile(
            family=self.family, weights=weights, chemistry_source=chemistry.source,
            force_field_xml=chemistry.force_field_xml, provenance=provenance,
            hyperparameters={**hyperparameters, "sampling": asdict(self.sampling)})

    def generate(self, target: Target, beads: np.ndarray, box, *, n_samples: int = 1, rng: np.random.Generator,
                 progress=None, workers: Workers | None = None) -> np.ndarray:
        """See :meth:`openmm_backmap.generators.base.Generator.generate`."""
        self._known(target)
        n = n_domains(target.n_beads, workers)
        if n == 1:
            around = self._surroundings(target, beads, box)
            draw = lambda: sample_beads(around, box, self._draw, self.sweeps, rng, progress).cpu().numpy()  # noqa: E731
        else:
            division = Division(target, beads, box, n)
            spread = workers.spread(division) if workers else in_turn(division, self.prepared)
            draw = lambda: sample_divided(division, spread, self.sweeps, rng, progress)  # noqa: E731
        return np.stack([draw().astype(float) for _ in range(n_samples)])

    def prepared(self, part: Part) -> PartDrawing:
        """What draws beads of a part of a melt."""
        around = self._surroundings(part.target, part.beads, part.box, part.number)
        return PartDrawing(part, Drawing(around, part.box, self._draw, self.sweeps.batch))

    def _surroundings(self, target: Target, beads: np.ndarray, box, number=None) -> BeadSurroundings:
        tables, hyper = TargetTables(target, self.vocabulary, self.device), self.network.hyper
        return BeadSurroundings(tables, beads, box, hyper.context_atoms, hyper.context_beads, number)

    def _known(self, target: Target) -> None:
        wanted = Vocabulary.of(target)
        unknown = set(wanted.slots) - set(self.vocabulary.slots)
        # Bead types are counted in the chemistry's order, so that must be the same.
        if wanted.bead_types != self.vocabulary.bead_types:
            unknown |= set(wanted.bead_types)
        if unknown:
            raise InputError("the model was trained for another chemistry: it does not know "
                             f"{', '.join(sorted(unknown))}")

    @torch.inference_mode()
    def _draw(self, env: Environment, noise: Noise) -> torch.Tensor:
        return integrated(self.network, self.base, self.sampling, env, noise)


def packed(network: FlowNetwork, base: BaseDistribution, vocabulary: Vocabulary) -> tuple[dict, dict]:
    """Weights and hyperparameters of a model file."""
    weights = {**network.state_dict(), **{f"base.{f.name}": getattr(base, f.name) for f in fields(base)}}
    return weights, {"network": asdict(network.hyper), "vocabulary": {
        "slots": list(vocabulary.slots), "bead_types": list(vocabulary.bead_types)}}


def unpacked(model: ModelFile, network_type: type, base_type: type) -> tuple:
    """The inverse of :func:`packed`: network, base distribution and vocabulary."""
    vocabulary = Vocabulary(**{k: tuple(v) for k, v in model.hyperparameters["vocabulary"].items()})
    network = network_type(FlowHyperparameters(**model.hyperparameters["network"]), len(vocabulary.slots),
                           len(vocabulary.bead_types))
    weights = dict(model.weights)
    base = base_type(*(weights.pop(f"base.{f.name}") for f in fields(base_type)))
    network.load_state_dict(weights)
    return network, base, vocabulary


def integrated(network: FlowNetwork, base: BaseDistribution, sampling: FlowSampling, env: Environment,
               noise: Noise) -> torch.Tensor:
    """Own atoms (B, S, 3), local nm, by midpoint steps from the base distribution."""
    context = network.encode(env)
    mean, spread = base.of(env)
    x = mean + spread * noise(3 * env.slot.shape[1]).unflatten(1, (-1, 3))
    times = 1 - (1 - torch.linspace(0, 1, sampling.steps + 1, device=x.device)) ** _POWER
    for start, end in zip(times[:-1, None], times[1:, None]):
        half = (end - start) / 2
        middle = x + half * network.velocity(context, x, start)
        x = x + 2 * half * network.velocity(context, middle, start + half)
    return x / SCALE


@dataclass(frozen=True)
class BaseDistribution:
    """Gaussian about the mean place of each atom slot: ``mean`` (n_slots, 3) and ``spread`` (n_slots,), angstrom."""

    mean: torch.Tensor
    spread: torch.Tensor

    def to(self, device) -> Self:
        return type(self)(*(getattr(self, f.name).to(device) for f in fields(self)))

    def of(self, env: Environment) -> tuple[torch.Tensor, torch.Tensor]:
        """Means (B, S, 3) and spreads (B, S, 1), angstrom, of own atoms."""
        return self.mean[env.slot], self.spread[env.slot][..., None]
