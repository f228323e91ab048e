"""The ``random`` family: rigid repeat units, turned at random about their beads.

The "random mapping" that W. Li et al., J. Chem. Phys. 153, 041101 (2020), compare with. Nothing is minimised.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from openmm_backmap.chemistry import Chemistry, Target, build_target
from openmm_backmap.environments.local import bead_frames
from openmm_backmap.generators.base import check_chemistry
from openmm_backmap.generators.baselines.chains import copied, distinct_chains
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.model_file import ModelFile

Window = tuple[tuple[str, ...], int]


class RandomGenerator:
    """Puts each bead's atoms, with the ideal geometry of the chemistry, on their bead in a random orientation.

    The atoms' own share of the bead mapping lies on the bead; atoms that the bead shares with its neighbours count for
    the bead that owns them.
    """

    trained, default_refine = False, "none"

    def __init__(self, model: ModelFile):
        self.model = model
        self._units: dict[Window, list[np.ndarray]] = {}

    @classmethod
    def from_model(cls, model: ModelFile, device: str = "cpu") -> RandomGenerator:
        return cls(model)

    def generate(self, target: Target, beads: np.ndarray, box, *, n_samples: int = 1, rng: np.random.Generator,
                 progress=None) -> np.ndarray:
        """See :meth:`openmm_backmap.generators.base.Generator.generate`."""
        check_chemistry(self.model, target)
        local, drawn = self._local(target), np.empty((n_samples, target.n_atoms, 3))
        # Turned in the frame of the bead: as random as in space, and atoms turn with the beads.
        frames = bead_frames(target, beads, box)
        for k in range(n_samples):
            turned = np.einsum("bij,bik->bjk", Rotation.random(target.n_beads, random_state=rng).as_matrix(), frames)
            drawn[k] = beads[target.bead_of_atom] + np.einsum("aj,ajk->ak", local, turned[target.bead_of_atom])
            if progress:
                progress("drawing", k + 1, n_samples)
        return drawn

    def _local(self, target: Target) -> np.ndarray:
        """Each atom's place (n_atoms, 3), nm, relative to its bead, in a frame of the bead's hand."""
        local = np.empty((target.n_atoms, 3))
        for copies in distinct_chains(target):
            units = [unit for k in range(len(copies.chain)) for unit in self._unit(window(copies.chain, k))]
            atoms = copied(np.concatenate(copies.atoms_of_bead), copies.first_atom)
            local[atoms] = np.tile(np.concatenate(units), (len(copies.first_atom), 1))
        return local

    def _unit(self, key: Window) -> list[np.ndarray]:
        """For each bead of the monomer its own atoms (n, 3) in the order of the target."""
        if key not in self._units:
            self._units[key] = ideal_unit(self.model.chemistry, *key)
        return self._units[key]


def window(chain: tuple[str, ...], k: int) -> Window:
    """A piece of ``chain`` in which monomer ``k`` stands as it does in the whole, and its number there.

    First, last or inside, between the same neighbours, and of the same hand where hands alternate: a long chain has few
    such pieces.
    """
    start = max(0, k - 1 if k % 2 else k - 2)
    return chain[start:k + 2], k - start


def ideal_unit(chemistry: Chemistry, chain: tuple[str, ...], k: int) -> list[np.ndarray]:
    """Own atoms (n, 3), nm, of each bead of monomer ``k``, about their share of the bead, in a frame of its hand."""
    target = build_target(chemistry, [chain])
    # One conformation a chemistry: what is random is the rotation.
    x = build_coordinates(target, np.random.default_rng(0))
    frames = bead_frames(target, mapped(target, x), None)
    first = sum(len(chemistry.monomers[name].beads) for name in chain[:k])
    units = []
    for bead in range(first, first + len(chemistry.monomers[chain[k]].beads)):
        own = np.flatnonzero(target.bead_of_atom == bead)
        weights = target.mapping[[bead]].toarray()[0, own]
        # A bead may lie on atoms of others alone.
        weights = weights if weights.sum() > 0 else target.masses[own]
        units.append((x[own] - weights @ x[own] / weights.sum()) @ frames[bead].T)
    return units
