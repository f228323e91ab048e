"""A chemistry: what the molecules are, per monomer, read from a YAML file that a person can write.

The file names the residue templates of an OpenMM force field, the beads of each monomer, the mass that each bead
takes from each atom (neighbouring monomers included), the frames of the beads, stereocentres, and how coarse-grained
files write all this. See ``docs/chemistry.md``.
"""

from __future__ import annotations

import hashlib
import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path

from openmm_backmap.chemistry.placement import Placement, check_placement, parse_placement
from openmm_backmap.chemistry.text import only_known, read_mapping
from openmm_backmap.errors import ChemistryError, InputError
from openmm_backmap.registry import unknown_name

SHIPPED = ("sps", "octane", "cumene", "tmbt", "adp", "chignolin")
POSITIONS = ("middle", "first", "last", "single")
CONSTRAINTS = ("none", "h-bonds", "all-bonds")
#: force field files of OpenMM that add an implicit solvent to its AMBER force fields
IMPLICIT_SOLVENTS = ("amber96_obc.xml", "amber99_obc.xml", "amber03_obc.xml", "amber10_obc.xml")
METHODS = ("PME", "Ewald", "LJPME", "CutoffPeriodic")


@dataclass(frozen=True)
class TemplateAtom:
    """An atom of a residue template: its name, element symbol, type class and mass (dalton)."""

    name: str
    element: str
    type_class: str
    mass: float


@dataclass(frozen=True)
class ResidueTemplate:
    """A residue of the force field: atoms in file order and bonds as pairs of atom names."""

    name: str
    atoms: tuple[TemplateAtom, ...]
    bonds: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class BeadSpec:
    """A bead of a monomer.

    ``mass_shares`` maps atom references to the share (0..1) of the atom's mass; a reference ``-CA`` or ``+CB`` is an
    atom of the monomer before or after. ``frames`` lists pairs of bead references, the first whole pair is used.
    """

    name: str
    type: str
    atoms: tuple[str, ...]
    mass_shares: Mapping[str, float]
    first: Mapping[str, float] | None
    last: Mapping[str, float] | None
    frames: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Stereocentre:
    """A centre whose hand is fixed: the sign of (n1 - c) x (n2 - c) . (n3 - c) of the first monomer of a chain."""

    centre: str
    neighbours: tuple[str, str, str]
    sign: int
    pattern: str


@dataclass(frozen=True)
class MonomerSpec:
    """A monomer: residue template by position in the chain, beads, links and what is special about its atoms.

    ``written`` is the name of its residues in atomistic files, where that is not the template's.
    """

    name: str
    residues: Mapping[str, str]
    beads: tuple[BeadSpec, ...]
    links: tuple[tuple[str, str], ...]
    bead_bonds: tuple[tuple[str, str], ...]
    no_nonbonded_within: tuple[str, ...]
    no_nonbonded: tuple[tuple[str, str], ...]
    stereocentres: tuple[Stereocentre, ...]
    equivalent: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    placement: Placement | None = None
    written: str | None = None

    def residue(self, index: int, length: int) -> str:
        """Template name of the monomer at ``index`` of a chain of ``length``."""
        place = "first" if index == 0 else "last" if index == length - 1 else "middle"
        for name in ("single", place, "middle") if length == 1 else (place, "middle"):
            if name in self.residues:
                return self.residues[name]
        what = "is a molecule of its own" if not self.in_chains else "has its place"
        raise ChemistryError(f"monomer {self.name} {what} (residues: {', '.join(self.residues)}); it cannot be number "
                             f"{index + 1} of a chain of {length}")

    @property
    def in_chains(self) -> bool:
        """Whether the monomer is part of a chain, and no molecule of its own."""
        return bool(self.links) or "single" not in self.residues

    def bead_index(self, name: str) -> int:
        return [bead.name for bead in self.beads].index(name)


@dataclass(frozen=True)
class EndAtom:
    """An atom that closes a chain: the atom it is bonded to and the bead that owns it, at ``first`` or ``last``."""

    name: str
    bond: tuple[str, str]
    bead: tuple[str, str]


@dataclass(frozen=True)
class EndSpec:
    """The residue that closes every chain."""

    residue: str
    atoms: tuple[EndAtom, ...]


@dataclass(frozen=True)
class CGNames:
    """How coarse-grained files write the chemistry: residue names, bead namings (``#``: an optional number)."""

    residues: tuple[str, ...]
    namings: tuple[Mapping[str, str], ...]
    chain_in_residue: bool
    max_link_nm: float


@dataclass(frozen=True)
class NonbondedSpec:
    """Nonbonded settings of the reference: an openmm.app method name and a cutoff (nm)."""

    method: str = "PME"
    cutoff_nm: float = 1.0
    dispersion_correction: bool = True


