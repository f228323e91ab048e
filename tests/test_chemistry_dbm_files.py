"""Chemistries from .map, .itp and force field text, and what they cannot say."""

from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import unit

from openmm_backmap.chemistry import build_target, create_system, load_chemistry, parse_chemistry
from openmm_backmap.chemistry.dbm_files import chemistry_from_dbm
from openmm_backmap.errors import ChemistryError, InputError
from openmm_backmap.geometry.periodic import make_whole

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published reference structures are not at {DATA}")

# A made-up acid chloride: Cl-C(=O)-C-C, hydrogens on the last two carbons left out but for one.
MAP = """
[map]
1 Cl   1 T
2 C_X  1 T
3 O    1 T
4 C    2 M
5 C    3 T
6 H    3 T
[/map]
[align]
; bead fixpoint
1 3
2 1
3 2
[/align]
[mult]
1 2
[/mult]
"""
ITP = """
; a comment
[ moleculetype ]
; Name nrexcl
ACX    3
[ atoms ]
; nr type resnr residue atom cgnr charge mass
1 Cl  1 ACX CL1 1 -0.10 35.45
2 C_X 1 ACX C2  1  0.40 12.011
3 O   1 ACX O3  1 -0.40 15.999
4 C   1 ACX C4  2  0.05
5 C   1 ACX C5  3 -0.05
6 H   1 ACX H6  3  0.10 1.008
[ bonds ]
1 2 1
2 3 1 0.120 400000
2 4 2 0.150 6.0e6    ; quartic
4 5 1
5 6 1
[ angles ]
1 2 3 1
1 2 4 2 112.0 500.0  ; cosine
3 2 4 1 124.0 450.0
2 4 5 1 110.0 480.0
4 5 6 1 109.5 400.0
[ dihedrals ]
1 2 4 5 1 0.0 2.0 3
1 2 4 5 1 180.0 1.5 1
2 4 5 6 9 0.0 1.0 3
[ dihedrals ]
2 1 3 4 2 0.0 160.0
[ exclusions ]
1 5 6
"""
FF = """
[atom_types]
;name channel mass charge sigma epsilon
Cl  -1 35.45  0.0 0.34 1.10
C_X -1 12.011 0.0 0.33 0.35
O   -1 15.999 0.0 0.29 0.80
C   -1 12.011 0.0 0.32 0.35
H   -1 1.008  0.0 0.23 0.31
[/atom_types]
[bond_types]
C_X Cl 0 1 0.178 1000.0
C   C  0 1 0.153 1000.0
C   H  0 1 0.110 1000.0
[/bond_types]
[angle_types]
O C_X Cl 0 1 121.0 520.0
[/angle_types]
"""
CG_ITP = """
[moleculetype]
ACX 2
[atoms]
1 T 1 ACX P1 1 0.0
2 M 1 ACX Q1 2 0.0
3 T 1 ACX P2 3 0.0
"""


@pytest.fixture
def files(tmp_path):
    """Writes the four files with some text replaced, and returns the path of the .map."""
    def write(*changes: tuple[str, str]) -> Path:
        for name, text in {"acx.map": MAP, "aa_acx.itp": ITP, "ff2.txt": FF, "cg_acx.itp": CG_ITP}.items():
            for old, new in changes:
                text = text.replace(old, new)
            (tmp_path / name).write_text(text)
        return tmp_path / "acx.map"
    return write


def energies(system, positions):
    """Energy (kJ/mol) by name of force, on OpenMM's reference platform."""
    for k, force in enumerate(system.getForces()):
        force.setForceGroup(k)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    return {force.getName(): context.getState(getEnergy=True, groups={k}).getPotentialEnergy().value_in_unit(
        unit.kilojoule_per_mole) for k, force in enumerate(system.getForces())}


