"""Atoms and beads in three dimensions, to be turned with the mouse: pieces of a page that needs no network.

k3d draws them (WebGL); its code goes into a page once (:func:`library`), each view (:func:`view`) brings its data.
"""

from __future__ import annotations

import base64
import functools
import html
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from openmm_backmap.analysis.pictures import (
    BEAD_COLOURS,
    BEAD_RADIUS_NM,
    ELEMENT_COLOURS,
    MOLECULE_COLOURS,
    OTHER_COLOUR,
    box_edges,
    packed_colours,
)
from openmm_backmap.chemistry import Target
from openmm_backmap.geometry.periodic import molecules_into_box

MOST_ATOMS = 60_000
_BALL_NM, _STICK_NM = 0.03, 0.018
_HYDROGEN_BALL_NM, _HYDROGEN_STICK_NM = 0.02, 0.011
_FIELD_OF_VIEW = 30.0
_ASPECT, _MARGIN_NM = 1.4, 0.1
# From the front right, a little above: no two edges of a box fall on each other.
_TOWARDS_EYE = np.array([0.42, -0.85, 0.32])
_HEIGHT_PX = 560
_STYLE = f"""<style>.view{{margin:1em 0}}.view .scene{{position:relative;height:{_HEIGHT_PX}px;border:1px solid #ddd}}
.view label,.view span{{margin-right:1.4em}}.view i{{display:inline-block;width:.8em;height:.8em;border-radius:50%;
border:1px solid #999;margin-right:.15em;vertical-align:-.05em}}.view p{{margin:.3em 0}}</style>"""
# The library names itself with define(), as AMD modules do; nothing else of AMD is needed to take it.
_LOADER = """<script>
const backmapBytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const backmapViewer = (async packed => {
  const stream = new Blob([backmapBytes(packed)]).stream().pipeThrough(new DecompressionStream("deflate"));
  let viewer;
  new Function("define", await new Response(stream).text())((name, needs, make) => { viewer = make(); });
  return viewer;
})("%s");
const backmapShow = async (figure, packed) => {
  try {
    const viewer = await backmapViewer;
    const scene = await viewer.CreateK3DAndLoadBinarySnapshot(backmapBytes(packed), figure.querySelector(".scene"));
    const objects = Object.values(scene.getWorld().ObjectsListJson);
    for (const box of figure.querySelectorAll("input")) {
      const show = () => Promise.all(objects.filter(o => o.name === box.name).map(o => {
        o.visible = box.checked;
        return scene.reload(o, {visible: box.checked});
      }));
      box.onchange = show;
      if (!box.checked) await show();
    }
    figure.dataset.state = "shown";
  } catch (error) {
    figure.dataset.state = "failed";
    figure.querySelector(".scene").textContent = "This browser cannot show the view (WebGL is needed): " + error;
  }
};
</script>"""


@dataclass(frozen=True)
class Layer:
    """What one checkbox shows or hides: spheres, and sticks between points.

    Attributes
    ----------
    name : str
    centres : ndarray, shape (n_spheres, 3), nm
    radii : ndarray, shape (n_spheres,), nm
    colours : ndarray of int, shape (n_spheres,)
        0xRRGGBB.
    ends : ndarray, shape (n_sticks, 2, 3), nm
    end_colours : ndarray of int, shape (n_sticks, 2)
        A stick fades from one to the other.
    stick_radius : float, nm
        0 draws lines of one pixel.
    opacity : float
    shown : bool
        Whether it is there at first.
    legend : mapping
        Label -> colours, 0xRRGGBB.
    """

    name: str
    centres: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    radii: np.ndarray = field(default_factory=lambda: np.empty(0))
    colours: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    ends: np.ndarray = field(default_factory=lambda: np.empty((0, 2, 3)))
    end_colours: np.ndarray = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))
    stick_radius: float = 0.0
    opacity: float = 1.0
    shown: bool = True
    legend: Mapping[str, Sequence[int]] = field(default_factory=dict)


@functools.cache
def library() -> str:
    """HTML that a page with views needs once, before the first: the code of k3d, packed."""
    import k3d

    source = (Path(k3d.__file__).parent / "static" / "standalone.js").read_bytes()
    return _STYLE + _LOADER % base64.b64encode(zlib.compress(source, 9)).decode()


