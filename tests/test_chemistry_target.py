"""Targets: atom order, ends, frames, hands, the mapping; and the shipped molecules with their force fields."""

import io
import os
import re
from collections import Counter
from pathlib import Path

import networkx as nx
import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_backmap.chemistry import build_target, create_system, load_chemistry, parse_chemistry
from openmm_backmap.errors import ChemistryError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.periodic import make_whole, minimum_image
from tests.test_chemistry_spec import ETHANE_LIKE, FORCE_FIELD, edited

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MOLECULES = {"octane": ("OCT", "octane350", 26, 4), "cumene": ("CUM", "cumene350", 21, 3)}
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published reference structures are not at {DATA}")


@pytest.fixture(scope="module")
def sps():
    return load_chemistry("sps")


def chain(chemistry, *lengths):
    return build_target(chemistry, [["STY"] * n for n in lengths])


def test_ten_monomers_of_polystyrene(sps):
    target = chain(sps, 10)
    assert (target.n_atoms, target.n_beads, len(target.bonds)) == (162, 20, 171)
    assert target.atom_names[:16] == ("HB1", "CB", "HB2", "HA", "CA", "CG", "CD1", "HD1", "CE1", "HE1", "CZ", "HZ",
                                      "CE2", "HE2", "CD2", "HD2")
    assert target.atom_names[16:32] == target.atom_names[:16] and target.atom_names[-2:] == ("H1", "H2")
    assert Counter(target.elements) == {"C": 80, "H": 82}
    assert target.residue_names == ("SPH", *["SPM"] * 8, "SPT", "SPE")
    assert target.masses.sum() == pytest.approx(80 * 12.011 + 82 * 1.008)
    names = [sps.type_classes[t] for t in target.atom_type]
    assert Counter(names) == {"C": 20, "C_AR": 60, "H": 32, "H_AR": 50}


def test_owners_and_kinds(sps):
    target = chain(sps, 3)
    owned = [[target.atom_names[i] for i in np.flatnonzero(target.bead_of_atom == b)] for b in range(6)]
    assert owned[0] == ["HB1", "CB", "HB2", "HA", "CA", "H1"]
    assert owned[2] == owned[0][:-1] and owned[4] == owned[2] + ["H2"]
    assert [len(owned[b]) for b in (1, 3, 5)] == [11] * 3
    assert target.bead_type.tolist() == [0, 1] * 3


def test_ends_close_the_chain(sps):
    target = chain(sps, 2)
    h1, h2 = target.n_atoms - 2, target.n_atoms - 1
    partners = {i: {int(a + b) - i for a, b in target.bonds if i in (a, b)} for i in (h1, h2)}
    assert {target.atom_names[j] for j in partners[h1]} == {"CB"} and partners[h1] == {1}
    assert {target.atom_names[j] for j in partners[h2]} == {"CA"} and partners[h2] == {20}
    degree = np.bincount(target.bonds.ravel(), minlength=target.n_atoms)
    assert degree.max() == 4 and degree.min() == 1
    assert nx.is_connected(nx.Graph(target.bonds.tolist()))


def test_frames_point_to_existing_neighbours(sps):
    target = chain(sps, 3)
    assert target.bead_frame.tolist() == [[1, 2], [0, 2], [3, 4], [2, 4], [5, 2], [4, 2]]
    assert target.bead_bonds.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]
    alone = chain(sps, 1)
    assert alone.bead_frame.tolist() == [[1, -1], [0, -1]]


def test_graph_distances_are_those_of_the_graph(sps):
    target = chain(sps, 3, 2)
    wanted = np.zeros((target.n_atoms, target.n_atoms), dtype=int)
    for i, row in nx.all_pairs_shortest_path_length(nx.Graph(target.bonds.tolist()), cutoff=4):
        for j, distance in row.items():
            wanted[i, j] = distance
    assert np.array_equal(target.graph_distances(4).toarray(), wanted)


def test_hands_alternate_along_the_chain(sps):
    target = chain(sps, 5)
    centres = [target.atom_names[i] for i in target.stereo[:, 0]]
    signs = target.stereo_sign[[name == "CA" for name in centres]]
    # The last CA has no monomer after it.
    assert signs.tolist() == [1, -1, 1, -1]


def test_mapping_is_the_published_one(sps):
    target = chain(sps, 3)
    dense = target.mapping.toarray()
    assert np.allclose(dense.sum(axis=1), 1.0) and (dense >= 0).all()
    weights = {target.atom_names[i] + str(target.residue_of_atom[i]): dense[2, i] for i in np.flatnonzero(dense[2])}
    total = 12.011 + 2 * 1.008 + 12.011 + 1.008
    assert weights == pytest.approx({
        "CB1": 12.011 / total, "HB11": 1.008 / total, "HB21": 1.008 / total,
        "CA0": 6.0055 / total, "HA0": 0.504 / total, "CA1": 6.0055 / total, "HA1": 0.504 / total})
    assert np.flatnonzero(dense[0]).tolist() == [1], "the first backbone bead is its CH2 carbon alone"