def test_files_beside_the_map_become_a_chemistry(files):
    chemistry = load_chemistry(files())
    assert (chemistry.name, chemistry.constraints) == ("ACX", "all-bonds")
    assert chemistry.type_classes == ("C", "C_X", "Cl", "H", "O") and chemistry.bead_types == ("M", "T")
    target = build_target(chemistry, [["ACX"], ["ACX"]])
    assert target.atom_names[:6] == ("CL1", "C2", "O3", "C4", "C5", "H6")
    assert target.elements[:6] == ("Cl", "C", "O", "C", "C", "H")
    assert target.bead_of_atom[:6].tolist() == [0, 0, 0, 1, 2, 2]
    assert target.bead_bonds[:2].tolist() == [[0, 1], [1, 2]]
    assert target.bead_frame[:3].tolist() == [[2, 1], [0, 2], [1, 0]]
    masses = np.array([35.45, 12.011, 15.999])
    assert target.mapping.toarray()[0, :3] == pytest.approx(masses / masses.sum())
    assert target.excluded.tolist() == [[0, 4], [0, 5], [6, 10], [6, 11]]
    assert chemistry.cg.namings == ({"P1": "P1", "Q1": "Q1", "P2": "P2"},) and chemistry.cg.residues == ("ACX",)


def test_texts_alone_give_the_chemistry_back(files):
    chemistry = load_chemistry(files())
    again = parse_chemistry(chemistry.source, chemistry.force_field_xml)
    assert again == chemistry
    assert chemistry.source.startswith("# Made from acx.map, aa_acx.itp, ff2.txt.\n")
    assert "Bonds of function 2 are made harmonic" in chemistry.source


def dihedral(x):
    b1, b2, b3 = x[1] - x[0], x[2] - x[1], x[3] - x[2]
    n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
    return np.arctan2(np.linalg.norm(b2) * (b1 @ n2), n1 @ n2)


def angle(x):
    a, b = x[0] - x[1], x[2] - x[1]
    return np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_energy_is_that_of_the_terms_written_down(files):
    chemistry = chemistry_from_dbm(files(), files().parent / "aa_acx.itp", files().parent / "ff2.txt",
                                   constraints="none")
    x = np.array([[0.0, 0.02, 0.0], [0.17, 0.0, 0.01], [0.24, -0.1, 0.0], [0.25, 0.13, 0.0], [0.4, 0.14, 0.03],
                  [0.44, 0.22, 0.1]])
    found = energies(create_system(build_target(chemistry, [["ACX"]]), None), x)
    bonds = [(0, 1, 0.178, 1000.0), (1, 2, 0.12, 4e5), (1, 3, 0.15, 2 * 6e6 * 0.15 ** 2), (3, 4, 0.153, 1000.0),
             (4, 5, 0.11, 1000.0)]
    angles = [(0, 1, 2, 121.0, 520.0), (0, 1, 3, 112.0, 500.0 * np.sin(np.radians(112)) ** 2), (2, 1, 3, 124.0, 450.0),
              (1, 3, 4, 110.0, 480.0), (3, 4, 5, 109.5, 400.0)]
    phi, psi = dihedral(x[[0, 1, 3, 4]]), dihedral(x[[1, 3, 4, 5]])
    wanted = {
        "HarmonicBondForce": sum(k / 2 * (np.linalg.norm(x[i] - x[j]) - r) ** 2 for i, j, r, k in bonds),
        "HarmonicAngleForce": sum(k / 2 * (angle(x[[a, b, c]]) - np.radians(t)) ** 2 for a, b, c, t, k in angles),
        "PeriodicTorsionForce": 2 * (1 + np.cos(3 * phi)) + 1.5 * (1 + np.cos(phi - np.pi)) + 1 + np.cos(3 * psi),
        "CustomTorsionForce": 80.0 * dihedral(x[[1, 0, 2, 3]]) ** 2}
    # Three bonds exclude, and the list excludes atom 1 from 5 and 6: only O3 with H6 is left.
    r, sigma, epsilon = np.linalg.norm(x[2] - x[5]), (0.29 + 0.23) / 2, np.sqrt(0.80 * 0.31)
    wanted["NonbondedForce"] = 4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6) - 138.935456 * 0.04 / r
    assert found == pytest.approx(wanted, rel=1e-5)