def view(layers: Sequence[Layer], box: np.ndarray | None, caption: str) -> str:
    """A view to turn, to zoom and to shift; layers can be hidden.

    Parameters
    ----------
    layers : sequence of Layer
        With names of their own.
    box : ndarray, shape (3, 3), nm, or None
        Drawn as lines, one more layer.
    caption : str
        Text below the view.

    Returns
    -------
    str
        HTML, for a page that holds :func:`library`.
    """
    layers = [*layers, *([] if box is None else [_box_layer(box)])]
    checks = "".join(f'<label><input type="checkbox" name="{html.escape(layer.name)}"'
                     f'{" checked" if layer.shown else ""}> {html.escape(layer.name)}</label>' for layer in layers)
    legend = "".join(f"<span>{_dots(colours)} {html.escape(label)}</span>"
                     for layer in layers for label, colours in layer.legend.items())
    data = base64.b64encode(_snapshot(layers)).decode()
    return (f'<figure class="view"><p>{checks}</p><div class="scene"></div><p>{legend}</p>'
            f"<figcaption>{html.escape(caption)} Drag to turn, scroll to zoom, drag with the right button to move."
            f'</figcaption><script>backmapShow(document.currentScript.closest("figure"), "{data}")</script></figure>')


def _dots(colours: Sequence[int]) -> str:
    return "".join(f'<i style="background:#{colour:06x}"></i>' for colour in colours)


def _snapshot(layers: Sequence[Layer]) -> bytes:
    """The scene in k3d's own packed format."""
    import k3d

    plot = k3d.plot(grid_visible=False, menu_visibility=False, camera_auto_fit=False, grid_auto_fit=False,
                    axes_helper=0, camera_fov=_FIELD_OF_VIEW, height=_HEIGHT_PX, depth_peels=0)
    for layer in layers:
        if len(layer.centres):
            plot += k3d.points(layer.centres.astype(np.float32), colors=layer.colours.astype(np.uint32),
                               point_sizes=(2 * layer.radii).astype(np.float32), shader="3d", opacity=layer.opacity,
                               name=layer.name)
        if len(layer.ends):
            plot += _sticks(layer)
    plot.camera = _camera(
        np.concatenate([points for layer in layers for points in (layer.centres, layer.ends.reshape(-1, 3))]),
        np.concatenate([reach for layer in layers for reach in (layer.radii, np.zeros(2 * len(layer.ends)))]))
    return plot.get_binary_snapshot()


def _sticks(layer: Layer):
    import k3d

    n = 2 * len(layer.ends)
    return k3d.lines(layer.ends.reshape(n, 3).astype(np.float32), np.arange(n, dtype=np.uint32).reshape(-1, 2),
                     indices_type="segment", colors=layer.end_colours.reshape(n).astype(np.uint32),
                     shader="mesh" if layer.stick_radius else "simple", width=2 * layer.stick_radius or 0.01,
                     radial_segments=6, opacity=layer.opacity, name=layer.name)


def _camera(points: np.ndarray, radii: np.ndarray) -> list[float]:
    """Eye, target and up of the nearest camera that sees all ``points`` (n, 3) with what is ``radii`` (n,) around."""
    centre = (points.min(0) + points.max(0)) / 2
    towards = _TOWARDS_EYE / np.linalg.norm(_TOWARDS_EYE)
    across = np.cross([0.0, 0.0, 1.0], towards)
    across /= np.linalg.norm(across)
    x, y, depth = np.stack([across, np.cross(towards, across), towards]) @ (points - centre).T
    widest = np.maximum(np.abs(x) / _ASPECT, np.abs(y)) + radii + _MARGIN_NM
    distance = (widest / np.tan(np.radians(_FIELD_OF_VIEW / 2)) + depth).max()
    return [*(centre + distance * towards).tolist(), *centre.tolist(), 0.0, 0.0, 1.0]


def _box_layer(box: np.ndarray) -> Layer:
    ends = box_edges(box)
    return Layer("box", ends=ends, end_colours=np.full((len(ends), 2), 0x606060))


