"""Rules that place atoms on beads by geometry alone: means of beads, and what is set right afterwards.

After Wassenaar, Pluhackova, Böckmann, Marrink, Tieleman, J. Chem. Theory Comput. 10, 676 (2014).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openmm_backmap.chemistry.text import only_known
from openmm_backmap.errors import ChemistryError

#: kind of a correction -> how many atoms it may name
KINDS = {"cis": (4,), "trans": (4,), "out": (3, 4, 5), "chiral": (4, 5)}


@dataclass(frozen=True)
class Correction:
    """One rule: ``kind`` (of :data:`KINDS`) and the atoms it names; it moves the first, which is bonded to the second.

    ``cis``, ``trans`` [a, b, c, d]
        a in the plane of b, c and d, on the side of d or on the other.
    ``out`` [a, b, c, ...]
        a away from c and the others, as seen from b.
    ``chiral`` [a, b, c, d]
        a out of the plane of b, c and d: (c - b) x (d - b) . (a - b) > 0.
    ``chiral`` [a, b, c, d, e]
        a where it gives b its hand: (c - b) x (d - b) . (e - b) > 0 with a opposite to c, d and e.

    Both of the last are mirrored in monomers of the other hand (``Target.bead_hand``).
    """

    kind: str
    atoms: tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """Where the atoms of a monomer go; references are written ``NAME``, ``-NAME`` or ``+NAME``.

    Attributes
    ----------
    means : mapping of atom to mapping of bead reference to weight
        An atom that is not listed starts at its own bead.
    corrections : tuple of Correction
        In the order in which they are made; one that leads out of the chain is left out.
    first, last : tuple of Correction
        Made before the others where the monomer opens or closes a chain; they may name atoms of the chain's end.
    """

    means: Mapping[str, Mapping[str, float]]
    corrections: tuple[Correction, ...]
    first: tuple[Correction, ...]
    last: tuple[Correction, ...]


def parse_placement(content: Mapping, where: str) -> Placement:
    """From the entry ``placement`` of a monomer."""
    where = f"{where}: placement"
    only_known(content, where, "means corrections first last")
    means = {str(atom): {str(bead): _weight(weight, f"{where}: means: {atom}") for bead, weight in weights.items()}
             for atom, weights in content.get("means", {}).items()}
    return Placement(means, *(tuple(_correction(c, f"{where}: {key}") for c in content.get(key, ()))
                              for key in ("corrections", "first", "last")))


def _weight(value, where: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ChemistryError(f"{where}: {value!r} is no weight; give a number") from None


def _correction(content: Mapping, where: str) -> Correction:
    only_known(content, where, " ".join(KINDS))
    if len(content) != 1:
        raise ChemistryError(f"{where}: write each as 'KIND: [atoms]', with one of {', '.join(KINDS)}")
    kind, atoms = next(iter(content.items()))
    if len(atoms) not in KINDS[kind]:
        raise ChemistryError(f"{where}: {kind} {', '.join(map(str, atoms))}: {kind} names "
                             f"{' or '.join(map(str, KINDS[kind]))} atoms")
    return Correction(kind, tuple(map(str, atoms)))


def check_placement(placement: Placement, atoms: set[str], beads: set[str], all_atoms: set[str], all_beads: set[str],
                    ends: Mapping[str, set[str]], where: str) -> None:
    """Names that the rules of a monomer use must exist.

    Parameters
    ----------
    atoms, beads : set of str
        Of the monomer.
    all_atoms, all_beads : set of str
        Of all monomers: what references with a sign may name.
    ends : mapping of "first" and "last" to set of str
        Atoms that close the chain on that side.
    """
    where = f"{where}: placement"
    for atom, weights in placement.means.items():
        if atom not in atoms:
            raise ChemistryError(f"{where}: means: there is no atom {atom}")
        for bead, weight in weights.items():
            _check_reference(bead, beads, all_beads, f"{where}: means: {atom}")
            if not weight > 0:
                raise ChemistryError(f"{where}: means: {atom}: the weight of {bead} is {weight:g}; it must be positive")
        if not set(weights) & beads:
            raise ChemistryError(f"{where}: means: {atom}: one bead at least must be of the monomer itself")
    for key in ("corrections", "first", "last"):
        own = atoms | ends.get(key, set())
        for rule in getattr(placement, key):
            place = f"{where}: {key}: {rule.kind} {', '.join(rule.atoms)}"
            if rule.atoms[0] not in own:
                raise ChemistryError(f"{place}: the atom that is placed must be of the monomer itself")
            for ref in rule.atoms:
                _check_reference(ref, own, all_atoms, place)


def _check_reference(ref: str, own: set[str], everywhere: set[str], where: str) -> None:
    if ref.lstrip("+-") not in (everywhere if ref[:1] in ("+", "-") else own):
        raise ChemistryError(f"{where}: there is no {ref}")
