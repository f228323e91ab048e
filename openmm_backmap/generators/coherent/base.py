"""Generators of whole molecules that follow a trajectory: each frame is drawn given the frame before."""

from __future__ import annotations

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.errors import InputError


class CoherentGenerator:
    """p(r_t | R_t, r_{t-1}), one molecule at a time (Shmilovich et al., J. Phys. Chem. A 126, 9124 (2022)).

    A family writes :meth:`step`, ``from_model`` and ``to_model``. A target may hold any number of the molecules that
    the model is of; they do not see each other.

    Parameters
    ----------
    molecule : Target
        One molecule of the model.
    """

    coherent, default_refine = True, "none"

    def __init__(self, molecule: Target):
        self.molecule = molecule

    def step(self, beads: np.ndarray, previous: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        """Draw the next frame of B molecules.

        Parameters
        ----------
        beads : ndarray, shape (B, n_beads, 3), nm
            Of whole molecules.
        previous : ndarray, shape (B, n_atoms, 3), nm, or None
            The atoms one frame before; None where there is no frame before.
        rng : numpy.random.Generator

        Returns
        -------
        ndarray, shape (B, n_atoms, 3), nm
        """
        raise NotImplementedError

    def generate(self, target: Target, beads: np.ndarray, box, *, n_samples: int = 1, rng: np.random.Generator,
                 progress=None, previous: np.ndarray | None = None) -> np.ndarray:
        """See :meth:`openmm_backmap.generators.base.Generator.generate`.

        ``previous`` (n_samples, n_atoms, 3), nm, are the atoms of each sample one frame before. ``beads`` may be
        those of each sample, (n_samples, n_beads, 3).
        """
        self.check(target)
        beads = np.broadcast_to(beads, (n_samples, target.n_beads, 3)).reshape(-1, self.molecule.n_beads, 3)
        if previous is not None:
            previous = np.reshape(previous, (-1, self.molecule.n_atoms, 3))
        return self.step(beads, previous, rng).reshape(n_samples, target.n_atoms, 3)

    def check(self, target: Target) -> None:
        """Refuse a target that holds other molecules than the model's."""
        own, other = self.molecule.chemistry, target.chemistry
        if own.sha256 != other.sha256:
            raise InputError(f"the model is for another chemistry: {own.name}, not {other.name}")
        strange = set(target.chains) - set(self.molecule.chains)
        if strange:
            raise InputError(f"the model is of the molecule {'-'.join(self.molecule.chains[0])}, and the input holds "
                             f"{'-'.join(strange.pop())}")
