import numpy as np
import openmm
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from openmm import app, unit

from openmm_backmap.chemistry import build_target, create_system, load_chemistry, match_atoms, with_box
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.periodic import reduce_box
from openmm_backmap.io.readers import open_cg
from openmm_backmap.io.writers import (
    TrajectoryWriter,
    check_output,
    write_gromacs_topology,
    write_state,
    write_structure,
    write_system,
)

# openmm.app.GromacsTopFile leaves the files open that it reads.
leaves_files_open = pytest.mark.filterwarnings("ignore::ResourceWarning",
                                               "ignore::pytest.PytestUnraisableExceptionWarning")
BOX = reduce_box(np.array([[4.0, 0, 0], [1.5, 4.5, 0], [-1.0, 2.0, 5.0]]))
# Half of the last digit that a format writes, nm.
ROUNDING = {".gro": 5e-4, ".pdb": 5e-5, ".cif": 5e-6, ".pdbx": 5e-6, ".xtc": 6e-4, ".trr": 1e-6, ".dcd": 1e-6}
SEVERAL = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def target():
    return build_target(load_chemistry("sps"), [["STY"] * 2, ["STY"] * 3])


def bead_topology(n_chains=3):
    """Beads without elements, with names that readers like to change."""
    topology = app.Topology()
    for c in range(n_chains):
        chain = topology.addChain()
        residue = topology.addResidue("PS", chain, str(c + 5))
        atoms = [topology.addAtom(name, None, residue) for name in ("B1", "S1", "CA", "1HB", "K1")]
        for a, b in zip(atoms, atoms[1:]):
            topology.addBond(a, b)
    return topology


@st.composite
def any_box(draw):
    a, b, c = (draw(st.floats(2.0, 30.0)) for _ in range(3))
    part = st.floats(-0.49, 0.49)
    return draw(st.sampled_from([None, np.diag([a, b, c]), reduce_box(np.array(
        [[a, 0, 0], [draw(part) * a, b, 0], [draw(part) * a, draw(part) * b, c]]))]))


def same_box(found, box, atol):
    assert (found is None) == (box is None)
    if box is not None:
        np.testing.assert_allclose(found, box, atol=atol)


@pytest.mark.parametrize("kind", [".gro", ".pdb", ".cif"])
@given(x=arrays(float, (15, 3), elements=st.floats(-90, 900)), box=any_box())
@SEVERAL
def test_structures_round_trip(tmp_path, kind, x, box):
    path = tmp_path / f"a{kind}"
    write_structure(path, bead_topology(), x, box, overwrite=True)
    source = open_cg(path)
    frame = next(source.frames())
    np.testing.assert_allclose(frame.positions, x, atol=1.01 * ROUNDING[kind])
    # Angles have two decimals in .pdb files, which moves the ends of vectors of 30 nm by up to 0.006 nm.
    same_box(frame.box, box, {".gro": 1e-5, ".pdb": 0.012, ".cif": 2e-4}[kind])
    assert source.topology.bead_names == ("B1", "S1", "CA", "1HB", "K1") * 3
    assert source.topology.residue_names == ("PS",) * 3 and source.topology.residue_numbers.tolist() == [5, 6, 7]
    if kind != ".gro":
        assert source.topology.chain_of_residue.tolist() == [0, 1, 2]
        bonds = [[5 * c + k, 5 * c + k + 1] for c in range(3) for k in range(4)]
        assert sorted(source.topology.bonds.tolist()) == bonds


@pytest.mark.parametrize("kind", sorted(ROUNDING))
@pytest.mark.parametrize("box", [None, BOX])
def test_many_frames_round_trip(tmp_path, kind, box):
    x = np.random.default_rng(0).uniform(0, 4, (4, 15, 3))
    path, names = tmp_path / f"a{kind}", tmp_path / "names.pdb"
    write_structure(path, bead_topology(), x, box)
    write_structure(names, bead_topology(), x[0], box)
    frames = list(open_cg(path, names).frames())
    np.testing.assert_allclose([f.positions for f in frames], x, atol=ROUNDING[kind])
    for frame in frames:
        same_box(frame.box, box, 0.002 if kind == ".pdb" else 1e-4)
    if kind in (".xtc", ".trr", ".gro", ".pdb"):
        assert [f.time_ps for f in frames] == [0, 1, 2, 3]
    assert [p[0, 0] for p in (f.positions for f in open_cg(path, names).frames(1, 3, 2))] == [
        frames[1].positions[0, 0], frames[3].positions[0, 0]]


