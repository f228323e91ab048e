"""Training of the ``flow`` family: conditional flow matching on local environments of reference snapshots."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from openmm_backmap.chemistry import Target
from openmm_backmap.environments.local import BeadSurroundings, Environment, TargetTables, Vocabulary
from openmm_backmap.errors import InputError
from openmm_backmap.generators.flow.generator import BaseDistribution, FlowGenerator
from openmm_backmap.generators.flow.network import SCALE, FlowHyperparameters, FlowNetwork
from openmm_backmap.geometry.tables import neighbour_table
from openmm_backmap.model_file import ModelFile
from openmm_backmap.training.dataset import Dataset, with_settled_labels
from openmm_backmap.training.loop import NetworkTrainer
from openmm_backmap.training.settings import with_network


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
    rare : float
        Beads are drawn in proportion to the number of their kind to the power of minus this: 0 takes them as they come,
        1 each kind as often. Kinds are told by the beads up to two bonds away, so that those at chain ends are kinds of
        their own.
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
    rare: float = 0.0
    average: float = 0.999
    seed: int = 1
    network: FlowHyperparameters = field(default_factory=FlowHyperparameters)

    @classmethod
    def from_dict(cls, content: dict, where: str = "settings") -> FlowTraining:
        """From a settings file; unknown keys and values that are no numbers are refused."""
        settings = with_network(cls(), content, where)
        network = settings.network
        if network.width % network.heads:
            raise InputError(f"{where}: width {network.width} is not a multiple of heads {network.heads}")
        return settings


class Batches:
    """Random batches of environments with the reference positions of their own atoms."""

    def __init__(self, dataset: Dataset, settings: FlowTraining, vocabulary: Vocabulary, device: str):
        self.settings, self.device = settings, device
        self.frames: list[tuple[BeadSurroundings, torch.Tensor, torch.Tensor]] = []
        hyper = settings.network
        for system in with_settled_labels(dataset).systems:
            tables = TargetTables(system.target, vocabulary, device)
            weight = torch.as_tensor(bead_weights(system.target, settings.rare))
            for positions, box in system.snapshots():
                beads = system.target.mapping @ positions.astype(float)
                around = BeadSurroundings(tables, beads, box, hyper.context_atoms, hyper.context_beads)
                self.frames.append((around, torch.as_tensor(positions, device=device), weight))

    def draw(self, seed: torch.Generator) -> tuple[Environment, torch.Tensor]:
        """An environment batch and the local reference positions (B, S, 3), angstrom, of its own atoms."""
        around, positions, weight = self.frames[int(torch.randint(len(self.frames), (), generator=seed))]
        bead = self._beads(around, weight, seed)
        env = around.environment(bead, positions, self._shown(around, len(bead), seed))
        env = replace(env, position=env.position + self._jitter(env.position, seed) * env.present[..., None])
        return env, self.own_positions(around, bead, positions)

    def _beads(self, around: BeadSurroundings, weight: torch.Tensor, seed: torch.Generator) -> torch.Tensor:
        """Random beads with about as many atoms as each other, so that little is padded."""
        size = around.tables.size.cpu()
        pivot = size[torch.multinomial(weight, 1, generator=seed)]
        alike = torch.nonzero((size - pivot).abs() <= 1).squeeze(1)
        n = min(len(alike), self.settings.beads)
        return alike[torch.multinomial(weight[alike], n, generator=seed)].to(self.device)

    def _shown(self, around: BeadSurroundings, n: int, seed: torch.Generator) -> torch.Tensor:
        # A third see everything (Gibbs), a tenth nothing (the first colour), the rest any share (the forward pass).
        share = torch.rand(n, 1, generator=seed) * 1.6 - 0.16
        return (torch.rand(n, around.index.shape[1], generator=seed) < share).to(self.device)

    def _jitter(self, positions: torch.Tensor, seed: torch.Generator) -> torch.Tensor:
        """Displacements (B, n, 3), nm, of positions of such a shape, in half of the environments."""
        size = self.settings.jitter_nm * (torch.rand(len(positions), 1, 1, generator=seed) * 2 - 1).clamp(min=0)
        return (size * torch.randn(positions.shape, generator=seed)).to(self.device)

    @staticmethod
    def own_positions(around: BeadSurroundings, bead: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        atoms = around.tables.atoms_of_bead[bead]
        atoms = atoms[:, :int((atoms >= 0).sum(1).max())]
        local = around.to_local(bead, positions[atoms.clamp(min=0)])
        return local * (atoms >= 0)[..., None] * SCALE

    def _own_atoms(self) -> Iterator[tuple[BeadSurroundings, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Of each of the frames: surroundings; which own atoms there are, (n_beads, S); the slots of these, (n,); and
        local positions, (n_beads, S, 3), angstrom."""
        for around, positions, _ in self.frames:
            atoms = around.tables.atoms_of_bead
            there = atoms >= 0
            bead = torch.arange(len(atoms), device=self.device)
            yield around, there, around.tables.slot_of_atom[atoms[there]].cpu(), self.own_positions(
                around, bead, positions)

    def base(self, n_slots: int) -> BaseDistribution:
        """Mean place and spread of each atom slot over all frames."""
        total, square, count = (torch.zeros(n_slots, w, dtype=torch.float64) for w in (3, 1, 1))
        for _, there, slot, x in self._own_atoms():
            x = x[there].cpu().double()
            total.index_add_(0, slot, x)
            square.index_add_(0, slot, x.square().sum(1, keepdim=True))
            count.index_add_(0, slot, torch.ones(len(x), 1, dtype=torch.float64))
        mean = total / count.clamp(min=1)
        variance = (square / count.clamp(min=1) - mean.square().sum(1, keepdim=True)) / 3
        return BaseDistribution(mean.float(), variance.clamp(min=0.15**2).sqrt().squeeze(1).float())


