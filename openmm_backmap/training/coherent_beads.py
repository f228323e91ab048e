"""Training of the ``coherent-beads`` family: the flow of single beads, on consecutive frames of trajectories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch

from openmm_backmap.environments.local import Vocabulary
from openmm_backmap.generators.coherent.beads import (
    CoherentBeadsGenerator,
    FollowedEnvironment,
    FollowedSurroundings,
    FollowingBase,
    FollowingNetwork,
    SideBySide,
)
from openmm_backmap.generators.flow.network import SCALE
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.hydrogens import with_ordered_hydrogens
from openmm_backmap.model_file import ModelFile
from openmm_backmap.training.dataset import Dataset
from openmm_backmap.training.flow import Batches, FlowTrainer, FlowTraining, bead_weights
from openmm_backmap.training.pairs import Pairs, check_same_molecule

#: frames that are looked up together
_TOGETHER = 64
#: angstrom; the least that an atom may move from one frame to the next
_LEAST_STEP = 0.05


@dataclass(frozen=True)
class CoherentBeadsTraining(FlowTraining):
    """Settings of a training run: those of the family ``flow``, and

    Parameters
    ----------
    forget : float
        Share of beads that are not told the frame before: the model then also draws frames by themselves.
    """

    forget: float = 0.2


class FollowedBatches(Batches):
    """Random batches of environments with the frame before; frames of many molecules lie side by side."""

    def __init__(self, dataset: Dataset, settings: CoherentBeadsTraining, vocabulary: Vocabulary, device: str):
        self.settings, self.device, self.frames = settings, device, []
        pairs, hyper = Pairs.of(dataset), settings.network
        self.molecule = pairs.molecule
        positions = with_ordered_hydrogens(self.molecule, pairs.positions.double().numpy())
        side_by_side = cache(lambda n: SideBySide(pairs.molecule, n, vocabulary, device))
        for chosen in torch.randperm(len(pairs.later), generator=torch.Generator().manual_seed(0)).split(_TOGETHER):
            together, later = side_by_side(len(chosen)), pairs.later[chosen]
            before, now = (together.joined(positions[k], 0.0)
                           for k in (later - pairs.step[chosen], later))
            around = FollowedSurroundings(together.tables, mapped(together.target, now), hyper.context_atoms,
                                          hyper.context_beads, before)
            weight = torch.as_tensor(bead_weights(together.target, settings.rare), dtype=torch.float32)
            self.frames.append((around, torch.as_tensor(now, dtype=torch.float32, device=device), weight))

    def draw(self, seed: torch.Generator) -> tuple[FollowedEnvironment, torch.Tensor]:
        """See :meth:`Batches.draw`."""
        env, positions = super().draw(seed)
        known = torch.rand(len(env.known), generator=seed) >= self.settings.forget
        return replace(env, past=env.past + self._jitter(env.past, seed), known=known.to(self.device)), positions

    def base(self, n_slots: int) -> FollowingBase:
        """Mean place and spread of each atom slot, and how far it moves in a frame."""
        base = super().base(n_slots)
        square, count = torch.zeros(n_slots), torch.zeros(n_slots)
        for around, there, slot, x in self._own_atoms():
            moved = (x - around.past * SCALE)[there].square().sum(1).cpu()
            square.index_add_(0, slot, moved)
            count.index_add_(0, slot, torch.ones_like(moved))
        return FollowingBase(base.mean, base.spread, (square / 3 / count.clamp(min=1)).sqrt().clamp(min=_LEAST_STEP))


class CoherentBeadsTrainer(FlowTrainer):
    """A training run; ``start`` is a model to begin with, of the same network and molecule."""

    settings_type = CoherentBeadsTraining
    batches_type, network_type, generator_type = FollowedBatches, FollowingNetwork, CoherentBeadsGenerator

    def __init__(self, dataset: Dataset, validation: Dataset, settings: CoherentBeadsTraining, device: str = "cpu",
                 start: ModelFile | None = None):
        super().__init__(dataset, validation, settings, device, start)
        self.molecule = self.batches.molecule
        check_same_molecule(self.molecule, self.held_out.molecule)

    def generator(self) -> CoherentBeadsGenerator:
        """The generator with the averaged weights."""
        return CoherentBeadsGenerator(self.molecule, self.average, self.base, self.vocabulary, self.device)