@dataclass(frozen=True)
class Chemistry:
    """Everything that is known about the molecules of one model, and the force field that they obey.

    ``source`` and ``force_field_xml`` are the texts it was read from: a model file carries them. ``implicit_solvent``
    is the file of OpenMM that the molecules are solvated by where they are moved by themselves.
    """

    name: str
    title: str
    monomers: Mapping[str, MonomerSpec]
    end: EndSpec | None
    cg: CGNames
    nonbonded: NonbondedSpec
    constraints: str
    temperature_K: float
    templates: Mapping[str, ResidueTemplate]
    source: str = field(repr=False)
    force_field_xml: str = field(repr=False)
    implicit_solvent: str | None = None

    def force_field(self):
        """The ``openmm.app.ForceField`` of this chemistry."""
        from openmm import app

        return app.ForceField(io.StringIO(self.force_field_xml))

    @property
    def sha256(self) -> str:
        """Hash of its two texts."""
        return hashlib.sha256((self.source + self.force_field_xml).encode()).hexdigest()

    def written(self, template: str) -> str:
        """The name that residues of a template have in atomistic files."""
        return self._written.get(template, template)

    @cached_property
    def _written(self) -> dict[str, str]:
        return {t: m.written for m in self.monomers.values() if m.written for t in m.residues.values()}

    @property
    def type_classes(self) -> tuple[str, ...]:
        """Names of all atom classes, sorted: the vocabulary of atom types."""
        return tuple(sorted({atom.type_class for t in self.templates.values() for atom in t.atoms}))

    @property
    def bead_types(self) -> tuple[str, ...]:
        """Names of all bead types, sorted: the vocabulary of bead types."""
        return tuple(sorted({bead.type for m in self.monomers.values() for bead in m.beads}))


def load_chemistry(name_or_path: str | Path) -> Chemistry:
    """Read a chemistry: a shipped name (:data:`SHIPPED`) or the path of a YAML file.

    The force field file that it names lies beside it. A path that ends in ``.map`` is read as the DeepBackmap
    authors' files, see :func:`openmm_backmap.chemistry.dbm_files.load_dbm`.
    """
    if str(name_or_path) in SHIPPED:
        folder = resources.files("openmm_backmap.chemistry")
        text = (folder / f"{name_or_path}.yaml").read_text()
        read_sibling = lambda name: (folder / name).read_text()  # noqa: E731
    else:
        path = Path(name_or_path)
        if path.suffix == ".map":
            from openmm_backmap.chemistry.dbm_files import load_dbm

            return load_dbm(path)
        if not path.is_file():
            raise unknown_name("chemistry", str(name_or_path), SHIPPED, hint="or the path of a YAML or .map file")
        text = path.read_text()
        read_sibling = lambda name: _read_beside(path, name)  # noqa: E731
    content = read_mapping(text, str(name_or_path))
    if "force_field" not in content:
        raise ChemistryError(f"{name_or_path}: no force_field: name the OpenMM XML file that lies beside it")
    return parse_chemistry(text, read_sibling(str(content["force_field"])), where=str(name_or_path))


def parse_chemistry(source: str, force_field_xml: str, where: str = "chemistry", content=None) -> Chemistry:
    """Build a chemistry from the two texts that define it (a chemistry file and OpenMM force field XML).

    ``content`` is what the first text says, where it has been read before: YAML is not needed then.
    """
    content = read_mapping(source, where) if content is None else content
    only_known(content, where, "name title monomers end cg nonbonded constraints temperature_K force_field "
               "implicit_solvent")
    templates = _parse_templates(force_field_xml, where)
    try:
        monomers = {name: _monomer(name, m, where) for name, m in content["monomers"].items()}
        end = _end(content["end"], where) if content.get("end") else None
        cg = _cg_names(content["cg"], where)
        nonbonded = content.get("nonbonded", {})
        only_known(nonbonded, f"{where}: nonbonded", "method cutoff_nm dispersion_correction")
        chemistry = Chemistry(
            name=str(content["name"]), title=str(content.get("title", content["name"])), monomers=monomers, end=end,
            cg=cg, nonbonded=NonbondedSpec(**nonbonded), constraints=str(content.get("constraints", "none")),
            temperature_K=float(content["temperature_K"]), templates=templates, source=source,
            force_field_xml=force_field_xml, implicit_solvent=content.get("implicit_solvent"))
    except KeyError as error:
        raise ChemistryError(f"{where}: missing entry {error}") from None
    except (TypeError, AttributeError) as error:
        raise ChemistryError(f"{where}: not laid out as a chemistry ({error})") from None
    _check(chemistry, where)
    return chemistry


