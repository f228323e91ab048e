"""What the training of the ``dbm`` family draws from: sequences of beads in reference snapshots, and their energies."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from openmm_backmap.energy.bridge import TorchEnergy
from openmm_backmap.environments.voxel_channels import Channels
from openmm_backmap.environments.voxel_sequences import Sequences, atom_sequences
from openmm_backmap.environments.voxels import VoxelEnvironment, VoxelGrid, VoxelSurroundings, VoxelTables
from openmm_backmap.errors import InputError, MissingDependencyError
from openmm_backmap.generators.dbm.energies import BeadEnergies, Placement, flexible_energy
from openmm_backmap.io.writers import replacing
from openmm_backmap.training.dataset import Dataset, with_settled_labels
from openmm_backmap.training.energies import energies_from_arrays, energies_to_arrays

#: shares of batches as in Gibbs sweeps (all is there) and in redraws (all but the bead's own atoms); the others are as
#: in forward passes, with any share of the neighbours
_GIBBS, _REDRAWS = 0.45, 0.1


class Snapshot:
    """One reference snapshot, ready for environments.

    Attributes
    ----------
    around : VoxelSurroundings
    positions : (n_atoms, 3), nm
    sequences : Sequences
    there : (n_atoms,) bool, all true
    """

    def __init__(self, tables: VoxelTables, positions: np.ndarray, box: np.ndarray, grid: VoxelGrid,
                 sequences: Sequences, energy: TorchEnergy | None):
        self.beads, self.box, self.energy = tables.target.mapping @ positions.astype(float), box, energy
        self.around = VoxelSurroundings(tables, self.beads, box, grid)
        self.positions = torch.as_tensor(positions, dtype=torch.float32, device=tables.device)
        self.sequences = sequences
        self.there = torch.ones(len(positions), dtype=torch.bool, device=tables.device)

    @property
    def tables(self) -> VoxelTables:
        return self.around.voxels

    @cached_property
    def bead_energies(self) -> BeadEnergies:
        return BeadEnergies(self.tables, self.energy, self.beads, self.box)

    def terms(self, bead: torch.Tensor, columns: torch.Tensor, own: torch.Tensor, light: bool) -> dict:
        """Energies by term, each (B,), kJ/mol, of own atoms (B, S, 3), local nm, among the reference atoms."""
        own = self.around.to_global(bead, own)[:, None]
        placed = Placement(bead, columns, own, self.positions, self.there, hide_light=not light)
        return {name: energy[:, 0] for name, energy in self.bead_energies.terms(placed).items()}


@dataclass(frozen=True)
class Batch:
    """Sequences of equal length with their environments; B beads, L atoms each.

    Attributes
    ----------
    snapshot : Snapshot
    light : bool, hydrogens or heavy atoms
    bead, columns : (B,), (B, L)
    env : VoxelEnvironment
    reference : (B, S, 3) own atoms where they are in the snapshot, local nm
    seen : (B, S) bool, own atoms that are there when the first of the sequence is placed
    """

    snapshot: Snapshot
    light: bool
    bead: torch.Tensor
    columns: torch.Tensor
    env: VoxelEnvironment
    reference: torch.Tensor
    seen: torch.Tensor


class SnapshotBatches:
    """Random batches of a data set's sequences.

    Every random number is drawn for the whole batch, and ``share = (rank, ranks)`` picks rows of it: that way several
    processes together see what one process would.
    """

    def __init__(self, dataset: Dataset, channels: Channels, grid: VoxelGrid, order: str, device: str,
                 energies: Sequence[TorchEnergy] | None, seed: int, share: tuple[int, int] = (0, 1)):
        self.order, self.share, self.snapshots = order, share, []
        rng = np.random.default_rng(seed)
        for k, system in enumerate(with_settled_labels(dataset).systems):
            tables = VoxelTables(system.target, channels, device)
            sequences = atom_sequences(tables, order, rng)
            energy = None if energies is None else energies[k]
            self.snapshots += [Snapshot(tables, x, box, grid, sequences, energy)
                               for x, box in system.snapshots()]

    def rows(self, values: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """This process' rows of what was drawn for the whole batch."""
        rank, ranks = self.share
        return values.narrow(dim, rank * (values.shape[dim] // ranks), values.shape[dim] // ranks)

    def sequences(self, n: int, seed: torch.Generator) -> Batch:
        """``n`` sequences of one kind and length, of one snapshot."""
        snapshot, light = self._snapshot(seed)
        columns, length = self._of(snapshot, light, seed)
        choices = torch.nonzero(length > 0).squeeze(1)
        pivot = length[choices[torch.randint(len(choices), (), generator=seed)]]
        alike = torch.nonzero(length == pivot).squeeze(1)
        bead = alike[torch.randint(len(alike), (n,), generator=seed).to(alike.device)]
        return self._batch(snapshot, light, bead, columns[bead, :int(pivot)], snapshot.positions, seed)

    def placements(self, n: int, jitter_nm: float, seed: torch.Generator) -> Batch:
        """``n`` single atoms (L = 1), each somewhere in its sequence, with those before it in place.

        Atoms around are displaced by up to ``jitter_nm`` (standard deviation) in half of the batches.
        """
        snapshot, light = self._snapshot(seed)
        columns, length = self._of(snapshot, light, seed)
        bead = torch.multinomial(length.float().cpu(), n, replacement=True, generator=seed).to(length.device)
        step = (torch.rand(n, generator=seed).to(length.device) * length[bead]).long()
        size = jitter_nm * max(0.0, float(torch.rand((), generator=seed)) * 2 - 1)
        moved = snapshot.positions + size * torch.randn(snapshot.positions.shape, generator=seed).to(bead.device)
        batch = self._batch(snapshot, light, bead, columns[bead], moved, seed)
        # Atoms before this one are there in either mode.
        step, whole = self.rows(step), batch.columns
        before = (torch.arange(whole.shape[1], device=step.device) < step[:, None]) & (whole >= 0)
        seen = batch.seen.int().scatter_add(1, whole.clamp(min=0), before.int()) > 0
        column = whole.gather(1, step[:, None])
        return Batch(snapshot, light, batch.bead, column, batch.env, batch.reference, seen)

    def _snapshot(self, seed: torch.Generator) -> tuple[Snapshot, bool]:
        snapshot = self.snapshots[int(torch.randint(len(self.snapshots), (), generator=seed))]
        # Hydrogens and heavy atoms by their numbers.
        share = float(snapshot.tables.light.float().mean())
        return snapshot, float(torch.rand((), generator=seed)) < share

    def _of(self, snapshot: Snapshot, light: bool, seed: torch.Generator):
        if self.order != "random":
            return snapshot.sequences.of(light)
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=seed)))
        return atom_sequences(snapshot.tables, self.order, rng).of(light)

    def _batch(self, snapshot: Snapshot, light: bool, bead: torch.Tensor, columns: torch.Tensor,
               positions: torch.Tensor, seed: torch.Generator) -> Batch:
        around, n = snapshot.around, len(bead)
        mode = float(torch.rand((), generator=seed))
        gibbs, forward = mode < _GIBBS, mode > _GIBBS + _REDRAWS
        share = torch.rand(n, 1, generator=seed) * 1.3 - 0.15 if forward else torch.ones(n, 1)
        shown = self.rows(torch.rand(n, around.index.shape[1], generator=seed) < share).to(bead.device)
        # A forward pass draws all heavy atoms before the first hydrogen.
        there = snapshot.there & ~snapshot.tables.light if forward and not light else snapshot.there
        bead, columns = self.rows(bead), self.rows(columns)
        env = around.environment(bead, positions, there, hide_light=not light, shown=shown)
        atoms = snapshot.tables.base.atoms_of_bead[bead][:, :env.own.shape[1]]
        reference = around.to_local(bead, snapshot.positions[atoms.clamp(min=0)]) * (atoms >= 0)[..., None]
        coming = torch.zeros_like(env.own_there, dtype=torch.int).scatter_add(
            1, columns.clamp(min=0), (columns >= 0).int()) > 0
        seen = env.own_there if gibbs else env.own_there & ~coming
        return Batch(snapshot, light, bead, columns, env, reference, seen)


def system_energies(dataset: Dataset) -> tuple[TorchEnergy, ...]:
    """Energies of a data set's systems, by its force fields.

    Raises
    ------
    MissingDependencyError
        Where OpenMM is not installed.
    """
    try:
        import openmm  # noqa: F401
    except ImportError:
        raise MissingDependencyError("the data set holds no energies, and OpenMM, which makes them, is not installed: "
                                     "compile it with --energies elsewhere, or train with 'prior: none'") from None
    return tuple(flexible_energy(system.target, next(system.snapshots())[1]) for system in dataset.systems)


def save_energies(energies: Sequence[TorchEnergy], path: str | Path) -> None:
    """Write energies as plain arrays (.npz): a machine that trains needs no OpenMM then."""
    header, arrays = energies_to_arrays(energies)
    with replacing(path, overwrite=True) as part, part.open("wb") as file:
        np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)


def load_energies(path: str | Path) -> tuple[TorchEnergy, ...]:
    """Read what :func:`save_energies` wrote."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
            return energies_from_arrays(json.loads(str(data["header"])), data)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a file of energies, or damaged ({type(error).__name__}); make it with "
                         "save_energies") from None