def structure_view(target: Target, positions: np.ndarray, beads: np.ndarray | None, box: np.ndarray | None,
                   caption: str, most_atoms: int = MOST_ATOMS) -> str:
    """A :func:`view` of one structure: atoms, hydrogens, beads over them, and the box.

    Parameters
    ----------
    target : Target
    positions : ndarray, shape (n_atoms, 3), nm
        Whole molecules.
    beads : ndarray, shape (n_beads, 3), nm, or None
        In the same periodic images as their atoms.
    box : ndarray, shape (3, 3), nm, or None
    caption : str
    most_atoms : int
        Of larger systems, the molecules nearest the centre are shown, and the caption says so.
    """
    inside = molecules_into_box(positions, box, target.molecule_of_atom)
    chosen = _central_molecules(target, inside, most_atoms)
    if not chosen.all():
        n = int(chosen[target.molecule_of_atom].sum())
        caption = (f"{caption} Only a part is shown: {int(chosen.sum()):,} of {len(chosen):,} molecules, those nearest "
                   f"the centre ({n:,} of {target.n_atoms:,} atoms).")
    layers = _atom_layers(target, inside, chosen)
    if beads is not None:
        first_atom = np.unique(target.molecule_of_atom, return_index=True)[1]
        shift = (inside - positions)[first_atom]
        layers.append(_bead_layer(target, beads + shift[target.molecule_of_bead], chosen))
    return view(layers, box, caption)


def _central_molecules(target: Target, positions: np.ndarray, most_atoms: int) -> np.ndarray:
    """Mask (n_molecules,) of as many molecules around the centre as ``most_atoms`` allow, one at least."""
    molecule = target.molecule_of_atom
    counts = np.bincount(molecule)
    centres = np.stack([np.bincount(molecule, x) for x in positions.T], axis=1) / counts[:, None]
    order = np.argsort(np.linalg.norm(centres - centres.mean(0), axis=1))
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[order[:max(1, np.searchsorted(np.cumsum(counts[order]), most_atoms, side="right"))]] = True
    return chosen


def _atom_layers(target: Target, x: np.ndarray, chosen: np.ndarray) -> list[Layer]:
    """Sticks and balls; carbon takes the colour of its molecule, other elements their own."""
    elements = np.array(target.elements)
    tints = packed_colours(MOLECULE_COLOURS)
    colours = tints[target.molecule_of_atom % len(tints)]
    of_element = {element: int(packed_colours([ELEMENT_COLOURS.get(element, OTHER_COLOUR)])[0])
                  for element in sorted(set(target.elements) - {"C"})}
    for element, colour in of_element.items():
        colours[elements == element] = colour
    light = elements == "H"
    light_bond = light[target.bonds].any(axis=1)
    shown_bond = chosen[target.molecule_of_atom[target.bonds[:, 0]]]
    legend = {"carbon, by molecule": tints[:min(len(target.chains), len(tints))].tolist()}
    legend |= {element: [colour] for element, colour in of_element.items() if element != "H"}
    layers = []
    for name, atoms, bonds, ball, stick, labels in (
            ("atoms", ~light, ~light_bond, _BALL_NM, _STICK_NM, legend),
            ("hydrogens", light, light_bond, _HYDROGEN_BALL_NM, _HYDROGEN_STICK_NM,
             {"hydrogen": [of_element.get("H", 0)]})):
        atoms, bonds = np.flatnonzero(atoms & chosen[target.molecule_of_atom]), target.bonds[bonds & shown_bond]
        if len(atoms):
            layers.append(Layer(name, x[atoms], np.full(len(atoms), ball), colours[atoms], x[bonds], colours[bonds],
                                stick, legend=labels))
    return layers


def _bead_layer(target: Target, beads: np.ndarray, chosen: np.ndarray) -> Layer:
    palette = packed_colours(BEAD_COLOURS)
    shown = np.flatnonzero(chosen[target.molecule_of_bead])
    names = target.chemistry.bead_types
    legend = {f"bead {names[t]}": [int(palette[t % len(palette)])] for t in np.unique(target.bead_type[shown])}
    return Layer("beads", beads[shown], np.full(len(shown), BEAD_RADIUS_NM),
                 palette[target.bead_type[shown] % len(palette)], opacity=0.3, legend=legend)