def test_chains_of_different_length_share_a_target(sps):
    target = chain(sps, 3, 2, 5)
    alone = [chain(sps, n) for n in (3, 2, 5)]
    assert target.n_atoms == sum(t.n_atoms for t in alone) and target.n_beads == 20
    start = alone[0].n_atoms
    part = slice(start, start + alone[1].n_atoms)
    assert np.array_equal(target.atom_type[part], alone[1].atom_type)
    assert np.array_equal(target.mapping.toarray()[6:10, part], alone[1].mapping.toarray())
    assert target.molecule_of_atom[part].tolist() == [1] * alone[1].n_atoms
    assert target.molecule_of_bead.tolist() == [0] * 6 + [1] * 4 + [2] * 10
    assert target.topology.getNumChains() == 3 and target.topology.getNumBonds() == len(target.bonds)
    assert [r.id for r in list(target.topology.residues())[:5]] == ["1", "2", "3", "4", "1"]


def test_pairs_without_nonbonded_interaction(sps):
    target = chain(sps, 2)
    assert len(target.excluded) == 2 * 55
    assert {target.bead_of_atom[i] for i in target.excluded.ravel()} == {1, 3}
    # Named pairs are added once, whichever way round they are written.
    small = parse_chemistry(edited(monomers__DI__no_nonbonded=[["H1", "X2"], ["X2", "H1"]]), FORCE_FIELD)
    assert build_target(small, [["DI"], ["DI"]]).excluded.tolist() == [[1, 2], [4, 5]]


def test_named_pairs_lose_their_nonbonded_energy():
    plain = parse_chemistry(ETHANE_LIKE, FORCE_FIELD.replace('from="0" to="2"', 'from="1" to="2"').replace(
        'class1="C" class2="C"', 'class1="H" class2="C"'))
    assert build_target(plain, [["DI"]]).excluded.shape == (0, 2)
    chemistry = parse_chemistry(edited(monomers__DI__no_nonbonded=[["X1", "X2"]]), FORCE_FIELD)
    system = create_system(build_target(chemistry, [["DI"]]), None)
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    pairs = {tuple(force.getExceptionParameters(k)[:2]): force.getExceptionParameters(k)[4]._value
             for k in range(force.getNumExceptions())}
    assert pairs[0, 2] == 0.0


def test_unknown_monomers_and_impossible_chains_are_refused(sps):
    with pytest.raises(ChemistryError, match="no monomer 'XYZ'; known: STY"):
        build_target(sps, [["STY", "XYZ"]])
    with pytest.raises(ChemistryError, match="molecule of its own"):
        build_target(load_chemistry("octane"), [["OCT", "OCT"]])


def energies(system, positions, groups=None):
    """Energy (kJ/mol) by name of force, on OpenMM's reference platform."""
    for k, force in enumerate(system.getForces()):
        force.setForceGroup(k)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    return {force.getName(): context.getState(getEnergy=True, groups={k}).getPotentialEnergy().value_in_unit(
        unit.kilojoule_per_mole) for k, force in enumerate(system.getForces())}


@pytest.fixture(scope="module")
def charmm36():
    """OpenMM's own CHARMM36 with the residues of the shipped files, under other names."""
    residues = "".join(re.search("<Residues>(.*)</Residues>", load_chemistry(name).force_field_xml, re.S)[1]
                       for name in MOLECULES)
    residues = re.sub('Residue name="', 'Residue name="OWN_', residues)
    folder = Path(app.__file__).parent / "data"
    return app.ForceField(os.fspath(folder / "charmm36.xml"),
                          io.StringIO(f"<ForceField><Residues>{residues}</Residues></ForceField>"))


@pytest.mark.parametrize("name", MOLECULES)
@pytest.mark.parametrize("box", [None, 2.5 * np.eye(3)], ids=["vacuum", "periodic"])
def test_force_field_equals_charmm36(name, box, charmm36):
    chemistry, rng = load_chemistry(name), np.random.default_rng(1)
    target = build_target(chemistry, [[MOLECULES[name][0]]] * 3)
    positions = build_coordinates(target, rng) + np.array([0.0, 0.7, 1.4])[target.molecule_of_atom][:, None]
    positions += rng.normal(scale=0.004, size=positions.shape)
    system = create_system(target, box)
    topology = target.topology
    settings = dict(nonbondedMethod=app.NoCutoff) if box is None else dict(
        nonbondedMethod=app.PME, nonbondedCutoff=1.0 * unit.nanometer)
    reference = charmm36.createSystem(topology, constraints=app.HBonds, removeCMMotion=False, **settings,
                                      residueTemplates={r: f"OWN_{r.name}" for r in topology.residues()})
    for force in reference.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setUseDispersionCorrection(True)
        elif isinstance(force, openmm.CustomNonbondedForce):
            force.setUseLongRangeCorrection(True)
    assert system.getNumConstraints() == reference.getNumConstraints() > 0
    ours, theirs = energies(system, positions), Counter(energies(reference, positions))
    theirs["NonbondedForce"] += theirs.pop("LennardJones") + theirs.pop("LennardJones14")
    assert set(ours) == {"HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce", "NonbondedForce"}
    for force, energy in ours.items():
        assert energy == pytest.approx(theirs.pop(force), rel=1e-6), force
    assert all(value == 0 for value in theirs.values())


