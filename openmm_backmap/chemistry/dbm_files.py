"""Chemistries from the files of the DeepBackmap authors: a ``.map``, an atomistic ``.itp``, a force field text.

The molecule becomes one monomer of one residue, its types one an atom, so that every explicit term of the ``.itp``
finds its place in OpenMM's force field XML. Both texts are written out in full: a model file can carry them, and a
person can save and edit them.
"""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from openmm_backmap.chemistry.spec import Chemistry, parse_chemistry
from openmm_backmap.errors import ChemistryError, InputError

_MASSES = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "F": 18.998, "Si": 28.085, "P": 30.974, "S": 32.06,
           "Cl": 35.45, "Br": 79.904}
_HARMONIC_TORSION = "0.5*k*min(dtheta, 2*pi-dtheta)^2; dtheta=abs(theta-theta0); pi=3.141592653589793"
_LINEAR_DEG = 165.0

Sections = dict[str, list[list[str]]]


@dataclass(frozen=True)
class _Atom:
    name: str
    type_class: str
    mass: float
    charge: float
    sigma: float
    epsilon: float
    bead: int
    element: str


@dataclass
class _Molecule:
    """A molecule as its files give it; atoms and beads are numbered from 0, terms hold (atoms, parameters)."""

    name: str
    nrexcl: int
    atoms: list[_Atom]
    bead_types: list[str]
    bonds: list[tuple[tuple[int, ...], tuple[float, ...]]] = field(default_factory=list)
    angles: list[tuple[tuple[int, ...], tuple[float, ...]]] = field(default_factory=list)
    periodic: dict[tuple[int, ...], list[tuple[float, ...]]] = field(default_factory=dict)
    harmonic: dict[tuple[int, ...], tuple[float, ...]] = field(default_factory=dict)
    exclusions: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def load_dbm(map_file: str | Path) -> Chemistry:
    """The chemistry of ``NAME.map`` and the files that lie beside it.

    These are ``aa_NAME.itp`` or else ``NAME.itp``; the force field text ``ff.txt`` or else the only ``ff*.txt``, if
    there is one; and ``cg_NAME.itp``, if there is one, for the names of the beads.

    Raises
    ------
    InputError
        Where there is no ``.itp``, or more than one force field text.
    """
    map_file = Path(map_file)
    stem, folder = map_file.stem, map_file.parent
    itp = next((f for f in (folder / f"aa_{stem}.itp", folder / f"{stem}.itp") if f.is_file()), None)
    if itp is None:
        raise InputError(f"{map_file}: its topology aa_{stem}.itp (or {stem}.itp) does not lie beside it")
    texts = [folder / "ff.txt"] if (folder / "ff.txt").is_file() else sorted(folder.glob("ff*.txt"))
    if len(texts) > 1:
        raise InputError(f"{map_file}: which force field? {', '.join(t.name for t in texts)} lie beside it; keep one, "
                         "or call it ff.txt")
    cg_itp = folder / f"cg_{stem}.itp"
    return chemistry_from_dbm(map_file, itp, texts[0] if texts else None, cg_itp if cg_itp.is_file() else None)


