"""The outer loop of DeepBackmap: heavy atoms of all beads, then hydrogens; forward, then Gibbs sweeps; redraws.

The beads of one colour, or of one wave of the published order, are done as one batch, step by step along their
sequences. Each bead's sequence is drawn in several orientations with noise of its own, and one of them is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from openmm_backmap.environments.voxel_sequences import ORDERS, Sequences, atom_sequences, bead_ranks, waves
from openmm_backmap.environments.voxels import VoxelSurroundings
from openmm_backmap.errors import InputError
from openmm_backmap.generators.dbm.energies import BeadEnergies, Placement, pick
from openmm_backmap.generators.dbm.network import DBMNetwork
from openmm_backmap.generators.dbm.placing import Scene, place
from openmm_backmap.sampling.colouring import colour_beads
from openmm_backmap.sampling.faults import Nearby
from openmm_backmap.sampling.sweeps import SweepSettings, redraw_faulty

SELECTIONS = ("lowest", "boltzmann", "first")
#: candidates that are drawn at once on a processor: their environments then stay in its cache
_ROWS = 128


@dataclass(frozen=True)
class DBMSampling:
    """How sequences are drawn; sweeps and batches are in :class:`~openmm_backmap.sampling.sweeps.SweepSettings`.

    Parameters
    ----------
    n_ensemble : int
        Candidates of each bead's sequence: orientations about z, evenly spaced over the network's turn from a random
        start, with fresh noise.
    selection : str
        ``lowest`` energy (thesis 5.1.4), ``boltzmann`` (drawn by weight at ``temperature_K``) or ``first``.
    temperature_K : float
        Of the Boltzmann weights; 0 takes the chemistry's.
    bead_order : str
        ``colours`` (random, few and large batches), or the published order, molecule by molecule along
        ``depth-first``, ``breadth-first`` or ``random`` walks, in waves of beads that do not see each other.
    """

    n_ensemble: int = 8
    selection: str = "lowest"
    temperature_K: float = 0.0
    bead_order: str = "colours"

    def __post_init__(self):
        if self.selection not in SELECTIONS or self.bead_order not in ("colours", *ORDERS) or self.n_ensemble < 1:
            raise InputError(f"sampling: n_ensemble {self.n_ensemble}, selection {self.selection!r}, bead_order "
                             f"{self.bead_order!r}; selection is one of {', '.join(SELECTIONS)}, bead_order one of "
                             f"colours, {', '.join(ORDERS)}, n_ensemble at least 1")

    @property
    def needs_energies(self) -> bool:
        return self.n_ensemble > 1 and self.selection != "first"


class DBMSweep:
    """State of one sample: positions so far and which atoms are there.

    Parameters
    ----------
    around : VoxelSurroundings
    network : DBMNetwork
    sampling, sweeps : DBMSampling, SweepSettings
    energies : BeadEnergies or None
        Needed where candidates are chosen by energy.
    box : ndarray, shape (3, 3), nm, or None
    rng : numpy.random.Generator
    """

    def __init__(self, around: VoxelSurroundings, network: DBMNetwork, sampling: DBMSampling, sweeps: SweepSettings,
                 energies: BeadEnergies | None, box, rng: np.random.Generator):
        self.around, self.network, self.sampling, self.sweeps = around, network, sampling, sweeps
        self.energies, self.box, self.rng = energies, box, rng
        self.tables, self.target = around.voxels, around.voxels.target
        device = around.centre.device
        self.seed = torch.Generator(device=device).manual_seed(int(rng.integers(2**63)))
        self.sequences: Sequences = atom_sequences(self.tables, network.hyper.order, rng)
        self.positions = around.centre[self.tables.base.bead_of_atom].clone()
        self.there = torch.zeros(self.target.n_atoms, dtype=torch.bool, device=device)
        self.neighbour, self.distance = around.neighbours()
        self.temperature_K = sampling.temperature_K or self.target.chemistry.temperature_K

    def run(self, progress=None) -> torch.Tensor:
        """Positions (n_atoms, 3), nm."""
        passes = [(light, k > 0) for k in range(1 + self.sweeps.gibbs) for light in (False, True)]
        for done, (light, gibbs) in enumerate(passes):
            colour = self._colours()
            n = colour.max() + 1
            for c in range(n):
                if progress:
                    progress("drawing atoms", done * n + c, len(passes) * n)
                self.draw(np.flatnonzero(colour == c), light, gibbs)
        if progress:
            progress("drawing atoms", len(passes) * n, len(passes) * n)
        self._redraw(progress)
        return self.positions

    def _colours(self) -> np.ndarray:
        """Numbers of the batches in which beads are drawn, from 0, in the order of drawing."""
        reach = self.sweeps.reach_nm
        if self.sampling.bead_order != "colours":
            return waves(self.neighbour, self.distance, reach,
                         bead_ranks(self.target, self.sampling.bead_order, self.rng))
        colour = colour_beads(self.neighbour, self.distance, reach, self.rng)
        return self.rng.permutation(colour.max() + 1)[colour]

    def draw(self, beads: np.ndarray, light: bool, gibbs: bool) -> None:
        """Draw the hydrogens, or the heavy atoms, of beads that do not see each other.

        ``gibbs`` shows each atom those of its sequence that come after it, as they were.
        """
        columns, length = self.sequences.of(light)
        bead = torch.as_tensor(beads, device=columns.device)
        for n in torch.unique(length[bead]).tolist():
            alike = bead[length[bead] == n]
            size = max(1, self.sweeps.batch // self.sampling.n_ensemble)
            for part in alike.split(size) if n else ():
                self._draw_alike(part, columns[part, :n], light, gibbs)

    def _draw_alike(self, bead: torch.Tensor, columns: torch.Tensor, light: bool, gibbs: bool) -> None:
        n_ensemble = self.sampling.n_ensemble
        angle = self._orientations(len(bead))
        noise = torch.randn(columns.shape[1], len(bead), n_ensemble, self.network.hyper.noise, generator=self.seed,
                            device=bead.device)
        size = max(1, _ROWS // n_ensemble) if bead.device.type == "cpu" else len(bead)
        own = torch.cat([self._own(*part, light, gibbs) for part in zip(
            bead.split(size), columns.split(size), angle.split(size), noise.split(size, dim=1))])
        rows = torch.arange(len(bead), device=bead.device)
        kept = own[rows, self._choose(bead, columns, own, light)].gather(1, columns[..., None].expand(-1, -1, 3))
        atoms = self.tables.base.atoms_of_bead[bead].gather(1, columns)
        self.positions[atoms], self.there[atoms] = kept, True

    def _own(self, bead: torch.Tensor, columns: torch.Tensor, angle: torch.Tensor, noise: torch.Tensor, light: bool,
             gibbs: bool) -> torch.Tensor:
        """All own atoms (B, E, S, 3), nm, as many as the largest bead has, with those of the sequences drawn anew."""
        env = self.around.environment(bead, self.positions, self.there, hide_light=not light)
        scene = Scene(self.tables, self.network.hyper.grid, env, angle)
        own_there = env.own_there if gibbs else env.own_there.scatter(1, columns, False)
        for _ in place(self.network, scene, columns, own_there, noise.flatten(1, 2)):
            pass
        own = self.around.to_global(bead, scene.own_local())
        return torch.nn.functional.pad(own, (0, 0, 0, self.tables.base.atoms_of_bead.shape[1] - own.shape[2]))

    def _orientations(self, n_beads: int) -> torch.Tensor:
        n, device = self.sampling.n_ensemble, self.positions.device
        start = torch.rand(n_beads, 1, generator=self.seed, device=device)
        return self.network.hyper.orientations(start + torch.arange(n, device=device) / n)

    def _choose(self, bead: torch.Tensor, columns: torch.Tensor, own: torch.Tensor, light: bool) -> torch.Tensor:
        if not self.sampling.needs_energies:
            return torch.zeros(len(bead), dtype=torch.long, device=bead.device)
        placed = Placement(bead, columns, own, self.positions, self.there, hide_light=not light)
        energies = sum(self.energies.terms(placed).values())
        return pick(energies, self.sampling.selection, self.temperature_K, self.seed)

    def _redraw(self, progress) -> None:
        """Faulty beads from scratch: a Gibbs step would see, and keep, the fault."""
        def again(beads: np.ndarray) -> None:
            atoms = self.tables.base.atoms_of_bead[torch.as_tensor(beads, device=self.there.device)]
            self.there[atoms[atoms >= 0]] = False
            self.draw(beads, light=False, gibbs=False)
            self.draw(beads, light=True, gibbs=False)

        nearby = Nearby(self.target, self.around.centre.cpu().numpy().astype(float), self.box)
        redraw_faulty(
            lambda moved: nearby.faulty(self.positions.cpu().numpy().astype(float), moved),
            lambda: colour_beads(self.neighbour, self.distance, self.sweeps.reach_nm, self.rng),
            again, self.sweeps.max_redraws, progress)
