"""What every generator offers, and the names of those there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.model_file import ModelFile
from openmm_backmap.registry import Registry

Progress = Callable[[str, int, int], None]

#: family name -> class with ``from_model(model_file, device)``
FAMILIES = Registry("generator family", {"flow": "openmm_backmap.generators.flow:FlowGenerator"},
                    group="openmm_backmap.generators")


class Generator(Protocol):
    """Draws atoms for given beads: p(r | R, c)."""

    def generate(self, target: Target, beads: np.ndarray, box: np.ndarray | None, *, n_samples: int = 1,
                 rng: np.random.Generator, progress: Progress | None = None) -> np.ndarray:
        """Draw atom positions.

        Parameters
        ----------
        target : Target
            What to place.
        beads : ndarray, shape (n_beads, 3), nm
            Bead positions of whole molecules, in target order.
        box : ndarray, shape (3, 3), nm, or None
        n_samples : int
            Independent draws.
        rng : numpy.random.Generator
            The only source of randomness: the same state gives the same atoms.
        progress : callable, optional
            Called as ``progress(stage, done, total)``.

        Returns
        -------
        ndarray, shape (n_samples, n_atoms, 3), nm
            Whole molecules; beads held as well as the generator can.
        """
        ...


def load_generator(model: ModelFile, device: str | None = None) -> Generator:
    """The generator of a model file, on ``device`` (``cuda``, ``cpu``; None takes cuda where there is one)."""
    return FAMILIES.get(model.family).from_model(model, pick_device(device))


def pick_device(name: str | None) -> str:
    """``name``, or the best device of this machine; :class:`InputError` where it is not to be had."""
    import torch

    from openmm_backmap.errors import InputError

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not known; use cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: torch {torch.__version__} finds no CUDA device here; use --device cpu")
    return name