def chemistry_from_dbm(map_file: str | Path, itp_file: str | Path, ff_file: str | Path | None = None,
                       cg_itp: str | Path | None = None, *,
                       mass_shares: Mapping[int, Mapping[int, float]] | None = None,
                       constraints: str = "all-bonds", temperature_K: float = 300.0) -> Chemistry:
    """Make a chemistry of a molecule from the files of the DeepBackmap authors.

    Parameters
    ----------
    map_file : path
        Sections [map] (atom, class of its type, bead, bead type) and [align] (bead, bead that its frame turns to).
    itp_file : path
        GROMACS topology of one molecule. Terms may leave out parameters that ``ff_file`` has.
    ff_file : path, optional
        [atom_types], [bond_types], [angle_types], [dihedral_types]. Atoms are looked up by the type in the ``.itp``
        or, where the text does not know that, by their class in the ``.map``. Left out, the ``.itp`` must hold an
        [ atomtypes ] section and all parameters.
    cg_itp : path, optional
        Its [atoms] name the beads as CG files do; otherwise beads are called by type and number.
    mass_shares : mapping of bead number to mapping of atom number to share, optional
        Numbers as in the files, from 1. Beads that are left out are the mass-weighted centre of their own atoms,
        which is all that a ``.map`` can say.
    constraints : str
        ``all-bonds`` (force constants of bonds in these files are placeholders), ``h-bonds`` or ``none``.
    temperature_K : float, kelvin

    Raises
    ------
    InputError
        Where a file cannot be read or the files contradict each other.
    ChemistryError
        Where a term has no counterpart: other functional forms, [ pairs ], nrexcl other than 2 or 3.
    """
    topology, ff = _read_sections(itp_file), _read_sections(ff_file) if ff_file else {}
    mapping = _read_sections(map_file)
    molecule = _molecule(mapping, topology, ff, map_file, itp_file)
    _add_terms(molecule, topology, ff, str(itp_file))
    names = _bead_names(molecule, cg_itp)
    made_from = [Path(f).name for f in (map_file, itp_file, ff_file) if f]
    source = _chemistry_text(molecule, names, mapping.get("align", []), mass_shares or {}, made_from,
                             constraints, temperature_K)
    return parse_chemistry(source, _force_field_text(molecule, made_from), where=str(map_file))


