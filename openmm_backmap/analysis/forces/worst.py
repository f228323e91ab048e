"""The coarse-grained conformations that atoms can fill worst: where they are, and what is around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.forces.bead_forces import BeadForces
from openmm_backmap.chemistry import Target, build_target
from openmm_backmap.geometry.checks import bonded_keys, near_pairs
from openmm_backmap.geometry.periodic import minimum_image, wrap
from openmm_backmap.io.writers import write_structure

MOST = 5
_AROUND_NM, _MOST_NEIGHBOURS = 0.5, 12


@dataclass(frozen=True)
class Worst:
    """A bead on which a large force acts.

    Attributes
    ----------
    structure : int
        Of the ensemble.
    frame : str
        Name of the coarse-grained frame.
    molecule, bead : int
        Counted from 0 over the system.
    name : str
        Type of the bead and its monomer.
    force : float, kJ/mol/nm
        |F|.
    position : ndarray, shape (3,), nm
        Of the bead, in the box.
    nearest : str
        The nearest pair of an atom of the bead and another, more than three bonds away, and their distance.
    neighbour : int
        Molecule of that other atom; -1 where there is none.
    pair : tuple of int, or None
        These atoms.
    """

    structure: int
    frame: str
    molecule: int
    bead: int
    name: str
    force: float
    position: np.ndarray = field(repr=False)
    nearest: str
    neighbour: int
    pair: tuple[int, int] | None


@dataclass(frozen=True)
class Surroundings:
    """A molecule and those around it, as a small system; the bead in question is at the origin.

    Attributes
    ----------
    target : Target
        Its molecule first, then, where there is one, the molecule that it presses on.
    positions, beads : ndarray, shapes (n_atoms, 3) and (n_beads, 3), nm
    pair : ndarray, shape (2, 3), nm, or None
        Where the nearest atoms are.
    pressed : int or None
        The second molecule, counted from 0 over the whole system.
    """

    target: Target = field(repr=False)
    positions: np.ndarray = field(repr=False)
    beads: np.ndarray = field(repr=False)
    pair: np.ndarray | None = field(default=None, repr=False)
    pressed: int | None = None


def find_worst(ensemble: Ensemble, forces: BeadForces, frame_names: tuple[str, ...], most: int = MOST) -> list[Worst]:
    """Beads of the largest forces, the largest first: one of each molecule of a structure, and of two molecules that
    press on each other only one.

    Parameters
    ----------
    ensemble : Ensemble
        With the beads that its structures were drawn for.
    forces : BeadForces
        Of the same structures.
    frame_names : tuple of str
        By number of the frame.
    most : int
    """
    size, target = forces.magnitudes, ensemble.target
    found: list[Worst] = []
    seen: set[tuple[int, int]] = set()
    for flat in np.argsort(size, axis=None)[::-1]:
        k, bead = (int(i) for i in np.unravel_index(flat, size.shape))
        molecule = int(target.molecule_of_bead[bead])
        if (k, molecule) in seen:
            continue
        nearest, neighbour, pair = _nearest(ensemble, k, bead)
        seen |= {(k, molecule), (k, neighbour)}
        found.append(Worst(k, frame_names[ensemble.frame[k]], molecule, bead, bead_name(target, bead),
                           float(size[k, bead]), wrap(ensemble.beads[k][bead], ensemble.box(k)), nearest, neighbour,
                           pair))
        if len(found) == most:
            break
    return found


def bead_name(target: Target, bead: int) -> str:
    """``A of STY 3``: type of the bead, and place of its monomer in its molecule."""
    molecule = target.molecule_of_bead[bead]
    place = bead - int(np.argmax(target.molecule_of_bead == molecule))
    for number, monomer in enumerate(target.chains[molecule], 1):
        beads = target.chemistry.monomers[monomer].beads
        if place < len(beads):
            return f"{beads[place].name} of {monomer} {number}"
        place -= len(beads)
    raise IndexError(f"bead {bead} is none of molecule {molecule}")


def _nearest(ensemble: Ensemble, k: int, bead: int) -> tuple[str, int, tuple[int, int] | None]:
    """In words, the nearest pair of an atom of the bead and one beyond three bonds; the molecule of the latter; and the
    pair."""
    target, x, box = ensemble.target, ensemble.positions[k].astype(float), ensemble.box(k)
    own = np.flatnonzero(target.bead_of_atom == bead)
    i, j = near_pairs(x[own], x, box, _AROUND_NM)
    i = own[i]
    far = (i != j) & ~np.isin(i * target.n_atoms + j, bonded_keys(target)) & (target.bead_of_atom[j] != bead)
    if not far.any():
        return "none near", -1, None
    i, j = i[far], j[far]
    distances = np.linalg.norm(minimum_image(x[i] - x[j], box), axis=-1)
    at = int(np.argmin(distances))
    i, j = int(i[at]), int(j[at])
    other = int(target.molecule_of_atom[j])
    whose = "its own molecule" if other == target.molecule_of_atom[i] else f"molecule {other + 1}"
    return f"{target.atom_names[i]} - {target.atom_names[j]} of {whose}, {distances[at]:.3f} nm", other, (i, j)


def surroundings(ensemble: Ensemble, worst: Worst) -> Surroundings:
    """The molecule of ``worst`` and the nearest of those that come near its bead, in one image."""
    target, k = ensemble.target, worst.structure
    x, box, beads = ensemble.positions[k].astype(float), ensemble.box(k), ensemble.beads[k]
    centre = beads[worst.bead]
    own = np.flatnonzero(target.bead_of_atom == worst.bead)
    _, j = near_pairs(x[own], x, box, _AROUND_NM)
    apart = np.linalg.norm(minimum_image(x[j] - centre, box), axis=-1)
    near = list(dict.fromkeys(target.molecule_of_atom[j[np.argsort(apart)]].tolist()))
    pressed = worst.neighbour if worst.neighbour not in (-1, worst.molecule) else None
    first = [worst.molecule] if pressed is None else [worst.molecule, pressed]
    chosen = [*first, *[m for m in near if m not in first][:_MOST_NEIGHBOURS + 1 - len(first)]]
    atoms, sites = [], []
    for m in chosen:
        of_atom, of_bead = target.molecule_of_atom == m, target.molecule_of_bead == m
        offset = x[of_atom] - centre
        at = int(np.argmin(np.linalg.norm(minimum_image(offset, box), axis=-1)))
        shift = minimum_image(offset[at], box) - offset[at]
        atoms.append(x[of_atom] + shift - centre)
        sites.append(beads[of_bead] + shift - centre)
    part = build_target(target.chemistry, [target.chains[m] for m in chosen])
    pair = None
    if worst.pair is not None:
        begin, end = x[list(worst.pair)]
        begin = minimum_image(begin - centre, box)
        pair = np.array([begin, begin + minimum_image(end - centre - begin, box)])
    return Surroundings(part, np.concatenate(atoms), np.concatenate(sites), pair, pressed)


def write_worst(folder: Path, name: str, found: Surroundings) -> Path:
    """Write ``folder/name.gro``, the bead in question in its middle; returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.gro"
    side = 2 * np.abs(found.positions).max() + 1.0
    write_structure(path, found.target.topology, found.positions + side / 2, np.eye(3) * side, overwrite=True,
                    gro_precision=6)
    return path
