"""Training of the ``coherent-flow`` family: conditional flow matching on consecutive frames of trajectories."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import torch

from openmm_backmap.errors import InputError
from openmm_backmap.generators.coherent.coordinates import BeadFeatures, Coordinates, Trend, wrapped
from openmm_backmap.generators.coherent.flow import SCALE, CoherentFlowGenerator, Memory, Molecule
from openmm_backmap.generators.coherent.network import CoherentHyperparameters, CoherentNetwork
from openmm_backmap.generators.coherent.placing import choose_placing
from openmm_backmap.model_file import ModelFile
from openmm_backmap.training.dataset import Dataset
from openmm_backmap.training.loop import NetworkTrainer
from openmm_backmap.training.pairs import Pairs, check_same_molecule
from openmm_backmap.training.settings import with_network

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
        return with_network(cls(), content, where)


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


class CoherentFlowTrainer(NetworkTrainer):
    """A training run; ``start`` is a model to begin with, of the same network and molecule."""

    settings_type, loss_unit, starts = CoherentFlowTraining, "of the variance", True

    def __init__(self, dataset: Dataset, validation: Dataset, settings: CoherentFlowTraining, device: str = "cpu",
                 start: ModelFile | None = None):
        super().__init__(settings, dataset.chemistry, device)
        pairs, held_out = Pairs.of(dataset), Pairs.of(validation)
        self.molecule = pairs.molecule
        check_same_molecule(self.molecule, held_out.molecule)
        torch.manual_seed(settings.seed)
        given = None if start is None else self._given(start)
        model = given.model.to("cpu") if given else _molecule(pairs)
        self.network = (given.network if given else model.network(settings.network)).train().to(device)
        self.batches, self.held_out = _Measured(pairs, model, device), _Measured(held_out, model, device)
        self.model, self.rotor = model.to(device), model.rotor.to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), settings.learning_rate, betas=(0.9, 0.99),
                                           weight_decay=settings.decay)

    def _given(self, model: ModelFile) -> CoherentFlowGenerator:
        given = CoherentFlowGenerator.from_model(model, self.device)
        if given.network.hyper != self.settings.network or given.molecule.chains != self.molecule.chains:
            raise InputError(f"{model.name}: its network or its molecule is not that of this training: give the same "
                             "'network:' settings and chemistry")
        return given

    def _loss(self, network: CoherentNetwork, batches: _Measured, seed: torch.Generator) -> torch.Tensor:
        """Mean squared error of the velocity, in scaled coordinates."""
        n = self.settings.molecules
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

    def generator(self) -> CoherentFlowGenerator:
        """The generator with the averaged weights."""
        return CoherentFlowGenerator(self.molecule, self.model, copy.deepcopy(self.average), self.device)


def _molecule(pairs: Pairs) -> Molecule:
    """The coordinates that suit the molecule, and how they vary over some of the frames."""
    some = pairs.positions[::max(1, len(pairs.positions) // _SOME_FRAMES)].double() * SCALE
    placing = choose_placing(pairs.molecule, some.numpy())
    values, beads = placing.measure(some).float(), some[:, placing.beads].float()
    coordinates, features = Coordinates.of(pairs.molecule, placing, values), BeadFeatures.of(beads)
    rotor = coordinates.rotor.flatten()[coordinates.moving]
    trend = Trend.of(coordinates.scaled(values), features(beads), rotor)
    forgetful = Molecule(placing, coordinates, features, trend, Memory(torch.zeros(len(rotor)), torch.ones(len(rotor))))
    return replace(forgetful, memory=_memory(forgetful, pairs))


def _memory(molecule: Molecule, pairs: Pairs) -> Memory:
    """How much is left of coordinates from one frame to the next."""
    (past, _), (now, _) = (molecule.known(pairs.positions[k].double() * SCALE)
                           for k in pairs.draw(_SOME_FRAMES, torch.Generator().manual_seed(0)))
    share = torch.where(molecule.rotor, 1.0, ((past * now).mean(0) / past.square().mean(0)).clamp(0, 1))
    left = now - share * past
    spread = torch.where(molecule.rotor, wrapped(left), left).square().mean(0).sqrt()
    # Rare turns to another side, a third of the circle away, must lie within reach.
    return Memory(share, torch.where(molecule.rotor, spread.clamp(min=_REACH), spread))