def test_lennard_jones_exceptions_of_type_pairs_are_refused():
    xml = load_chemistry("octane").force_field_xml.replace(
        "  </LennardJonesForce>", '<NBFixPair type1="HA2" type2="CT2" sigma="0.3" epsilon="0.1"/></LennardJonesForce>')
    chemistry = parse_chemistry(load_chemistry("octane").source, xml)
    with pytest.raises(ChemistryError, match="NBFixPair"):
        create_system(build_target(chemistry, [["OCT"]]), None)


@pytest.mark.parametrize("name", MOLECULES)
def test_molecules_are_built_with_the_right_geometry(name):
    monomer, _, n_atoms, n_beads = MOLECULES[name]
    chemistry = load_chemistry(name)
    target = build_target(chemistry, [[monomer]] * 4)
    assert (target.n_atoms, target.n_beads) == (4 * n_atoms, 4 * n_beads)
    assert np.allclose(target.mapping.sum(axis=1), 1.0)
    x = build_coordinates(target, np.random.default_rng(7))
    lengths = np.linalg.norm(x[target.bonds[:, 0]] - x[target.bonds[:, 1]], axis=1)
    assert lengths.min() > 0.105 and lengths.max() < 0.156
    hands = np.linalg.det(x[target.stereo[:, 1:]] - x[target.stereo[:, :1]])
    assert np.array_equal(np.sign(hands), target.stereo_sign)
    apart = np.linalg.norm(x[:, None] - x[None], axis=-1)
    same = target.molecule_of_atom[:, None] == target.molecule_of_atom
    far = same & (target.graph_distances(2).toarray() == 0) & ~np.eye(target.n_atoms, dtype=bool)
    assert apart[far].min() > 0.12, "no atom lies on another"
    if name == "cumene":
        ring = np.flatnonzero(target.bead_of_atom == 1)
        assert np.linalg.svd(x[ring] - x[ring].mean(axis=0))[1][-1] < 1e-6, "a phenyl group is flat"


def read_gro(path):
    lines = path.read_text().splitlines()
    rows = lines[2:2 + int(lines[1])]
    positions = np.array([[float(row[20 + 8 * k:28 + 8 * k]) for k in range(3)] for row in rows])
    return positions, np.diag([float(v) for v in lines[2 + len(rows)].split()[:3]])


@needs_data
@pytest.mark.parametrize("name", MOLECULES)
def test_published_beads_follow_from_published_atoms(name):
    monomer, folder, n_atoms, _ = MOLECULES[name]
    for path in sorted((DATA / folder / "aa").glob("*.gro"))[:2]:
        atoms, box = read_gro(path)
        beads, _ = read_gro(DATA / folder / "cg" / path.name)
        target = build_target(load_chemistry(name), [[monomer]] * (len(atoms) // n_atoms))
        whole = make_whole(atoms, box, target.bonds)
        assert np.abs(minimum_image(target.mapping @ whole - beads, box)).max() < 0.0008
        hands = np.linalg.det(whole[target.stereo[:, 1:]] - whole[target.stereo[:, :1]])
        assert np.array_equal(np.sign(hands), target.stereo_sign)


@needs_data
@pytest.mark.parametrize("name", MOLECULES)
def test_energies_of_the_published_liquid_are_sensible(name):
    monomer, folder, n_atoms, _ = MOLECULES[name]
    atoms, box = read_gro(min((DATA / folder / "aa").glob("*.gro")))
    n = len(atoms) // n_atoms
    target = build_target(load_chemistry(name), [[monomer]] * n)
    whole = make_whole(atoms, box, target.bonds)
    together = create_system(target, box)
    for k, force in enumerate(together.getForces()):
        force.setForceGroup(k)
    context = openmm.Context(together, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("CPU"))
    context.setPositions(whole)
    energy = {force.getName(): context.getState(getEnergy=True, groups={k}).getPotentialEnergy()._value / n
              for k, force in enumerate(together.getForces())}
    # Per molecule at 350 K, kJ/mol: equipartition for bonded terms, cohesion of a liquid for the rest.
    for force in ("HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce"):
        assert 5 < energy[force] < 60, force
    single = build_target(load_chemistry(name), [[monomer]])
    alone = np.mean([energies(create_system(single, None), x)["NonbondedForce"]
                     for x in whole.reshape(n, n_atoms, 3)[:10]])
    assert -55 < energy["NonbondedForce"] - alone < -20
