"""Harmonic restraints of bead positions: atoms move freely as long as they map onto their beads."""

from __future__ import annotations

import numpy as np

from openmm_backmap.chemistry.target import Target

STRENGTH = "bead_restraint_k"
# A platform may shift whole molecules by box vectors as it pleases, so the nearest image of the bead is meant. Written
# out with the box as global parameters, because pointdistance() has no derivative at zero. Lower-triangular boxes.
_ENERGY = """0.5*bead_restraint_k*(dx^2 + dy^2 + dz^2);
dx = ux - box_ax*floor(ux*box_inverse_ax + 0.5);
ux = vx - box_bx*nb; dy = vy - box_by*nb; nb = floor(vy*box_inverse_by + 0.5);
vx = x1 - x0 - box_cx*nc; vy = y1 - y0 - box_cy*nc; dz = z1 - z0 - box_cz*nc;
nc = floor((z1 - z0)*box_inverse_cz + 0.5)"""


def add_bead_restraints(system, target: Target, beads: np.ndarray, box: np.ndarray | None, k: float):
    """Add E = k/2 * sum over beads of |M_I(r) - R_I|^2 to ``system``.

    The strength is the global parameter ``bead_restraint_k`` of the context (0 switches the restraints off). Molecules
    must be whole, and may lie in any periodic image.

    Parameters
    ----------
    system : openmm.System
    target : Target
    beads : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm, or None
    k : float, kJ/mol/nm^2

    Returns
    -------
    openmm.CustomCentroidBondForce
        As added; :func:`move_bead_restraints` gives its context other beads and another box.
    """
    from openmm import CustomCentroidBondForce

    force = CustomCentroidBondForce(1, _ENERGY)
    force.setName("BeadRestraints")
    force.addGlobalParameter(STRENGTH, k)
    for name, value in _box_parameters(box).items():
        force.addGlobalParameter(name, value)
    for name in ("x0", "y0", "z0"):
        force.addPerBondParameter(name)
    mapping = target.mapping
    for bead, position in enumerate(np.asarray(beads, dtype=float).tolist()):
        row = slice(mapping.indptr[bead], mapping.indptr[bead + 1])
        group = force.addGroup(mapping.indices[row].tolist(), mapping.data[row].tolist())
        force.addBond([group], position)
    system.addForce(force)
    return force


def move_bead_restraints(context, force, beads: np.ndarray, box: np.ndarray | None) -> None:
    """Restrain the beads of ``context`` to other positions (n_beads, 3), nm, in another box of the same kind."""
    for bead, position in enumerate(np.asarray(beads, dtype=float).tolist()):
        force.setBondParameters(bead, [bead], position)
    force.updateParametersInContext(context)
    for name, value in _box_parameters(box).items():
        context.setParameter(name, value)


def _box_parameters(box: np.ndarray | None) -> dict[str, float]:
    """The elements of a lower-triangular box, and what turns a distance into a number of box vectors."""
    rows = np.zeros((3, 3)) if box is None else np.asarray(box, dtype=float)
    elements = {"box_ax": rows[0, 0], "box_bx": rows[1, 0], "box_by": rows[1, 1], "box_cx": rows[2, 0],
                "box_cy": rows[2, 1], "box_cz": rows[2, 2]}
    inverse = {f"box_inverse_{name}": 0.0 if box is None else 1.0 / elements[f"box_{name}"]
               for name in ("ax", "by", "cz")}
    return {name: float(value) for name, value in {**elements, **inverse}.items()}
