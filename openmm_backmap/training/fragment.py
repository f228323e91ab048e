"""The library of the ``fragment`` family: conformations of each kind of bead, cut out of reference snapshots."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from openmm_backmap.environments.local import bead_frames
from openmm_backmap.errors import InputError
from openmm_backmap.generators.baselines.fragment import FragmentGenerator, kinds_of, library_model
from openmm_backmap.training.dataset import Dataset

_ANGSTROM_PER_NM = 10.0


@dataclass(frozen=True)
class FragmentTraining:
    """Settings of a library.

    Parameters
    ----------
    conformations : int
        Most fragments of a kind; they are drawn at random from all that the snapshots hold.
    seed : int
    """

    conformations: int = 40
    seed: int = 1
    steps = 1

    @classmethod
    def from_dict(cls, content: dict, where: str = "settings") -> FragmentTraining:
        """From a settings file; unknown keys and values that are no whole numbers above 0 are refused."""
        known = [f.name for f in fields(cls)]
        for name, value in content.items():
            if name not in known:
                raise InputError(f"{where}: unknown setting {name}; known: family, {', '.join(known)}")
            if type(value) is not int or value < (name == "conformations"):
                raise InputError(f"{where}: {name} is {value!r}; expected a whole number like {getattr(cls, name)}")
        return cls(**content)


class FragmentTrainer:
    """Cuts out fragments in one step; the loss is the mean squared distance of an atom to its place in the fragment
    of the library that is nearest: how well the library covers the snapshots."""

    settings_type, loss_unit = FragmentTraining, "angstrom^2"

    def __init__(self, dataset: Dataset, validation: Dataset, settings: FragmentTraining, device: str = "cpu"):
        self.settings, self.device, self.chemistry = settings, device, dataset.chemistry
        self.dataset, self.validation = dataset, validation
        self.library: dict[str, np.ndarray] = {}
        self.step = 0
        self.history: list[tuple[int, float, float]] = []

    def train(self, until: int | None = None, deadline: float | None = None, report=None, every: int = 500) -> None:
        """Cut out the fragments; the arguments are those that all trainers take."""
        rng = np.random.default_rng(self.settings.seed)
        found = fragments_of(self.dataset)
        for kind in sorted(found):
            chosen = rng.permutation(len(found[kind]))[:self.settings.conformations]
            self.library[kind] = found[kind][chosen]
        held = fragments_of(self.validation)
        missing = sorted(set(held) - set(self.library))
        if missing:
            raise InputError(f"the validation snapshots hold beads that the others do not: {missing[0]}")
        self.step = 1
        self.history.append((1, self._distance(found), self._distance(held)))
        if report:
            report(self)

    def _distance(self, fragments: dict[str, np.ndarray]) -> float:
        """Mean squared distance, angstrom^2, of atoms from those of the nearest fragment of the library."""
        total = n_atoms = 0.0
        for kind, found in fragments.items():
            library = self.library[kind]
            nearest = [((found - one) ** 2).sum((1, 2)) for one in library]
            total += np.min(nearest, axis=0).sum()
            n_atoms += found.shape[0] * found.shape[1]
        return float(total / n_atoms * _ANGSTROM_PER_NM**2)

    def generator(self) -> FragmentGenerator:
        """The generator with the library."""
        return FragmentGenerator(library_model(self.chemistry, self.library, {}), self.library)

    def state(self) -> None:
        """There is nothing to continue."""
        return None

    def load_state(self, state: dict, where: str = "checkpoint") -> None:
        raise InputError(f"{where}: is of another family; fragment has nothing to continue")


def fragments_of(dataset: Dataset) -> dict[str, np.ndarray]:
    """All fragments (n, n_atoms, 3), nm, of each kind of bead, in the frames of their beads."""
    found: dict[str, list[np.ndarray]] = {}
    for system in dataset.systems:
        kinds = kinds_of(system.target)
        for positions, box in system.snapshots():
            positions = positions.astype(float)
            beads = system.target.mapping @ positions
            frames = bead_frames(system.target, beads, box)
            for kind, (bead, atoms) in kinds.items():
                local = np.einsum("baj,bkj->bak", positions[atoms] - beads[bead, None], frames[bead])
                found.setdefault(kind, []).append(local)
    return {kind: np.concatenate(parts) for kind, parts in found.items()}