def _read_beside(path: Path, name: str) -> str:
    file = path.parent / name
    if not file.is_file():
        raise InputError(f"{path}: its force field {file} does not exist")
    return file.read_text()


def _monomer(name: str, content: Mapping, where: str) -> MonomerSpec:
    where = f"{where}: monomer {name}"
    only_known(content, where, "residues beads links bead_bonds no_nonbonded_within no_nonbonded stereocentres "
               "equivalent placement written")
    only_known(content["residues"], f"{where}: residues", " ".join(POSITIONS))
    centres = tuple(
        Stereocentre(c["centre"], tuple(c["neighbours"]), int(c["sign"]), c.get("pattern", "constant"))
        for c in content.get("stereocentres", []))
    return MonomerSpec(
        name=name, residues=dict(content["residues"]),
        beads=tuple(_bead(bead, spec, where) for bead, spec in content["beads"].items()),
        links=_pairs(content.get("links", [])), bead_bonds=_pairs(content.get("bead_bonds", [])),
        no_nonbonded_within=tuple(content.get("no_nonbonded_within", [])),
        no_nonbonded=_pairs(content.get("no_nonbonded", [])), stereocentres=centres,
        equivalent=tuple((tuple(a), tuple(b)) for a, b in content.get("equivalent", [])),
        placement=parse_placement(content["placement"], where) if "placement" in content else None,
        written=content.get("written"))


def _bead(name: str, content: Mapping, where: str) -> BeadSpec:
    only_known(content, f"{where}: bead {name}", "type atoms mass_shares first last frames")
    return BeadSpec(
        name=name, type=str(content.get("type", name)), atoms=tuple(content["atoms"]),
        mass_shares=dict(content["mass_shares"]), first=content.get("first"), last=content.get("last"),
        frames=tuple(tuple(pair) for pair in content.get("frames", [])))


def _end(content: Mapping, where: str) -> EndSpec:
    only_known(content, f"{where}: end", "residue atoms")
    atoms = []
    for name, spec in content["atoms"].items():
        only_known(spec, f"{where}: end: {name}", "bond bead")
        bond, bead = (tuple(spec[key].split(".")) for key in ("bond", "bead"))
        if len(bond) != 2 or len(bead) != 2 or {bond[0], bead[0]} - {"first", "last"}:
            raise ChemistryError(f"{where}: end: {name}: write bond and bead as first.NAME or last.NAME")
        atoms.append(EndAtom(name, bond, bead))
    return EndSpec(content["residue"], tuple(atoms))


def _cg_names(content: Mapping, where: str) -> CGNames:
    only_known(content, f"{where}: cg", "residues namings chain_in_residue max_link_nm")
    return CGNames(
        residues=tuple(map(str, content["residues"])), namings=tuple(dict(n) for n in content["namings"]),
        chain_in_residue=bool(content.get("chain_in_residue", False)),
        max_link_nm=float(content.get("max_link_nm", 1.0)))


def _pairs(items) -> tuple[tuple[str, str], ...]:
    return tuple((str(a), str(b)) for a, b in items)


def _parse_templates(xml: str, where: str) -> dict[str, ResidueTemplate]:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ChemistryError(f"{where}: force field is not XML ({error})") from None
    for tag in ("Script", "InitializationScript", "Include"):
        # A <Script> is Python that openmm.app would run on loading, and models come from strangers.
        if root.find(f".//{tag}") is not None:
            raise ChemistryError(f"{where}: the force field holds a <{tag}>, which is refused: it would run code")
    for element in root.iter():
        # openmm.app evaluates this attribute as Python.
        if element.get("useDispersionCorrection", "True") not in ("True", "False"):
            raise ChemistryError(f"{where}: the force field's useDispersionCorrection must be True or False, "
                                 f"not {element.get('useDispersionCorrection')!r}")
    types = {t.get("name"): t for t in root.findall("./AtomTypes/Type")}
    templates = {}
    for residue in root.findall("./Residues/Residue"):
        names = [a.get("name") for a in residue.findall("Atom")]
        try:
            atoms = tuple(
                TemplateAtom(a.get("name"), types[a.get("type")].get("element"), types[a.get("type")].get("class"),
                             float(types[a.get("type")].get("mass"))) for a in residue.findall("Atom"))
        except KeyError as error:
            raise ChemistryError(f"{where}: residue {residue.get('name')}: unknown atom type {error}") from None
        bonds = tuple((_atom_name(b, "1", names), _atom_name(b, "2", names)) for b in residue.findall("Bond"))
        templates[residue.get("name")] = ResidueTemplate(residue.get("name"), atoms, bonds)
    return templates