def _read_sections(path: str | Path) -> Sections:
    """Rows of words by section name; a section that occurs twice goes on."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    sections: Sections = {}
    rows: list[list[str]] = []
    for number, line in enumerate(lines, 1):
        line = line.split(";")[0].strip()
        if line.startswith("#"):
            raise InputError(f"{path}: line {number}: preprocessor lines ({line.split()[0]}) are not read; resolve "
                             "them first, for instance with gmx grompp -pp")
        if line.startswith("["):
            rows = sections.setdefault(line.strip("[] ").lower(), [])
        elif line:
            rows.append(line.split())
    return sections


def _molecule(mapping: Sections, topology: Sections, ff: Sections, map_file, itp_file) -> _Molecule:
    rows, heads, atoms = (sections.get(name, []) for sections, name in (
        (mapping, "map"), (topology, "moleculetype"), (topology, "atoms")))
    if len(heads) != 1 or not atoms:
        raise InputError(f"{itp_file}: one [ moleculetype ] with its [ atoms ] is expected, {len(heads)} are there")
    if len(rows) != len(atoms):
        raise InputError(f"{map_file}: maps {len(rows)} atoms, but {itp_file} has {len(atoms)}")
    try:
        bead_types = {int(bead): kind for _, _, bead, kind in rows}
        if sorted(bead_types) != list(range(1, len(bead_types) + 1)):
            raise InputError(f"{map_file}: beads must be numbered from 1 without gaps")
        types = _atom_types(topology, ff)
        made = [_atom(row, atom, types, itp_file) for row, atom in zip(rows, atoms, strict=True)]
        molecule = _Molecule(heads[0][0], int(heads[0][1]), made, [bead_types[b] for b in sorted(bead_types)])
    except (ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{map_file}, {itp_file}: a row of [map], [atom_types] or [ atoms ] is not as expected "
                         f"({error})") from None
    names = [atom.name for atom in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{itp_file}: atom names must differ within the molecule; {', '.join(twice)} occur twice")
    if any(row[1] not in types for row in atoms):
        molecule.note(f"Lennard-Jones parameters are those of the classes in {Path(map_file).name}.")
    return molecule


def _atom_types(topology: Sections, ff: Sections) -> dict[str, tuple[float, float, float, float]]:
    """Mass, charge, sigma (nm) and epsilon (kJ/mol) by type name."""
    if ff:
        return {row[0]: tuple(map(float, row[2:6])) for row in ff.get("atom_types", [])}
    # GROMACS: name, perhaps more names or numbers, mass, charge, particle type, sigma, epsilon.
    return {row[0]: tuple(float(row[k]) for k in (-5, -4, -2, -1)) for row in topology.get("atomtypes", [])}


def _atom(row: list[str], atom: list[str], types, itp_file) -> _Atom:
    if int(row[0]) != int(atom[0]):
        raise InputError(f"{itp_file}: atom {atom[0]} stands where the .map has atom {row[0]}")
    name, type_class = atom[4], row[1]
    found = types.get(atom[1], types.get(type_class))
    if found is None:
        raise InputError(f"{itp_file}: atom {name}: no Lennard-Jones parameters for its type {atom[1]} (class "
                         f"{type_class}); known: {', '.join(types) or 'none: give a force field text'}")
    mass = float(atom[7]) if len(atom) > 7 else found[0]
    charge = float(atom[6]) if len(atom) > 6 else found[1]
    fitting = [s for s in _MASSES if type_class.upper().startswith(s.upper())]
    if not fitting:
        raise InputError(f"{itp_file}: atom {name}: no element begins the name of its class {type_class}")
    element = min(fitting, key=lambda symbol: abs(_MASSES[symbol] - mass))
    return _Atom(name, type_class, mass, charge, found[2], found[3], int(row[2]) - 1, element)


def _add_terms(molecule: _Molecule, topology: Sections, ff: Sections, where: str) -> None:
    if molecule.nrexcl not in (2, 3):
        raise ChemistryError(f"{where}: nrexcl is {molecule.nrexcl}; only 2 and 3 are supported")
    if topology.get("pairs"):
        raise ChemistryError(f"{where}: [ pairs ] (1-4 interactions of their own) are not supported")
    unread = sorted(set(topology) & {"constraints", "settles", "cmap", "polarization", "virtual_sites2",
                                     "virtual_sites3", "virtual_sites4", "virtual_sitesn"})
    if unread:
        raise ChemistryError(f"{where}: section [ {unread[0]} ] is not supported")
    kinds = [row[1] for row in topology["atoms"]]
    try:
        for section, width in (("bonds", 2), ("angles", 3), ("dihedrals", 4)):
            table = ff.get(section[:-1] + "_types", [])
            for row in topology.get(section, []):
                atoms = tuple(int(n) - 1 for n in row[:width])
                if not all(0 <= i < len(molecule.atoms) for i in atoms):
                    raise InputError(f"{where}: [ {section} ]: {' '.join(row[:width])}: no such atom")
                values = row[width:] if len(row) > width + 1 else _look_up(
                    table, [(kinds[i], molecule.atoms[i].type_class) for i in atoms], f"{where}: [ {section} ]")
                _ADD[section](molecule, atoms, int(values[0]), [float(v) for v in values[1:]],
                              f"{where}: [ {section} ]: {' '.join(row[:width])}")
        for first, *others in topology.get("exclusions", []):
            molecule.exclusions.extend((int(first) - 1, int(other) - 1) for other in others)
    except (ValueError, IndexError) as error:
        if isinstance(error, (InputError, ChemistryError)):
            raise
        raise InputError(f"{where}: a row of [ {section} ] or [ exclusions ] is not as expected ({error})") from None


def _look_up(table: list[list[str]], kinds: list[tuple[str, str]], where: str) -> list[str]:
    """Function and parameters of the row of ``table`` for atoms whose type may go by either of two names."""
    width = len(kinds)
    for row in table:
        for names in (row[:width], row[:width][::-1]):
            if all(name in pair for name, pair in zip(names, kinds, strict=True)):
                return row[width + 1:]
    raise InputError(f"{where}: no parameters for {' '.join(kind for kind, _ in kinds)} in the topology or force field")


def _add_bond(molecule: _Molecule, atoms, function: int, values: list[float], where: str) -> None:
    length, k = values[:2]
    if function == 2:
        # k/4 (b^2 - b0^2)^2 has the curvature 2 k b0^2 at b0.
        molecule.note("Bonds of function 2 are made harmonic, with the same curvature at their minimum.")
        k *= 2 * length ** 2
    elif function != 1:
        raise ChemistryError(f"{where}: bond function {function} is not supported; 1 and 2 are")
    molecule.bonds.append((atoms, (length, k)))


def _add_angle(molecule: _Molecule, atoms, function: int, values: list[float], where: str) -> None:
    degrees, k = values[:2]
    if function == 2:
        # k/2 (cos t - cos t0)^2 has the curvature k sin^2 t0 at t0: none where the angle is straight.
        if degrees > _LINEAR_DEG:
            raise ChemistryError(f"{where}: an angle of function 2 at {degrees:g} degrees cannot be made harmonic")
        molecule.note("Angles of function 2 are made harmonic, with the same curvature at their minimum.")
        k *= math.sin(math.radians(degrees)) ** 2
    elif function != 1:
        raise ChemistryError(f"{where}: angle function {function} is not supported; 1 and 2 are")
    molecule.angles.append((atoms, (math.radians(degrees), k)))


def _add_dihedral(molecule: _Molecule, atoms, function: int, values: list[float], where: str) -> None:
    bonded = {frozenset(pair) for pair, _ in molecule.bonds}
    chain = all(frozenset(pair) in bonded for pair in itertools.pairwise(atoms))
    key = min(atoms, atoms[::-1])
    if function in (1, 9) and chain:
        molecule.periodic.setdefault(key, []).append((math.radians(values[0]), values[1], values[2]))
        return
    if function != 2:
        raise ChemistryError(f"{where}: dihedral function {function} {'' if chain else 'of atoms not bonded in a row '}"
                             "is not supported; 1 and 9 (bonded in a row) and 2 are")
    if not chain:
        centre_first = next((order for order in (atoms, atoms[::-1]) if all(
            frozenset((order[0], other)) in bonded for other in order[1:])), None)
        if centre_first is None:
            raise ChemistryError(f"{where}: an improper dihedral must begin or end with its central atom")
        key = centre_first
    if key in molecule.harmonic:
        raise ChemistryError(f"{where}: occurs twice")
    molecule.harmonic[key] = (math.radians(values[0]), values[1])


_ADD = {"bonds": _add_bond, "angles": _add_angle, "dihedrals": _add_dihedral}


def _bead_names(molecule: _Molecule, cg_itp) -> list[str]:
    """Names that CG files use, where known and different from each other; otherwise type and number."""
    own = [f"{kind}{n}" for n, kind in enumerate(molecule.bead_types, 1)]
    if cg_itp is None:
        return own
    rows = _read_sections(cg_itp).get("atoms", [])
    if len(rows) != len(own):
        raise InputError(f"{cg_itp}: has {len(rows)} beads, the .map has {len(own)}")
    names = [row[4] for row in rows]
    return names if len(set(names)) == len(names) else own


def _bead_bonds(molecule: _Molecule) -> list[tuple[int, int]]:
    bead = [atom.bead for atom in molecule.atoms]
    pairs = {tuple(sorted((bead[i], bead[j]))) for (i, j), _ in molecule.bonds}
    return sorted((a, b) for a, b in pairs if a != b)


def _frames(molecule: _Molecule, align: list[list[str]], names: list[str]) -> dict[int, list[list[str]]]:
    """z towards the bead of [align], x towards another neighbour of either bead."""
    neighbours: dict[int, list[int]] = {b: [] for b in range(len(names))}
    for a, b in _bead_bonds(molecule):
        neighbours[a].append(b), neighbours[b].append(a)
    towards = {int(bead) - 1: int(fixed) - 1 for bead, fixed in align}
    frames = {}
    for bead, near in neighbours.items():
        z = towards.get(bead, near[0] if near else None)
        if z is not None:
            x = [b for b in (*near, *neighbours[z]) if b not in (bead, z)]
            frames[bead] = [[names[z], *(names[b] for b in x[:1])]]
    return frames


def _chemistry_text(molecule: _Molecule, names: list[str], align, mass_shares, made_from: list[str],
                    constraints: str, temperature_K: float) -> str:
    frames = _frames(molecule, align, names)
    beads = {}
    for b, name in enumerate(names):
        own = [atom.name for atom in molecule.atoms if atom.bead == b]
        shares = {molecule.atoms[n - 1].name: float(share) for n, share in mass_shares.get(b + 1, {}).items()}
        beads[name] = {"type": molecule.bead_types[b], "atoms": own,
                       "mass_shares": shares or dict.fromkeys(own, 1.0), "frames": frames.get(b, [])}
    monomer = {"residues": {"single": molecule.name}, "beads": beads,
               "bead_bonds": [[names[a], names[b]] for a, b in _bead_bonds(molecule)],
               "no_nonbonded": [[molecule.atoms[i].name, molecule.atoms[j].name] for i, j in molecule.exclusions]}
    content = {"name": molecule.name, "title": f"{molecule.name} ({', '.join(made_from)})",
               "force_field": f"{molecule.name}.xml", "constraints": constraints, "temperature_K": temperature_K,
               "monomers": {molecule.name: monomer},
               "cg": {"residues": [molecule.name], "namings": [{name: name for name in names}]}}
    head = "".join(f"# {line}\n" for line in (f"Made from {', '.join(made_from)}.", *molecule.notes))
    return head + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=118)


def _force_field_text(molecule: _Molecule, made_from: list[str]) -> str:
    root = ElementTree.Element("ForceField")
    root.append(ElementTree.Comment(" ".join((f" Made from {', '.join(made_from)}.", *molecule.notes)) + " "))
    _write_atoms(root, molecule)
    for tag, kind, terms, names in (("HarmonicBondForce", "Bond", molecule.bonds, ("length", "k")),
                                    ("HarmonicAngleForce", "Angle", molecule.angles, ("angle", "k"))):
        force = ElementTree.SubElement(root, tag)
        for atoms, values in terms:
            _term(force, kind, molecule, atoms, dict(zip(names, values, strict=True)))
    _write_torsions(root, molecule)
    scale = "1.0" if molecule.nrexcl == 2 else "0.0"
    force = ElementTree.SubElement(root, "NonbondedForce", coulomb14scale=scale, lj14scale=scale)
    ElementTree.SubElement(force, "UseAttributeFromResidue", name="charge")
    for atom in molecule.atoms:
        ElementTree.SubElement(force, "Atom", type=atom.name, sigma=repr(atom.sigma), epsilon=repr(atom.epsilon))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _write_atoms(root, molecule: _Molecule) -> None:
    types = ElementTree.SubElement(root, "AtomTypes")
    residue = ElementTree.SubElement(ElementTree.SubElement(root, "Residues"), "Residue", name=molecule.name)
    for atom in molecule.atoms:
        ElementTree.SubElement(types, "Type", {"name": atom.name, "class": atom.type_class, "element": atom.element,
                                               "mass": repr(atom.mass)})
        ElementTree.SubElement(residue, "Atom", name=atom.name, type=atom.name, charge=repr(atom.charge))
    for (i, j), _ in molecule.bonds:
        ElementTree.SubElement(residue, "Bond", atomName1=molecule.atoms[i].name, atomName2=molecule.atoms[j].name)


def _write_torsions(root, molecule: _Molecule) -> None:
    if molecule.periodic:
        force = ElementTree.SubElement(root, "PeriodicTorsionForce")
        for atoms, terms in molecule.periodic.items():
            _term(force, "Proper", molecule, atoms, {
                key: value for n, (phase, k, periodicity) in enumerate(terms, 1)
                for key, value in ((f"periodicity{n}", int(periodicity)), (f"phase{n}", phase), (f"k{n}", k))})
    if molecule.harmonic:
        force = ElementTree.SubElement(root, "CustomTorsionForce", energy=_HARMONIC_TORSION, ordering="charmm")
        for name in ("k", "theta0"):
            ElementTree.SubElement(force, "PerTorsionParameter", name=name)
        bonded = {frozenset(pair) for pair, _ in molecule.bonds}
        for atoms, (theta0, k) in molecule.harmonic.items():
            chain = all(frozenset(pair) in bonded for pair in itertools.pairwise(atoms))
            _term(force, "Proper" if chain else "Improper", molecule, atoms, {"k": k, "theta0": theta0})


def _term(force, kind: str, molecule: _Molecule, atoms, values: Mapping[str, float]) -> None:
    types = {f"type{n}": molecule.atoms[i].name for n, i in enumerate(atoms, 1)}
    ElementTree.SubElement(force, kind, types | {key: repr(value) for key, value in values.items()})