def bead_weights(target: Target, rare: float) -> np.ndarray:
    """(n_beads,) how often beads are drawn, in proportion: :attr:`FlowTraining.rare`."""
    n_atoms = np.bincount(target.bead_of_atom, minlength=target.n_beads)
    kind = np.unique(np.c_[target.bead_type, n_atoms], axis=0, return_inverse=True)[1].ravel()
    around = neighbour_table(target.n_beads, target.bead_bonds)
    for _ in range(2):
        nearby = np.sort(np.where(around >= 0, kind[around], -1), axis=1)
        kind, count = np.unique(np.c_[kind, nearby], axis=0, return_inverse=True, return_counts=True)[1:]
        kind = kind.ravel()
    return count[kind] ** -float(rare)


class FlowTrainer(NetworkTrainer):
    """A training run; ``start`` is a model to begin with, of the same network and chemistry."""

    settings_type, loss_unit, starts = FlowTraining, "angstrom^2", True
    last_rate = 0.01
    #: what a family of its own has in their place
    batches_type, network_type, generator_type = Batches, FlowNetwork, FlowGenerator

    def __init__(self, dataset: Dataset, validation: Dataset, settings: FlowTraining, device: str = "cpu",
                 start: ModelFile | None = None):
        super().__init__(settings, dataset.chemistry, device)
        self.vocabulary = _vocabulary(dataset)
        unknown = set(_vocabulary(validation).slots) - set(self.vocabulary.slots)
        if unknown or validation.chemistry.bead_types != dataset.chemistry.bead_types:
            raise InputError("the validation snapshots are of another chemistry than the training snapshots: "
                             f"{validation.chemistry.name}, not {dataset.chemistry.name}")
        self.batches = self.batches_type(dataset, settings, self.vocabulary, device)
        self.held_out = self.batches_type(validation, settings, self.vocabulary, device)
        torch.manual_seed(settings.seed)
        n_slots = len(self.vocabulary.slots)
        self.network = self.network_type(settings.network, n_slots, len(self.vocabulary.bead_types)).to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.base = self.batches.base(n_slots).to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), settings.learning_rate, betas=(0.9, 0.99),
                                           weight_decay=settings.decay)
        if start is not None:
            self._start_from(start)

    def _start_from(self, model: ModelFile) -> None:
        given = self.generator_type.from_model(model, self.device)
        if (given.network.hyper, given.vocabulary) != (self.settings.network, self.vocabulary):
            raise InputError(f"{model.name}: its network, or the atoms it knows, are not those of this training: "
                             "give the same 'network:' settings and chemistry")
        for network in (self.network, self.average):
            network.load_state_dict(given.network.state_dict())
        self.base = given.base

    def _loss(self, network: FlowNetwork, batches: Batches, seed: torch.Generator) -> torch.Tensor:
        """Mean squared error of the velocity, angstrom^2, over real atoms and drawn times."""
        env, x1 = batches.draw(seed)
        n, times = len(x1), self.settings.times
        repeated = lambda values: values.repeat_interleave(times, dim=0)  # noqa: E731
        t = 1 - torch.rand(n * times, generator=seed).pow(self.settings.late).to(self.device)
        noise = torch.randn(n * times, *x1.shape[1:], generator=seed).to(self.device)
        mean, spread = map(repeated, self.base.of(env))
        x0 = mean + spread * noise
        x1, own, s = repeated(x1), repeated(env.own), t[:, None, None]
        error = network.velocity(network.encode(env).repeated(times), (1 - s) * x0 + s * x1, t) - (x1 - x0)
        return (error.square() * own[..., None]).sum() / (own.sum() * 3)

    def generator(self) -> FlowGenerator:
        """The generator with the averaged weights."""
        return FlowGenerator(self.average, self.base, self.vocabulary, self.device)


def _vocabulary(dataset: Dataset) -> Vocabulary:
    slots = {name for system in dataset.systems for name in Vocabulary.of(system.target).slots}
    return Vocabulary(tuple(sorted(slots)), dataset.chemistry.bead_types)
