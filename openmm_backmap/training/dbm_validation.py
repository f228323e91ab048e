"""How far generated sequences are from held-out ones: divergences of the internal coordinates that they make."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

from openmm_backmap.geometry.internal import (
    angles_of,
    bond_angles,
    bond_lengths,
    by_type,
    dihedral_angles,
    dihedrals_of,
)
from openmm_backmap.statistics import jensen_shannon
from openmm_backmap.training.dbm_data import Batch

_KINDS = {
    "bond": (lambda target: target.bonds, bond_lengths, np.linspace(0.08, 0.20, 61)),
    "angle": (angles_of, bond_angles, np.linspace(60, 180, 61)),
    "dihedral": (dihedrals_of, dihedral_angles, np.linspace(-180, 180, 61))}


class Comparison:
    """Collects values of generated and of reference sequences, by kind and type."""

    def __init__(self):
        self.counts: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros((2, 62)))

    def add(self, batch: Batch, own: torch.Tensor) -> None:
        """Count what the sequences' atoms make in the snapshot, with ``own`` (B, S, 3), local nm, and without."""
        snapshot, target = batch.snapshot, batch.snapshot.tables.target
        atoms = snapshot.tables.base.atoms_of_bead[batch.bead].gather(1, batch.columns)
        new = snapshot.around.to_global(batch.bead, own).gather(1, batch.columns[..., None].expand(-1, -1, 3))
        generated = snapshot.positions.clone()
        generated[atoms] = new
        moved = np.zeros(target.n_atoms, bool)
        moved[atoms.cpu().numpy()] = True
        # Hydrogens are hidden while heavy atoms are placed: what they make with them says nothing.
        left_out = np.zeros(target.n_atoms, bool) if batch.light else snapshot.tables.light.cpu().numpy()
        both = [x.cpu().numpy().astype(float) for x in (generated, snapshot.positions)]
        for kind, (members_of, value, edges) in _KINDS.items():
            members = members_of(target)
            rows = members[moved[members].any(1) & ~left_out[members].any(1)]
            for name, chosen in by_type(target, rows).items():
                for row, x in zip(self.counts[kind, name], both):
                    values = value(x[chosen])
                    inside, _ = np.histogram(values, edges)
                    row += np.r_[0, inside, len(values) - inside.sum()]

    def divergences(self) -> dict[str, float]:
        """Jensen-Shannon divergence (bits), mean over types, by kind."""
        found = {kind: [jensen_shannon(*counts) for (k, _), counts in self.counts.items() if k == kind]
                 for kind in _KINDS}
        return {kind: float(np.mean(values)) for kind, values in found.items() if values}
