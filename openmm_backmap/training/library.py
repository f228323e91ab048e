"""The library of the ``library`` family: frames of reference trajectories, spread evenly over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from openmm_backmap.errors import InputError
from openmm_backmap.generators.coherent.library import LibraryGenerator, stored
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.training.dataset import Dataset
from openmm_backmap.training.pairs import Pairs, check_same_molecule
from openmm_backmap.training.settings import values_of

_ANGSTROM_PER_NM = 10.0
_JUDGED_FRAMES = 500


@dataclass(frozen=True)
class LibraryTraining:
    """Settings of a library.

    Parameters
    ----------
    frames : int
        Most frames; fewer where they would not fit in a model file
        (:func:`openmm_backmap.generators.coherent.library.stored`).
    seed : int
        Without effect: nothing is drawn.
    """

    frames: int = 40000
    seed: int = 1
    steps = 1

    @classmethod
    def from_dict(cls, content: dict, where: str = "settings") -> LibraryTraining:
        """From a settings file; unknown keys and values that are no numbers are refused."""
        settings = values_of(cls(), content, where)
        if settings.frames < 1:
            raise InputError(f"{where}: frames is {settings.frames}; expected a number like {cls.frames}")
        return settings


class LibraryTrainer:
    """Takes the frames in one step; the loss is the mean squared distance of an atom from its place in the frame that
    is taken for its beads: how much they leave open."""

    settings_type, loss_unit = LibraryTraining, "angstrom^2"

    def __init__(self, dataset: Dataset, validation: Dataset, settings: LibraryTraining, device: str = "cpu"):
        self.settings, self.device = settings, device
        own, held_out = Pairs.of(dataset), Pairs.of(validation)
        self.molecule = own.molecule
        check_same_molecule(self.molecule, held_out.molecule)
        self.frames, self.held_out = stored(_spread(own.positions, settings.frames)), held_out.positions
        self.step = 0
        self.history: list[tuple[int, float, float]] = []

    def train(self, until: int | None = None, deadline: float | None = None, report=None, every: int = 500) -> None:
        """Look at how good the library is; the arguments are those that all trainers take."""
        self.step = 1
        # A frame of the library is its own nearest: there is no other loss than that of the held-out frames.
        held = self._distance(_spread(self.held_out, _JUDGED_FRAMES).double().numpy())
        self.history.append((1, held, held))
        if report:
            report(self)

    def _distance(self, atoms: np.ndarray) -> float:
        rng = np.random.default_rng(self.settings.seed)
        found = self.generator().step(mapped(self.molecule, atoms), None, rng)
        return float(((found - atoms) ** 2).sum(-1).mean() * _ANGSTROM_PER_NM**2)

    def generator(self) -> LibraryGenerator:
        """The generator with the library."""
        return LibraryGenerator(self.molecule, self.frames, self.device)

    def state(self) -> None:
        """There is nothing to continue."""
        return None

    def load_state(self, state: dict, where: str = "checkpoint") -> None:
        raise InputError(f"{where}: is of another family; library has nothing to continue")


def _spread(frames: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many of the frames, spread evenly."""
    return frames[torch.linspace(0, len(frames) - 1, min(len(frames), most)).round().long()]
