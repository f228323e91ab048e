"""The outer loop of bead-wise generators: a forward pass, Gibbs sweeps, and redraws of what came out wrong.

The forward pass draws the beads colour by colour, each given the atoms drawn before it; a Gibbs sweep draws every
bead again, given all others. Beads whose atoms broke a stereocentre, put a bond through a ring, folded a ring or hit
another atom are then drawn again, until none is left or ``max_redraws`` is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from openmm_backmap.environments.local import BeadSurroundings, Environment
from openmm_backmap.geometry.checks import (
    FOLDED_NM,
    close_contacts,
    inverted_centres,
    pierced_rings,
    ring_planarity,
    rings,
)
from openmm_backmap.sampling.colouring import colour_beads

Draw = Callable[[Environment], torch.Tensor]


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


def sample_beads(around: BeadSurroundings, box, draw: Draw, settings: SweepSettings, rng: np.random.Generator,
                 progress=None) -> torch.Tensor:
    """Positions (n_atoms, 3), nm, of one sample; ``draw`` gives local own atoms (B, S, 3) for an environment."""
    sweep = _Sweep(around, box, draw, settings, rng)
    passes = 1 + settings.gibbs
    for k in range(passes):
        sweep.run_pass(k, passes, progress)
    sweep.redraw_faulty(progress)
    return sweep.positions


class _Sweep:
    """State of one sample: positions so far and which beads have atoms."""

    def __init__(self, around: BeadSurroundings, box, draw: Draw, settings: SweepSettings, rng: np.random.Generator):
        self.around, self.box, self.draw, self.settings, self.rng = around, box, draw, settings, rng
        target = around.tables.target
        self.positions = around.centre[around.tables.bead_of_atom].clone()
        self.placed = torch.zeros(target.n_beads, dtype=torch.bool, device=self.positions.device)
        self.neighbour, self.distance = around.neighbours()

    def run_pass(self, k: int, n_passes: int, progress) -> None:
        colour = colour_beads(self.neighbour, self.distance, self.settings.reach_nm, self.rng)
        n_colours = colour.max() + 1
        for done, c in enumerate(self.rng.permutation(n_colours)):
            if progress:
                progress("drawing atoms", k * n_colours + done, n_passes * n_colours)
            self._draw_beads(np.flatnonzero(colour == c))
        if progress:
            progress("drawing atoms", (k + 1) * n_colours, n_passes * n_colours)

    def _draw_beads(self, beads: np.ndarray) -> None:
        around = self.around
        # Beads with few and with many atoms apart, so that little is padded.
        size = around.tables.size.cpu().numpy()[beads]
        small = size * 2 <= size.max() + 1
        for part in _batches(beads[small], self.settings.batch) + _batches(beads[~small], self.settings.batch):
            bead = torch.as_tensor(part, device=self.positions.device)
            shown = self.placed[around.index[bead].clamp(min=0)]
            local = self.draw(around.environment(bead, self.positions, shown))
            atoms = around.tables.atoms_of_bead[bead][:, :local.shape[1]]
            there = atoms >= 0
            self.positions[atoms[there]] = around.to_global(bead, local)[there]
        self.placed[torch.as_tensor(beads, device=self.positions.device)] = True

    def redraw_faulty(self, progress) -> None:
        redraw_faulty(
            lambda: faulty_beads(self.around.tables.target, self.positions.cpu().numpy().astype(float), self.box),
            lambda: colour_beads(self.neighbour, self.distance, self.settings.reach_nm, self.rng),
            self._draw_beads, self.settings.max_redraws, progress)


def redraw_faulty(faulty: Callable[[], np.ndarray], colours: Callable[[], np.ndarray],
                  draw: Callable[[np.ndarray], None], max_redraws: int, progress=None) -> None:
    """Draw faulty beads again, colour by colour, until ``faulty()`` finds none or ``max_redraws`` rounds are over.

    ``colours()`` gives a colour (n_beads,) to each bead, anew in each round; ``draw`` takes beads of one colour.
    """
    for k in range(max_redraws):
        beads = faulty()
        if progress:
            progress("redrawing faulty beads", k, max_redraws)
        if not len(beads):
            break
        colour = colours()
        for c in np.unique(colour[beads]):
            draw(beads[colour[beads] == c])
    if progress:
        progress("redrawing faulty beads", max_redraws, max_redraws)


def faulty_beads(target, x: np.ndarray, box) -> np.ndarray:
    """Beads that own an atom of an inverted centre, a pierced or folded ring or a close contact.

    ``x`` (n_atoms, 3), nm, whole molecules; ``box`` (3, 3) or None.
    """
    ring, bond = pierced_rings(target, x, box).T
    folded = np.flatnonzero(ring_planarity(target, x) > FOLDED_NM)
    atoms = [target.stereo[inverted_centres(target, x)].ravel(), close_contacts(target, x, box).ravel(),
             target.bonds[bond].ravel(), *(rings(target)[k] for k in (*ring, *folded))]
    return np.unique(target.bead_of_atom[np.concatenate(atoms).astype(int)])


def _batches(beads: np.ndarray, size: int) -> list[np.ndarray]:
    return np.array_split(beads, -(-len(beads) // size)) if len(beads) else []