def _atom_name(bond: ElementTree.Element, end: str, names: list[str]) -> str:
    name = bond.get(f"atomName{end}")
    return name if name is not None else names[int(bond.get("from" if end == "1" else "to"))]


def _check(chemistry: Chemistry, where: str) -> None:
    """Every name that the chemistry uses must exist, and every atom must belong to exactly one bead."""
    for monomer in chemistry.monomers.values():
        owned = [atom for bead in monomer.beads for atom in bead.atoms]
        found = set()
        for template_name in monomer.residues.values():
            template = chemistry.templates.get(template_name)
            if template is None:
                raise ChemistryError(f"{where}: monomer {monomer.name}: the force field has no residue {template_name}")
            names = {atom.name for atom in template.atoms}
            odd = sorted(names - set(owned)) or sorted({a for a in owned if owned.count(a) > 1})
            if odd:
                raise ChemistryError(f"{where}: monomer {monomer.name}: atoms {', '.join(odd)} are not owned by "
                                     f"exactly one bead of residue {template_name}")
            found |= names
        if set(owned) - found:
            raise ChemistryError(f"{where}: monomer {monomer.name}: atoms {', '.join(sorted(set(owned) - found))} are "
                                 f"in none of its residues {', '.join(monomer.residues.values())}")
        beads = {bead.name for bead in monomer.beads}
        atoms = set(owned)
        _check_references(chemistry, monomer, where)
        for bead in monomer.beads:
            for shares in (bead.mass_shares, bead.first, bead.last):
                _check_shares(shares, atoms, f"{where}: monomer {monomer.name}: bead {bead.name}")
        for naming in chemistry.cg.namings:
            if set(naming) != beads and len(chemistry.monomers) == 1:
                raise ChemistryError(f"{where}: cg: a naming must name the beads {', '.join(sorted(beads))}")
    for key, value, known in (("constraints", chemistry.constraints, CONSTRAINTS),
                              ("nonbonded: method", chemistry.nonbonded.method, METHODS),
                              ("implicit_solvent", chemistry.implicit_solvent, (None, *IMPLICIT_SOLVENTS))):
        if value not in known:
            raise ChemistryError(f"{where}: {key} is {value!r}; known: {', '.join(filter(None, known))}")
    if chemistry.end and chemistry.end.residue not in chemistry.templates:
        raise ChemistryError(f"{where}: end: the force field has no residue {chemistry.end.residue}")


def _check_references(chemistry: Chemistry, monomer: MonomerSpec, where: str) -> None:
    """Atoms and beads that a monomer names, its own or (with a sign) those of a neighbour, must exist."""
    atoms, beads = ({m.name: {x for bead in m.beads for x in (bead.atoms if of_atoms else (bead.name,))}
                     for m in chemistry.monomers.values()} for of_atoms in (True, False))
    used = [("links", monomer.links, atoms), ("bead_bonds", monomer.bead_bonds, beads),
            ("frames", [pair for bead in monomer.beads for pair in bead.frames], beads),
            ("no_nonbonded", monomer.no_nonbonded, atoms),
            ("no_nonbonded_within", [monomer.no_nonbonded_within], beads),
            ("equivalent", [a + b for a, b in monomer.equivalent], atoms),
            ("stereocentres", [(c.centre, *c.neighbours) for c in monomer.stereocentres], atoms)]
    for key, groups, names in used:
        for ref in (ref for group in groups for ref in group):
            known = set().union(*names.values()) if ref[:1] in ("+", "-") else names[monomer.name]
            if ref.lstrip("+-") not in known:
                raise ChemistryError(f"{where}: monomer {monomer.name}: {key}: there is no {ref}")
    if monomer.placement:
        closing = chemistry.end.atoms if chemistry.end else ()
        ends = {side: {atom.name for atom in closing if atom.bond[0] == side} for side in ("first", "last")}
        check_placement(monomer.placement, atoms[monomer.name], beads[monomer.name], set().union(*atoms.values()),
                        set().union(*beads.values()), ends, f"{where}: monomer {monomer.name}")
    for centre in monomer.stereocentres:
        if centre.sign not in (1, -1) or centre.pattern not in ("constant", "alternate"):
            raise ChemistryError(f"{where}: monomer {monomer.name}: stereocentres: {centre.centre}: sign is 1 or -1, "
                                 "pattern is constant or alternate")


def _check_shares(shares: Mapping[str, float] | None, atoms: set[str], where: str) -> None:
    for ref, share in (shares or {}).items():
        if ref.lstrip("+-") not in atoms:
            raise ChemistryError(f"{where}: mass share of an unknown atom {ref}")
        if not 0 < float(share) <= 1:
            raise ChemistryError(f"{where}: the mass share of {ref} is {share}; it must lie in (0, 1]")
