"""Reading chemistries: what is refused and with which words, and what the shipped ones hold."""

import re
import xml.etree.ElementTree as ElementTree
from importlib import resources
from pathlib import Path

import pytest
import yaml

from openmm_backmap.chemistry import build_target, load_chemistry, parse_chemistry
from openmm_backmap.errors import BackmapError, ChemistryError, InputError, UnknownNameError

ETHANE_LIKE = """
name: pair
force_field: pair.xml
temperature_K: 300
monomers:
  DI:
    residues: {single: DI}
    beads:
      P: {atoms: [X1, H1], mass_shares: {X1: 1}, frames: [[Q]]}
      Q: {atoms: [X2], mass_shares: {X2: 1, X1: 0.5}, frames: [[P]]}
    bead_bonds: [[P, Q]]
cg: {residues: [DI], namings: [{P: P1, Q: Q1}]}
"""
FORCE_FIELD = """
<ForceField>
  <AtomTypes>
    <Type name="X" class="C" element="C" mass="12.0"/>
    <Type name="H" class="H" element="H" mass="1.0"/>
  </AtomTypes>
  <Residues>
    <Residue name="DI">
      <Atom name="X1" type="X" charge="0.0"/><Atom name="H1" type="H" charge="0.0"/>
      <Atom name="X2" type="X" charge="0.0"/>
      <Bond atomName1="X1" atomName2="H1"/><Bond from="0" to="2"/>
    </Residue>
  </Residues>
  <HarmonicBondForce>
    <Bond class1="C" class2="C" length="0.15" k="1000"/><Bond class1="C" class2="H" length="0.11" k="1000"/>
  </HarmonicBondForce>
  <NonbondedForce coulomb14scale="1.0" lj14scale="1.0">
    <UseAttributeFromResidue name="charge"/>
    <Atom class="C" sigma="0.3" epsilon="0.2"/><Atom class="H" sigma="0.2" epsilon="0.1"/>
  </NonbondedForce>
</ForceField>
"""