def test_nrexcl_two_keeps_pairs_three_bonds_apart(files):
    chemistry = load_chemistry(files(("ACX    3", "ACX    2"), ("1 5 6\n", "")))
    system = create_system(build_target(chemistry, [["ACX"]]), None)
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    kept = {tuple(force.getExceptionParameters(k)[:2]): force.getExceptionParameters(k)[4]._value
            for k in range(force.getNumExceptions()) if force.getExceptionParameters(k)[4]._value}
    assert kept == pytest.approx({(0, 4): np.sqrt(1.10 * 0.35), (1, 5): np.sqrt(0.35 * 0.31),
                                  (2, 4): np.sqrt(0.80 * 0.35)})


def test_mass_shares_replace_those_of_the_map(files):
    folder = files().parent
    chemistry = chemistry_from_dbm(folder / "acx.map", folder / "aa_acx.itp", folder / "ff2.txt",
                                   mass_shares={1: {2: 1}, 2: {4: 1, 5: 0.5}})
    mapping = build_target(chemistry, [["ACX"]]).mapping.toarray()
    assert mapping[0].tolist() == [0, 1, 0, 0, 0, 0]
    assert mapping[1] == pytest.approx([0, 0, 0, 2 / 3, 1 / 3, 0])
    assert mapping[2, 4:] == pytest.approx(np.array([12.011, 1.008]) / 13.019)


def test_without_a_force_field_text_the_topology_must_hold_all(files):
    path = files(("[ moleculetype ]", "[ atomtypes ]\n" + "\n".join(
        f"{name} 6 {mass} 0.0 A 0.3 0.4" for name, mass in (("Cl", 35.45), ("C_X", 12.011), ("O", 15.999),
                                                          ("C", 12.011), ("H", 1.008))) + "\n[ moleculetype ]"))
    (path.parent / "ff2.txt").unlink()
    with pytest.raises(InputError, match="bonds.*no parameters for Cl C_X"):
        load_chemistry(path)
    itp = path.parent / "aa_acx.itp"
    text = itp.read_text()
    for bare, values in (("1 2 1", "0.178 1000"), ("4 5 1", "0.15 1000"), ("5 6 1", "0.11 1000"),
                         ("1 2 3 1", "121 520")):
        text = text.replace(f"{bare}\n", f"{bare} {values}\n")
    itp.write_text(text)
    assert 'sigma="0.3"' in load_chemistry(path).force_field_xml


def test_classes_of_the_map_stand_in_for_unknown_types(files):
    path = files()
    itp = path.parent / "aa_acx.itp"
    itp.write_text(itp.read_text().replace("5 C   1 ACX", "5 CH2 1 ACX"))
    chemistry = load_chemistry(path)
    assert "Lennard-Jones parameters are those of the classes in acx.map." in chemistry.source
    assert chemistry.force_field_xml.count('sigma="0.32"') == 2


