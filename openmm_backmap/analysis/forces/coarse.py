"""Forces of a coarse-grained force field, an ``openmm.System`` whose particles are the beads of its trajectory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openmm_backmap.energy.openmm_energy import forces
from openmm_backmap.errors import InputError


def read_system(path: str | Path, n_beads: int):
    """The ``openmm.System`` of an XML file.

    Raises
    ------
    InputError
        No such file, something else in it, or another number of particles than ``n_beads``.
    """
    import openmm as mm

    try:
        system = mm.XmlSerializer.deserialize(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    except Exception as error:  # OpenMM raises bare Exceptions
        raise InputError(f"{path}: not an OpenMM System as XML ({' '.join(str(error).split())})") from None
    if not isinstance(system, mm.System):
        raise InputError(f"{path}: holds a {type(system).__name__}, not an OpenMM System")
    if system.getNumParticles() != n_beads:
        raise InputError(f"{path}: a System of {system.getNumParticles()} particles, where there are {n_beads} beads: "
                         "give that of the trajectory's own beads")
    return system


def predicted(system, beads: np.ndarray, boxes: np.ndarray | None, order: np.ndarray,
              platform: str | None = None) -> np.ndarray:
    """Forces (n_frames, n_beads, 3), kJ/mol/nm, of a coarse-grained force field.

    Parameters
    ----------
    system : openmm.System
    beads : ndarray, shape (n_frames, n_beads, 3), nm
    boxes : ndarray, shape (n_frames, 3, 3), nm, or None
    order : ndarray of int, shape (n_beads,)
        Particle of ``system`` for each bead.
    platform : str, optional
    """
    found = []
    for k, positions in enumerate(beads):
        particles = np.empty_like(positions)
        particles[order] = positions
        found.append(forces(system, particles, None if boxes is None else boxes[k], platform)[order])
    return np.array(found)