def edited(**changes) -> str:
    """The small chemistry with entries changed by dotted path; None takes an entry away."""
    content = yaml.safe_load(ETHANE_LIKE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = content
        for name in parents:
            place = place[name]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return yaml.safe_dump(content)


def test_small_chemistry_is_read_with_its_defaults():
    chemistry = parse_chemistry(ETHANE_LIKE, FORCE_FIELD)
    monomer = chemistry.monomers["DI"]
    assert [bead.type for bead in monomer.beads] == ["P", "Q"]
    assert chemistry.constraints == "none" and chemistry.nonbonded.method == "PME" and chemistry.end is None
    assert chemistry.templates["DI"].bonds == (("X1", "H1"), ("X1", "X2"))
    assert chemistry.type_classes == ("C", "H") and chemistry.bead_types == ("P", "Q")
    assert parse_chemistry(chemistry.source, chemistry.force_field_xml) == chemistry


@pytest.mark.parametrize("changes, words", [
    ({"colour": "blue"}, "'colour'"),
    ({"monomers__DI__weight": 1}, "'weight'"),
    ({"monomers__DI__beads__P__mass": 1}, "'mass'"),
    ({"cg__names": []}, "'names'"),
    ({"nonbonded": {"cutoff": 1}}, "'cutoff'"),
    ({"temperature_K": None}, "temperature_K"),
    ({"monomers__DI__residues": {"single": "XX"}}, "no residue XX"),
    ({"monomers__DI__beads__Q__atoms": ["X2", "X1"]}, "X1 are not owned by exactly one bead"),
    ({"monomers__DI__beads__Q__atoms": []}, "X2 are not owned by exactly one bead"),
    ({"monomers__DI__beads__P__mass_shares": {"X9": 1}}, "unknown atom X9"),
    ({"monomers__DI__beads__P__mass_shares": {"X1": 1.5}}, r"1.5; it must lie in \(0, 1\]"),
    ({"monomers__DI__beads__P__frames": [["R"]]}, "frames: there is no R"),
    ({"cg__namings": [{"P": "P1"}]}, "must name the beads P, Q"),
    ({"monomers__DI__bead_bonds": [["P", "R"]]}, "bead_bonds: .*R"),
    ({"monomers__DI__links": [["X1", "+X7"]]}, "links: .*X7"),
    ({"monomers__DI__no_nonbonded": [["X1", "X7"]]}, "no_nonbonded: .*X7"),
    ({"monomers__DI__no_nonbonded_within": ["R"]}, "no_nonbonded_within: .*R"),
    ({"monomers__DI__equivalent": [[["X1"], ["X7"]]]}, "equivalent: .*X7"),
    ({"monomers__DI__stereocentres": [{"centre": "X1", "neighbours": ["H1", "X2", "X7"], "sign": 1}]},
     "stereocentres: .*X7"),
    ({"monomers__DI__stereocentres": [{"centre": "X1", "neighbours": ["H1", "X2", "+X1"], "sign": 2}]}, "sign"),
    ({"monomers__DI__placement": {"mean": {}}}, "placement: unknown entry 'mean'"),
    ({"monomers__DI__placement": {"means": {"X9": {"P": 1}}}}, "means: there is no atom X9"),
    ({"monomers__DI__placement": {"means": {"X1": {"R": 1}}}}, "means: X1: there is no R"),
    ({"monomers__DI__placement": {"means": {"X1": {"P": 0}}}}, "weight of P is 0; it must be positive"),
    ({"monomers__DI__placement": {"means": {"X1": {"P": "much"}}}}, "'much' is no weight"),
    ({"monomers__DI__placement": {"means": {"X1": {"+P": 1}}}}, "one bead at least must be of the monomer itself"),
    ({"monomers__DI__placement": {"corrections": [{"tras": ["H1", "X1", "X2"]}]}}, "unknown entry 'tras'"),
    ({"monomers__DI__placement": {"corrections": [{"cis": ["H1"], "out": ["H1"]}]}}, "write each as 'KIND: "),
    ({"monomers__DI__placement": {"corrections": [{"trans": ["H1", "X1", "X2"]}]}}, "trans names 4 atoms"),
    ({"monomers__DI__placement": {"corrections": [{"out": ["H1", "X1", "X7"]}]}}, "out H1, X1, X7: there is no X7"),
    ({"monomers__DI__placement": {"first": [{"out": ["-H1", "X1", "X2"]}]}}, "must be of the monomer itself"),
    ({"monomers__DI__placement": 3}, "not laid out"),
    ({"constraints": "some"}, "constraints .*some"),
    ({"nonbonded": {"method": "Magic"}}, "method .*Magic"),
    ({"monomers": []}, "not laid out"),
])
def test_mistakes_are_refused_by_name(changes, words):
    with pytest.raises(ChemistryError, match=words) as caught:
        parse_chemistry(edited(**changes), FORCE_FIELD, where="mine.yaml")
    assert str(caught.value).startswith("mine.yaml") and "\n" not in str(caught.value)


@pytest.mark.parametrize("element", [
    "<Script>raise SystemExit</Script>", "<InitializationScript>raise SystemExit</InitializationScript>",
    '<Include file="other.xml"/>'])
def test_code_in_the_force_field_is_refused(element):
    with pytest.raises(ChemistryError, match="refused"):
        parse_chemistry(ETHANE_LIKE, FORCE_FIELD.replace("<AtomTypes>", element + "<AtomTypes>"))


def test_attribute_that_openmm_evaluates_is_refused():
    text = FORCE_FIELD.replace('lj14scale="1.0"', 'lj14scale="1.0" useDispersionCorrection="exit(3)"')
    with pytest.raises(ChemistryError, match="useDispersionCorrection"):
        parse_chemistry(ETHANE_LIKE, text)
    parse_chemistry(ETHANE_LIKE, text.replace("exit(3)", "False")).force_field()


@pytest.mark.parametrize("xml, words", [
    ("<ForceField>", "not XML"), (FORCE_FIELD.replace('type="H"', 'type="D"'), "unknown atom type 'D'")])
def test_broken_force_fields_are_refused(xml, words):
    with pytest.raises(ChemistryError, match=words):
        parse_chemistry(ETHANE_LIKE, xml)


@pytest.mark.parametrize("text", ["a: [", "just words", "- a\n- b"])
def test_files_that_are_no_chemistry_are_refused(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ChemistryError, match="x.yaml"):
        load_chemistry(tmp_path / "x.yaml")


def test_chemistry_is_read_from_files_side_by_side(tmp_path):
    (tmp_path / "pair.yaml").write_text(ETHANE_LIKE)
    with pytest.raises(InputError, match="pair.xml does not exist"):
        load_chemistry(tmp_path / "pair.yaml")
    (tmp_path / "pair.xml").write_text(FORCE_FIELD)
    assert load_chemistry(tmp_path / "pair.yaml").name == "pair"
    (tmp_path / "bare.yaml").write_text(edited(force_field=None))
    with pytest.raises(ChemistryError, match="no force_field"):
        load_chemistry(str(tmp_path / "bare.yaml"))


def test_unknown_names_say_what_exists():
    with pytest.raises(UnknownNameError, match="did you mean 'octane'.*cumene, octane, sps, tmbt"):
        load_chemistry("octan")
    with pytest.raises(BackmapError):
        load_chemistry("no/such.yaml")


@pytest.mark.parametrize("name", ["sps", "octane", "cumene", "tmbt"])
def test_shipped_chemistries_share_vocabularies_and_carry_no_charge(name):
    chemistry = load_chemistry(name)
    assert chemistry.name == name
    assert set(chemistry.type_classes) <= {*load_chemistry("sps").type_classes, "N_AR"}
    assert set(chemistry.bead_types) <= {"A", "B"}
    folder = resources.files("openmm_backmap.chemistry")
    residues = ElementTree.fromstring((folder / f"{name}.xml").read_text()).findall("./Residues/Residue")
    for residue in residues:
        assert sum(float(atom.get("charge")) for atom in residue.findall("Atom")) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("example, chain, n_atoms", [(0, ["BUT"], 14), (1, ["ETH"] * 4, 26)])
def test_examples_of_the_manual_are_chemistries(example, chain, n_atoms):
    manual = (Path(__file__).resolve().parents[1] / "docs" / "chemistry.md").read_text()
    texts, xmls = (re.findall(f"```{kind}\n(.*?)```", manual, re.S) for kind in ("yaml", "xml"))
    target = build_target(parse_chemistry(texts[example], xmls[example]), [chain])
    assert target.n_atoms == n_atoms and (target.bead_of_atom >= 0).all()
    assert target.mapping.sum(axis=1) == pytest.approx(1.0)


def test_templates_of_a_monomer_may_differ_in_their_atoms():
    content = yaml.safe_load(ETHANE_LIKE)
    content["monomers"]["DI"]["beads"]["P"]["atoms"].append("H9")
    with pytest.raises(ChemistryError, match="atoms H9 are in none of its residues DI"):
        parse_chemistry(yaml.safe_dump(content), FORCE_FIELD)


def test_an_implicit_solvent_is_one_that_openmm_has():
    chignolin = load_chemistry("chignolin")
    assert chignolin.implicit_solvent == "amber99_obc.xml" and load_chemistry("sps").implicit_solvent is None
    source = chignolin.source.replace("amber99_obc.xml", "../../secret.xml")
    with pytest.raises(ChemistryError, match="implicit_solvent is '../../secret.xml'; known: amber96_obc.xml"):
        parse_chemistry(source, chignolin.force_field_xml)