def test_boxes_and_times_may_change_from_frame_to_frame(tmp_path):
    x, boxes = np.ones((3, 15, 3)), np.array([np.eye(3) * e for e in (3.0, 4.0, 5.0)])
    for kind in (".gro", ".pdb", ".xtc", ".trr", ".dcd"):
        path, names = tmp_path / f"a{kind}", tmp_path / "n.gro"
        write_structure(names, bead_topology(), x[0] * np.arange(15)[:, None], None, overwrite=True)
        with TrajectoryWriter(path, bead_topology()) as writer:
            for k in range(3):
                writer.write(x[k], boxes[k], 2.5 * k)
        frames = list(open_cg(path, names).frames())
        np.testing.assert_allclose([f.box for f in frames], boxes, atol=1e-5)
        assert [f.time_ps for f in frames] == ([None] * 3 if kind == ".dcd" else [0.0, 2.5, 5.0])


def test_gro_precision(tmp_path):
    x = np.random.default_rng(0).uniform(-4, 40, (15, 3))
    write_structure(tmp_path / "a.gro", bead_topology(), x, BOX, gro_precision=7)
    frame = next(open_cg(tmp_path / "a.gro").frames())
    np.testing.assert_allclose(frame.positions, x, atol=5.1e-8)
    np.testing.assert_allclose(frame.box, BOX, atol=1e-9)


def test_neighbouring_residues_of_equal_name_and_number_stay_apart_in_gro(tmp_path):
    topology = app.Topology()
    for _ in range(3):
        residue = topology.addResidue("OCT", topology.addChain(), "1")
        topology.addAtom("B1", None, residue)
    write_structure(tmp_path / "a.gro", topology, np.zeros((3, 3)), None)
    assert open_cg(tmp_path / "a.gro").topology.residue_numbers.tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", [".gro", ".pdb", ".cif"])
def test_atoms_are_read_back_as_their_target(tmp_path, target, kind):
    x = np.random.default_rng(0).uniform(0, 4, (target.n_atoms, 3))
    write_structure(tmp_path / f"a{kind}", target.topology, x, BOX)
    again = match_atoms(target.chemistry, open_cg(tmp_path / f"a{kind}").topology)
    assert again.chains == target.chains


def test_openmm_reads_what_is_written(tmp_path, target):
    x = np.random.default_rng(0).uniform(0, 4, (target.n_atoms, 3))
    for kind, reader in ((".pdb", app.PDBFile), (".cif", app.PDBxFile)):
        write_structure(tmp_path / f"a{kind}", target.topology, x, BOX)
        found = reader(str(tmp_path / f"a{kind}"))
        assert found.topology.getNumBonds() == len(target.bonds)
        np.testing.assert_allclose(found.getPositions(asNumpy=True).value_in_unit(unit.nanometer), x, atol=6e-5)
    gro = app.GromacsGroFile
    write_structure(tmp_path / "a.gro", target.topology, x, BOX)
    vectors = gro(str(tmp_path / "a.gro")).getPeriodicBoxVectors()
    np.testing.assert_allclose(vectors.value_in_unit(unit.nanometer), BOX, atol=1e-5)


def test_pdb_of_more_than_99999_atoms(tmp_path):
    topology = app.Topology()
    chain = topology.addChain("A")
    atoms = []
    for k in range(10_001):
        residue = topology.addResidue("STY", chain, str(k + 1))
        atoms += [topology.addAtom(name, None, residue) for name in "ABCDEFGHIJ"]
    for a, b in ((0, 1), (99_998, 100_000), (100_002, 100_003)):
        topology.addBond(atoms[a], atoms[b])
    x = np.random.default_rng(0).uniform(0, 30, (len(atoms), 3))
    write_structure(tmp_path / "a.pdb", topology, x, np.eye(3) * 30)
    source = open_cg(tmp_path / "a.pdb")
    assert source.topology.n_beads == 100_010 and source.topology.n_residues == 10_001
    assert source.topology.bonds.tolist() == [[0, 1], [99_998, 100_000], [100_002, 100_003]]
    np.testing.assert_allclose(next(source.frames()).positions, x, atol=5.1e-5)


@pytest.mark.parametrize("position", [np.nan, np.inf, 2e4])
def test_positions_that_cannot_be_written_leave_nothing_behind(tmp_path, position):
    x = np.zeros((15, 3))
    x[4, 1] = position
    with pytest.raises(InputError, match="a.pdb"):
        write_structure(tmp_path / "a.pdb", bead_topology(), x, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, message", [
    ("a.xyz", "unknown ending"), ("no/a.gro", "folder"), ("sub.gro", "is a folder"), ("old.gro", "--overwrite")])
