"""Forces that the atomistic force field exerts on the beads of the structures of an ensemble.

Bonds that the chemistry constrains are given their lengths first, at fixed beads (files round positions, and the
rounding of a stiff bond is a large force). The forces are those of flexible bonds: a bond of right length exerts none,
and one that beads too far apart have stretched pulls. The forces that would hold constrained bonds in dynamics are not
known from a structure, and left out for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.forces.projection import projection
from openmm_backmap.chemistry import create_flexible_system
from openmm_backmap.energy.openmm_energy import forces
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.refine.projection import satisfy_bonds
from openmm_backmap.refine.systems import constrained_bonds

Progress = Callable[[str, int, int], None]
_LARGEST = 1e15


@dataclass(frozen=True)
class BeadForces:
    """Forces on the beads of an ensemble.

    Attributes
    ----------
    name : str
    bead_types : tuple of str
    bead_type : ndarray of int, shape (n_beads,)
        Index into ``bead_types``.
    frame : ndarray of int, shape (n_structures,)
        The coarse-grained frame behind each structure.
    forces : ndarray, shape (n_structures, n_beads, 3), kJ/mol/nm
        No component is larger than 1e15: there atoms are so near each other that numbers end.
    """

    name: str
    bead_types: tuple[str, ...]
    bead_type: np.ndarray = field(repr=False)
    frame: np.ndarray = field(repr=False)
    forces: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.forces)

    @property
    def magnitudes(self) -> np.ndarray:
        """|F|, shape (n_structures, n_beads), kJ/mol/nm."""
        return np.linalg.norm(self.forces, axis=-1)


def bead_forces(ensemble: Ensemble, platform: str | None = None, progress: Progress | None = None) -> BeadForces:
    """Forces on the beads of every structure.

    Parameters
    ----------
    ensemble : Ensemble
    platform : str, optional
        Of OpenMM; the fastest that works by default.
    progress : callable of (stage, done, total), optional

    Raises
    ------
    InputError
        Positions that are not finite, or a box too small for the force field's cutoff.
    """
    target, found = ensemble.target, []
    if not np.isfinite(ensemble.positions).all():
        raise InputError(f"{ensemble.name}: some positions are not finite; give every atom a place")
    system = create_flexible_system(target, ensemble.box(0))
    pairs, lengths = constrained_bonds(target, system)
    for k, drawn in enumerate(ensemble.positions.astype(float)):
        if progress:
            progress(f"forces of {ensemble.name}", k, len(ensemble))
        atoms = satisfy_bonds(target, drawn, mapped(target, drawn), pairs, lengths)
        on_beads = projection(target)(forces(system, atoms, ensemble.box(k), platform))
        found.append(np.nan_to_num(on_beads, nan=_LARGEST).clip(-_LARGEST, _LARGEST))
    if progress:
        progress(f"forces of {ensemble.name}", len(ensemble), len(ensemble))
    return BeadForces(ensemble.name, tuple(target.chemistry.bead_types), target.bead_type, ensemble.frame,
                      np.array(found))
