"""Consecutive frames of trajectories of one kind of molecule: what coherent generators are trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from openmm_backmap.chemistry import Target, build_target
from openmm_backmap.errors import InputError
from openmm_backmap.training.dataset import Dataset


@dataclass(frozen=True)
class Pairs:
    """Frames of molecules, and which of them follow each other.

    Attributes
    ----------
    molecule : Target
        One molecule; all frames are of it.
    positions : Tensor, shape (n, n_atoms, 3), nm
        Centred on the origin; a frame holds as many of them as it has molecules.
    later : Tensor of int, shape (n_pairs,)
        Indices of those that have one before.
    step : Tensor of int, shape (n_pairs,)
        How far before: the pair of ``k`` is ``positions[later[k] - step[k]]`` and ``positions[later[k]]``.
    """

    molecule: Target
    positions: torch.Tensor
    later: torch.Tensor
    step: torch.Tensor

    @classmethod
    def of(cls, dataset: Dataset) -> Pairs:
        """All pairs of a data set; :class:`InputError` where it holds other than one kind of molecule, or no two
        frames that follow each other."""
        chains = {chain for system in dataset.systems for chain in system.target.chains}
        if len(chains) > 1:
            raise InputError("a coherent model is of one kind of molecule, and the snapshots hold several: "
                             + ", ".join(sorted("-".join(chain) for chain in chains)))
        molecule = build_target(dataset.chemistry, [next(iter(chains))])
        positions, later, step, n = [], [], [], 0
        for system in dataset.systems:
            copies = len(system.target.chains)
            x = np.reshape(system.positions, (-1, molecule.n_atoms, 3))
            positions.append(x - x.mean(1, keepdims=True))
            follows = np.setdiff1d(np.arange(len(system.positions)), system.starts)
            later.append(n + (follows[:, None] * copies + np.arange(copies)).ravel())
            step.append(np.full(len(later[-1]), copies))
            n += len(x)
        if not sum(map(len, later)):
            raise InputError("no two frames of the snapshots follow each other: a coherent model is trained on "
                             "trajectories, as 'backmap-openmm reference adp' writes them")
        return cls(molecule, torch.as_tensor(np.concatenate(positions), dtype=torch.float32),
                   torch.as_tensor(np.concatenate(later)), torch.as_tensor(np.concatenate(step)))

    def draw(self, n: int, seed: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices (n,) into ``positions`` of random pairs: those before, and those after."""
        k = torch.randint(len(self.later), (n,), generator=seed)
        return self.later[k] - self.step[k], self.later[k]


def check_same_molecule(molecule: Target, held_out: Target) -> None:
    """Refuse validation snapshots of another molecule than that of the training snapshots."""
    if held_out.chains != molecule.chains:
        raise InputError("the validation snapshots are of another molecule than the training snapshots")
