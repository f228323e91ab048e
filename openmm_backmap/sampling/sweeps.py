"""The outer loop of bead-wise generators: a forward pass, Gibbs sweeps, and redraws of what came out wrong.

The forward pass draws the beads colour by colour, each given the atoms drawn before it; a Gibbs sweep draws every
bead again, given all others. Beads whose atoms broke a stereocentre, put a bond through a ring, folded a ring or hit
another atom are then drawn again, until none is left or ``max_redraws`` is reached.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from openmm_backmap.environments.local import BeadSurroundings, Environment
from openmm_backmap.sampling.colouring import colour_beads
from openmm_backmap.sampling.faults import Nearby
from openmm_backmap.sampling.noise import normals

#: standard normal numbers (B, n) of a batch of beads, for a number n
Noise = Callable[[int], torch.Tensor]
Draw = Callable[[Environment, Noise], torch.Tensor]


@dataclass(frozen=True)
class SweepSettings:
    """The outer loop.

    Parameters
    ----------
    gibbs : int
        Sweeps after the forward pass.
    reach_nm : float
        Beads closer than this are never drawn at once.
    max_redraws : int
        Rounds of redrawing faulty beads.
    batch : int
        Beads in one pass of the network; bounds memory.
    """

    gibbs: int = 2
    reach_nm: float = 0.75
    max_redraws: int = 20
    batch: int = 512


class Melt(Protocol):
    """What the outer loop works on: a whole melt in this process, or one that is divided."""

    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """Neighbouring beads (n_beads, k), -1 where there is none, and how far (nm) they are."""

    def draw_beads(self, beads: np.ndarray, visit: int) -> None:
        """Draw ``beads``, that do not see each other, with the noise of their ``visit``-th draw."""

    def faulty(self, moved: np.ndarray | None = None) -> np.ndarray:
        """Beads to be drawn again; where only ``moved`` beads may be wrong, only what is near them is looked at."""


def sample_beads(around: BeadSurroundings, box, draw: Draw, settings: SweepSettings, rng: np.random.Generator,
                 progress=None) -> torch.Tensor:
    """Positions (n_atoms, 3), nm, of one sample; ``draw`` gives local own atoms (B, S, 3) for an environment."""
    melt = Drawing(around, box, draw, settings.batch, fresh_key(rng))
    sweep(melt, settings, rng, progress)
    return melt.positions


def fresh_key(rng: np.random.Generator) -> int:
    """The key of one sample's noise."""
    return int(rng.integers(2**63))


def sweep(melt: Melt, settings: SweepSettings, rng: np.random.Generator, progress=None) -> None:
    """The forward pass, Gibbs sweeps and redraws."""
    neighbour, distance = melt.neighbours()
    colours = lambda: colour_beads(neighbour, distance, settings.reach_nm, rng)  # noqa: E731
    passes = 1 + settings.gibbs
    for k in range(passes):
        colour = colours()
        n_colours = colour.max() + 1
        for done, c in enumerate(rng.permutation(n_colours)):
            if progress:
                progress("drawing atoms", k * n_colours + done, passes * n_colours)
            melt.draw_beads(np.flatnonzero(colour == c), k)
        if progress:
            progress("drawing atoms", (k + 1) * n_colours, passes * n_colours)
    visits = itertools.count(passes)
    redraw_faulty(melt.faulty, colours, lambda beads: melt.draw_beads(beads, next(visits)), settings.max_redraws,
                  progress)


class Drawing:
    """Beads that this process draws: positions so far, and which beads have atoms.

    Parameters
    ----------
    around : BeadSurroundings
    box : ndarray, shape (3, 3), nm, or None
    draw : callable
        Gives local own atoms (B, S, 3), nm, for an environment and noise.
    batch : int
        Beads in one call of it.
    key : int
        Of the noise.
    """

    def __init__(self, around: BeadSurroundings, box, draw: Draw, batch: int, key: int = 0):
        self.around, self.box, self.draw, self.batch, self.key = around, box, draw, batch, key
        self.target = around.tables.target
        self._nearby = Nearby(self.target, around.centre.cpu().numpy().astype(float), box)
        self.positions = around.centre[around.tables.bead_of_atom].clone()
        self.placed = torch.zeros(self.target.n_beads, dtype=torch.bool, device=self.positions.device)

    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        return self.around.neighbours()

    def draw_beads(self, beads: np.ndarray, visit: int) -> None:
        # Beads with few and with many atoms apart, so that little is padded.
        size = self.around.tables.size.cpu().numpy()[beads]
        small = size * 2 <= size.max() + 1
        parts = _batches(beads[small], self.batch) + _batches(beads[~small], self.batch)
        # All are drawn before any is put down: what a bead sees must not depend on who is in which batch.
        drawn = [self._drawn(torch.as_tensor(part, device=self.positions.device), visit) for part in parts]
        for atoms, positions in drawn:
            self.positions[atoms] = positions
        self.placed[torch.as_tensor(beads, device=self.positions.device)] = True

    def _drawn(self, bead: torch.Tensor, visit: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The atoms (n,) of beads, and where they are from now on (n, 3)."""
        around = self.around
        shown = self.placed[around.index[bead].clamp(min=0)]
        noise = lambda n: normals(self.key, around.number[bead], visit, n)  # noqa: E731
        local = self.draw(around.environment(bead, self.positions, shown), noise)
        atoms = around.tables.atoms_of_bead[bead][:, :local.shape[1]]
        there = atoms >= 0
        return atoms[there], around.to_global(bead, local)[there]

    def faulty(self, moved: np.ndarray | None = None) -> np.ndarray:
        return self._nearby.faulty(self.positions.cpu().numpy().astype(float), moved)


def redraw_faulty(faulty: Callable[[np.ndarray | None], np.ndarray], colours: Callable[[], np.ndarray],
                  draw: Callable[[np.ndarray], None], max_redraws: int, progress=None) -> None:
    """Draw faulty beads again, colour by colour, until ``faulty`` finds none or ``max_redraws`` rounds are over.

    ``faulty`` is told which beads alone may be wrong, None for all; ``colours()`` gives a colour (n_beads,) to each
    bead, anew in each round; ``draw`` takes beads of one colour.
    """
    beads = None
    for k in range(max_redraws):
        beads = faulty(beads)
        if progress:
            progress("redrawing faulty beads", k, max_redraws)
        if not len(beads):
            break
        colour = colours()
        for c in np.unique(colour[beads]):
            draw(beads[colour[beads] == c])
    if progress:
        progress("redrawing faulty beads", max_redraws, max_redraws)


def _batches(beads: np.ndarray, size: int) -> list[np.ndarray]:
    return np.array_split(beads, -(-len(beads) // size)) if len(beads) else []
