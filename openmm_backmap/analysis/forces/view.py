"""The place where a large force acts, to be turned: its molecule, the one that it presses on, and what is around."""

from __future__ import annotations

import numpy as np

from openmm_backmap.analysis import viewer
from openmm_backmap.analysis.forces.worst import Surroundings
from openmm_backmap.analysis.pictures import BEAD_RADIUS_NM, ELEMENT_COLOURS, OTHER_COLOUR, packed_colours

_OWN, _PRESSED, _AROUND, _HERE = packed_colours(("#3b6aa0", "#d98a1f", "#b8bcc0", "#d00020")).tolist()
_BALL_NM, _STICK_NM, _THIN_NM, _BAR_NM = 0.03, 0.018, 0.008, 0.012
_LIGHT = 0.65  # times as thick: hydrogens
_FAR_NM, _NEAR_NM = 1.3, 0.65


def worst_view(near: Surroundings, caption: str) -> str:
    """A :func:`openmm_backmap.analysis.viewer.view` with the bead in its middle; a bar joins the nearest atoms.

    Parameters
    ----------
    near : Surroundings
    caption : str
    """
    molecule = near.target.molecule_of_atom
    others = molecule >= (1 if near.pressed is None else 2)
    layers = [_layer("molecule of the bead", near, molecule == 0, _OWN)]
    if near.pressed is not None:
        layers.append(_layer(f"molecule {near.pressed + 1}, nearest", near, molecule == 1, _PRESSED))
    layers.append(_layer("others around", near, others, _AROUND, near_only=True))
    bead = viewer.Layer("bead", np.zeros((1, 3)), np.array([BEAD_RADIUS_NM]), np.array([_HERE]), opacity=0.25,
                        legend={"the bead": [_HERE]})
    layers.append(bead)
    if near.pair is not None:
        layers.append(viewer.Layer("nearest atoms", ends=near.pair[None], end_colours=np.full((1, 2), _HERE),
                                   stick_radius=_BAR_NM))
    return viewer.view([layer for layer in layers if len(layer.centres) or len(layer.ends)], None, caption)


def _layer(name: str, near: Surroundings, chosen: np.ndarray, colour: int, near_only: bool = False) -> viewer.Layer:
    """The chosen atoms (n_atoms,) as far as they are near: sticks, with balls unless they are only company."""
    target, x = near.target, near.positions
    chosen = chosen & (np.linalg.norm(x, axis=1) < (_NEAR_NM if near_only else _FAR_NM))
    elements = np.array(target.elements)
    if near_only:
        chosen &= elements != "H"
    colours = np.full(target.n_atoms, colour)
    if not near_only:
        for element in set(target.elements) - {"C"}:
            colours[elements == element] = packed_colours([ELEMENT_COLOURS.get(element, OTHER_COLOUR)])[0]
    bonds = target.bonds[chosen[target.bonds].all(axis=1)]
    # Where a molecule is cut, no atom is left alone.
    chosen &= np.isin(np.arange(target.n_atoms), np.r_[bonds.ravel(), np.setdiff1d(chosen.nonzero(), target.bonds)])
    stick = _THIN_NM if near_only else _STICK_NM
    radii = np.where(elements == "H", _LIGHT, 1.0) * (stick if near_only else _BALL_NM)
    return viewer.Layer(name, x[chosen], radii[chosen], colours[chosen], x[bonds], colours[bonds], stick,
                        legend={name: [colour]})