def test_paths_that_are_refused(tmp_path, name, message):
    (tmp_path / "sub.gro").mkdir()
    (tmp_path / "old.gro").write_text("old")
    with pytest.raises(InputError, match=message):
        write_structure(tmp_path / name, bead_topology(), np.zeros((15, 3)), None)
    assert (tmp_path / "old.gro").read_text() == "old"


def test_check_output(tmp_path):
    old = tmp_path / "old.gro"
    assert check_output(old) == old
    old.write_text("")
    check_output(old, overwrite=True)
    with pytest.raises(InputError, match="exists; use --overwrite"):
        check_output(old)


def test_names_too_long_for_a_format(tmp_path):
    topology = app.Topology()
    topology.addAtom("B1", None, topology.addResidue("POLYST", topology.addChain()))
    for kind in (".gro", ".pdb"):
        with pytest.raises(InputError, match="POLYST.*\\.cif"):
            write_structure(tmp_path / f"a{kind}", topology, np.zeros((1, 3)), None)
    write_structure(tmp_path / "a.cif", topology, np.zeros((1, 3)), None)
    assert open_cg(tmp_path / "a.cif").topology.residue_names == ("POLYST",)


@pytest.mark.parametrize("kind", [".xtc", ".dcd", ".trr", ".gro", ".pdb", ".cif"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_trajectory_leaves_the_old_file(tmp_path, kind, error):
    path = tmp_path / f"a{kind}"
    path.write_text("old")
    with pytest.raises(error):
        with TrajectoryWriter(path, bead_topology(), overwrite=True) as writer:
            writer.write(np.zeros((15, 3)), BOX, 0.0)
            raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_trajectory_without_frames_or_of_other_size(tmp_path):
    with pytest.raises(InputError, match="no frame"):
        with TrajectoryWriter(tmp_path / "a.xtc", bead_topology()):
            pass
    with pytest.raises(InputError, match="15 atoms"):
        write_structure(tmp_path / "a.xtc", bead_topology(), np.zeros((2, 14, 3)), None)
    assert not list(tmp_path.iterdir())


def test_trajectory_and_topology_of_other_sizes(tmp_path):
    write_structure(tmp_path / "a.xtc", bead_topology(3), np.zeros((2, 15, 3)), None)
    write_structure(tmp_path / "a.gro", bead_topology(2), np.zeros((10, 3)), None)
    with pytest.raises(InputError, match="a.xtc holds 15 beads, the topology .*a.gro 10"):
        open_cg(tmp_path / "a.xtc", tmp_path / "a.gro")


@pytest.mark.parametrize("kind", [".xtc", ".trr"])
def test_trajectories_that_are_cut_off(tmp_path, kind):
    path, names = tmp_path / f"a{kind}", tmp_path / "a.gro"
    x = np.random.default_rng(0).uniform(0, 4, (3, 15, 3))
    write_structure(path, bead_topology(), x, BOX)
    write_structure(names, bead_topology(), x[0], BOX)
    data = path.read_bytes()
    path.write_bytes(data[:len(data) - 60])
    with pytest.raises(InputError, match=f"a{kind}"):
        list(open_cg(path, names).frames())


def energies(system, x):
    for k, force in enumerate(system.getForces()):
        force.setForceGroup(k)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    return {force.getName(): context.getState(energy=True, groups={k}).getPotentialEnergy()._value
            for k, force in enumerate(system.getForces())}


@pytest.fixture(scope="module")
def melt():
    """Four chains of two lengths, apart and shaken, so that every term has an energy."""
    target = build_target(load_chemistry("sps"), [["STY"] * 3] * 2 + [["STY"] * 2] * 2)
    rng = np.random.default_rng(3)
    x = build_coordinates(target, rng)
    places = np.array([[1, 1, 1], [3, 1, 1], [1, 3, 1], [1, 1, 3]])
    x = x + places[target.molecule_of_atom] + rng.normal(scale=0.004, size=x.shape)
    return target, x, np.eye(3) * 4.0


@leaves_files_open
@pytest.mark.parametrize("flexible", [False, True])
def test_gromacs_topology_has_the_same_energies(tmp_path, melt, flexible):
    target, x, box = melt
    topology = with_box(target.topology, box)
    system = create_system(target, box)
    if flexible:
        bonds = next(f for f in system.getForces() if isinstance(f, openmm.HarmonicBondForce))
        for k in range(system.getNumConstraints()):
            i, j, length = system.getConstraintParameters(k)
            bonds.addBond(i, j, length, 3e5)
    path = tmp_path / "a.top"
    write_gromacs_topology(path, topology, system)
    read = app.GromacsTopFile(str(path), periodicBoxVectors=topology.getPeriodicBoxVectors())
    again = read.createSystem(nonbondedMethod=app.PME, nonbondedCutoff=1.0, removeCMMotion=False)
    assert [a.name for a in read.topology.atoms()] == list(target.atom_names)
    assert [r.name for r in read.topology.residues()] == list(target.residue_names)
    wanted, found = energies(system, x), energies(again, x)
    if flexible:
        assert again.getNumConstraints() == 0
        assert found["HarmonicBondForce"] == pytest.approx(wanted["HarmonicBondForce"], rel=1e-6)
    else:
        assert again.getNumConstraints() == system.getNumConstraints()
        for k in range(again.getNumConstraints()):
            assert again.getConstraintParameters(k) == system.getConstraintParameters(k)
    for ours, theirs in (("HarmonicAngleForce",) * 2, ("PeriodicTorsionForce",) * 2, ("NonbondedForce",) * 2,
                         ("CustomTorsionForce", "HarmonicTorsionForce")):
        assert abs(wanted[ours]) > 1.0
        assert found[theirs] == pytest.approx(wanted[ours], rel=1e-6)


def test_gromacs_topology_shares_molecule_types_and_keeps_exclusions(tmp_path, melt):
    target, _, box = melt
    write_gromacs_topology(tmp_path / "a.top", target.topology, create_system(target, box))
    text = (tmp_path / "a.top").read_text()
    assert text.count("[ moleculetype ]") == 2 and text.endswith("MOL1 2\nMOL2 2\n")
    assert "1 2 no 1.0 1\n" in text and text.count("[ exclusions ]") == 2 and "MOL1 2\n\n[ atoms ]" in text


@leaves_files_open
def test_gromacs_topology_of_scaled_pairs(tmp_path):
    """Butane-like chain with halved 1-4 interactions: [ pairs ] and fudgeQQ carry them."""
    topology = app.Topology()
    residue = topology.addResidue("BUT", topology.addChain())
    atoms = [topology.addAtom(f"C{k}", app.element.carbon, residue) for k in range(4)]
    system, nonbonded, bonds = openmm.System(), openmm.NonbondedForce(), openmm.HarmonicBondForce()
    for k in range(4):
        system.addParticle(12.0)
        nonbonded.addParticle(0.2 * (-1) ** k, 0.3, 0.4)
    for k in range(3):
        topology.addBond(atoms[k], atoms[k + 1])
        bonds.addBond(k, k + 1, 0.15, 2e5)
    nonbonded.createExceptionsFromBonds([(0, 1), (1, 2), (2, 3)], 0.8333, 0.5)
    system.addForce(nonbonded)
    system.addForce(bonds)
    write_gromacs_topology(tmp_path / "a.top", topology, system)
    x = np.array([[0, 0, 0], [0.15, 0, 0], [0.2, 0.14, 0], [0.35, 0.14, 0.05]])
    again = app.GromacsTopFile(str(tmp_path / "a.top")).createSystem(removeCMMotion=False)
    wanted, found = energies(system, x), energies(again, x)
    assert {k: pytest.approx(v, rel=1e-6) for k, v in wanted.items()} == found


def test_gromacs_topology_refuses_what_it_cannot_say(tmp_path, melt):
    target, _, box = melt
    for force, message in ((openmm.CustomExternalForce("x^2"), "CustomExternalForce"),
                           (openmm.CustomTorsionForce("k*cos(theta-theta0)"), "not harmonic")):
        if isinstance(force, openmm.CustomTorsionForce):
            force.addPerTorsionParameter("k")
            force.addPerTorsionParameter("theta0")
        system = create_system(target, box)
        system.addForce(force)
        with pytest.raises(InputError, match=message):
            write_gromacs_topology(tmp_path / "a.top", target.topology, system)
    assert not list(tmp_path.iterdir())


def test_system_and_state(tmp_path, melt):
    target, x, box = melt
    system = create_system(target, box)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    write_system(tmp_path / "system.xml", system)
    write_state(tmp_path / "state.xml", context)
    with pytest.raises(InputError, match="--overwrite"):
        write_state(tmp_path / "state.xml", context)
    again = openmm.XmlSerializer.deserialize((tmp_path / "system.xml").read_text())
    state = openmm.XmlSerializer.deserialize((tmp_path / "state.xml").read_text())
    assert again.getNumConstraints() == system.getNumConstraints()
    np.testing.assert_allclose(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer), x, atol=1e-12)
