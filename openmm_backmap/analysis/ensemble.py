"""The value that all of analysis works on: structures of one target."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from openmm_backmap.chemistry import Target


@dataclass(frozen=True)
class Ensemble:
    """Structures of one target: a reference, or what a model made of coarse-grained frames.

    Attributes
    ----------
    name : str
        For tables and figures.
    target : Target
    positions : ndarray, shape (n_structures, n_atoms, 3), nm
        Whole molecules.
    boxes : ndarray, shape (n_structures, 3, 3), nm, or None
    frame : ndarray of int, shape (n_structures,)
        The coarse-grained frame behind each structure; several draws share one.
    beads : ndarray, shape (n_structures, n_beads, 3), nm, or None
        What the structures were drawn for; None where they are mapped themselves.
    """

    name: str
    target: Target = field(repr=False)
    positions: np.ndarray = field(repr=False)
    boxes: np.ndarray | None = field(repr=False)
    frame: np.ndarray = field(repr=False)
    beads: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.positions)

    def box(self, k: int) -> np.ndarray | None:
        """Box (3, 3), nm, of structure ``k``."""
        return None if self.boxes is None else self.boxes[k]

    def take(self, index: np.ndarray) -> Ensemble:
        """Some of the structures."""
        pick = lambda array: None if array is None else array[index]  # noqa: E731
        return Ensemble(self.name, self.target, self.positions[index], pick(self.boxes), self.frame[index],
                        pick(self.beads))
