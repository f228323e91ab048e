"""The pressure of coarse-grained frames, from the tables: what a correction needs, on any platform."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from openmm_backmap.analysis.radial import pair_blocks, volume
from openmm_backmap.chemistry import Target
from openmm_backmap.coarse.graph import PAIR, bead_pairs, pair_names
from openmm_backmap.coarse.model import CGModel
from openmm_backmap.coarse.system import pair_energy
from openmm_backmap.geometry.periodic import minimum_image
from openmm_backmap.units import GAS_CONSTANT

#: bar in kJ/mol/nm3
BAR = 0.0602214076
_DERIVATIVE_NM = 0.0005


def pressures(model: CGModel, target: Target, frames: Iterable[tuple[np.ndarray, np.ndarray]],
              temperature_K: float) -> np.ndarray:
    """Pressure (n_frames,), bar, of frames (positions (n_beads, 3), box (3, 3)) of whole molecules, nm.

    The virial of molecules: P V = N kT + 1/3 sum over pairs of beads of two molecules of f_ij . R_IJ, with the vector
    R_IJ between the molecules' centres (M. P. Allen, D. J. Tildesley, Computer Simulation of Liquids, sect. 2.4). What
    happens within a molecule, constraints included, does not enter.
    """
    pairs, molecule = bead_pairs(target, model.excluded_bonds), target.molecule_of_bead
    slopes = _slopes(model, pair_names(pairs))
    n_beads = np.bincount(molecule)[:, None]
    found = []
    for positions, box in frames:
        centres = np.stack([np.bincount(molecule, positions[:, k]) for k in range(3)], axis=1) / n_beads
        virial = 0.0
        for i, j, r in pair_blocks(positions, box, model.cutoff_nm):
            apart = molecule[i] != molecule[j]
            i, j, r = i[apart], j[apart], r[apart]
            straight = positions[i] - positions[j]
            vector = minimum_image(straight, box)
            between = centres[molecule[i]] - centres[molecule[j]] + vector - straight
            label = pairs.label[pairs.types[i], pairs.types[j]]
            for k, slope in enumerate(slopes):
                own = label == k
                virial -= (slope(r[own]) / r[own] * (vector[own] * between[own]).sum(-1)).sum()
        kinetic = len(n_beads) * GAS_CONSTANT * temperature_K
        found.append((kinetic + virial / 3) / volume(box, 0.0) / BAR)
    return np.array(found)


def _slopes(model: CGModel, names: list[str]):
    """dU/dr of every pair of types, as functions of r."""
    def slope(term):
        return lambda r: (pair_energy(term, r + _DERIVATIVE_NM)
                          - pair_energy(term, r - _DERIVATIVE_NM)) / (2 * _DERIVATIVE_NM)

    tables = {term.name: term for term in model.of_kind(PAIR)}
    return [slope(tables[name]) if name in tables else np.zeros_like for name in names]
