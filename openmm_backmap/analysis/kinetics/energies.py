"""Potential energies of the frames of one molecule, by the force field of its chemistry.

The molecule is alone: no box, no cutoff, no solvent. Bonds that the chemistry constrains have their harmonic energy, so
that atoms that are drawn, not integrated, show where they stretch them.
"""

from __future__ import annotations

import numpy as np

from openmm_backmap.chemistry import Target, create_flexible_system
from openmm_backmap.energy.platforms import best_platform

# On one core OpenMM's Reference platform evaluates 54,000 frames of 22 atoms in a second, CPU 1,900, and the torch
# energies 4,000; of 166 atoms, Reference 3,250 and CPU 3,900.
_SMALL = 150


class FrameEnergies:
    """The force field of a molecule, ready to be asked for the energies of frames.

    Parameters
    ----------
    target : Target
    platform : str, optional
        OpenMM platform; the fastest for the size of the molecule by default.
    """

    def __init__(self, target: Target, platform: str | None = None):
        import openmm as mm

        chosen = best_platform("Reference" if platform is None and target.n_atoms < _SMALL else platform)
        # A context needs an integrator, even if it never makes a step.
        self._context = mm.Context(create_flexible_system(target, None), mm.VerletIntegrator(0.001), chosen)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Energies (n_frames,), kJ/mol, of ``positions`` (n_frames, n_atoms, 3), nm; infinite where atoms lie on each
        other."""
        from openmm import unit

        found = np.empty(len(positions))
        for k, x in enumerate(positions):
            self._context.setPositions(x)
            state = self._context.getState(energy=True)
            found[k] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        return np.where(np.isfinite(found), found, np.inf)