@pytest.mark.parametrize("changes, error, words", [
    ([("ACX    3", "ACX    1")], ChemistryError, "nrexcl is 1"),
    ([("[ exclusions ]", "[ pairs ]\n1 5 1\n[ exclusions ]")], ChemistryError, "pairs"),
    ([("[ exclusions ]", "[ constraints ]\n1 5 1 0.2\n[ exclusions ]")], ChemistryError, "constraints"),
    ([("2 3 1 0.120", "2 3 6 0.120")], ChemistryError, "2 3: bond function 6"),
    ([("1 2 4 2 112.0", "1 2 4 5 112.0")], ChemistryError, "1 2 4: angle function 5"),
    ([("1 2 4 2 112.0", "1 2 4 2 180.0")], ChemistryError, "180 degrees cannot be made harmonic"),
    ([("2 4 5 6 9", "2 4 5 6 3")], ChemistryError, "dihedral function 3"),
    ([("2 4 5 6 9", "2 4 6 5 9")], ChemistryError, "not bonded in a row"),
    ([("2 1 3 4 2", "1 2 3 4 2")], ChemistryError, "begin or end with its central atom"),
    ([("2 1 3 4 2 0.0 160.0", "2 1 3 4 2 0.0 160.0\n2 1 3 4 2 0.0 160.0")], ChemistryError, "occurs twice"),
    ([("[ exclusions ]", "#ifdef FLEX\n[ exclusions ]")], InputError, "line .*#ifdef"),
    ([("6 H    3 T\n", "")], InputError, "maps 5 atoms, but .*aa_acx.itp has 6"),
    ([("5 C    3 T\n6 H    3 T", "5 C    4 T\n6 H    4 T")], InputError, "without gaps"),
    ([("5 C    3 T", "5 C")], InputError, "not as expected"),
    ([("ACX C5 ", "ACX C4 ")], InputError, "C4 occur twice"),
    ([("4 5 1\n", "4 9 1\n")], InputError, "4 9: no such atom"),
    ([("4 5 1\n", "4 x 1\n")], InputError, "bonds.*not as expected"),
    ([("H   -1 1.008", "D   -1 1.008")], InputError, "H6: no Lennard-Jones parameters for its type H"),
    ([("ACX    3", "ACX    3\n[ moleculetype ]\nOTHER 3")], InputError, "2 are there"),
    ([("3 T 1 ACX P2 3 0.0", "")], InputError, "cg_acx.itp: has 2 beads, the .map has 3"),
])
def test_what_cannot_be_read_is_refused(files, changes, error, words):
    with pytest.raises(error, match=words) as caught:
        load_chemistry(files(*changes))
    assert "\n" not in str(caught.value) and "acx" in str(caught.value)


def test_missing_and_ambiguous_files_are_named(files):
    path = files()
    (path.parent / "ff3.txt").write_text(FF)
    with pytest.raises(InputError, match="ff2.txt, ff3.txt"):
        load_chemistry(path)
    (path.parent / "ff.txt").write_text(FF)
    load_chemistry(path)
    (path.parent / "aa_acx.itp").rename(path.parent / "acx.itp")
    (path.parent / "cg_acx.itp").unlink()
    assert load_chemistry(path).cg.namings == ({"T1": "T1", "M2": "M2", "T3": "T3"},)
    (path.parent / "acx.itp").unlink()
    with pytest.raises(InputError, match="aa_acx.itp"):
        load_chemistry(path)
    with pytest.raises(InputError, match="aa_none.itp"):
        load_chemistry("none.map")


@needs_data
def test_published_polystyrene_has_the_energy_of_the_shipped_one():
    path = DATA / "sps568" / "aa" / "validation_100.gro"
    lines = path.read_text().splitlines()
    rows = lines[2:2 + 5 * 162]
    atoms = np.array([[float(row[20 + 8 * k:28 + 8 * k]) for k in range(3)] for row in rows])
    b = [float(v) for v in lines[-1].split()]
    box = np.array([[b[0], 0, 0], [b[5], b[1], 0], [b[7], b[8], b[2]]])
    published, shipped = load_chemistry(DATA / "topology" / "PS1.map"), load_chemistry("sps")
    targets = build_target(published, [["PS1"]] * 5), build_target(shipped, [["STY"] * 10] * 5)
    whole = make_whole(atoms, box, targets[1].bonds)
    ours, theirs = (energies(create_system(target, box), whole) for target in targets)
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert ours["HarmonicAngleForce"] > 1000
    # Owners differ only by what the shipped beads share: backbone beads here are centres of their own atoms.
    assert np.array_equal(targets[0].bead_of_atom, targets[1].bead_of_atom)
