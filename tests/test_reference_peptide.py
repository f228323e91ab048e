"""Trajectories of peptides from nothing: force field, solvent, what is written, and going on after a kill."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from openmm_backmap.chemistry import build_target, create_system, load_chemistry
from openmm_backmap.cli.app import app
from openmm_backmap.energy.openmm_energy import energies_by_force, forces
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import inverted_centres
from openmm_backmap.io.atomistic import open_atoms
from openmm_backmap.io.readers import open_cg
from openmm_backmap.reference import exchange, peptide
from openmm_backmap.reference.exchange import ExchangeSettings, run_exchange, sampled_start
from openmm_backmap.reference.hairpins import HAIRPINS, backbone_pairs, bonds_kept, drawn_together
from openmm_backmap.reference.peptide import RECIPES, grown_peptide, peptide_recipe, run_peptide
from openmm_backmap.reference.solution import add_water, explicit_system, implicit_system
from openmm_backmap.reference.stages import defects, peptide_torsions

SHORT = replace(RECIPES["adp"], n_waters=0, edge_nm=0.0, equilibrate_ps=0.1, interval_ps=0.02, n_snapshots=4)


def target_of(name):
    return build_target(load_chemistry(name), [RECIPES[name].sequence])


@pytest.fixture(scope="module", params=["adp", "chignolin"])
def grown(request):
    target = target_of(request.param)
    return target, grown_peptide(target, np.random.default_rng(1), None, lambda *_: None)


def test_grown_peptides_have_the_right_hands_and_no_cis_peptide_bond(grown):
    target, x = grown
    assert not inverted_centres(target, x).any() and len(target.stereo) == {22: 1, 166: 11}[target.n_atoms]
    assert (np.abs(peptide_torsions(target, x)) > 90).all()
    assert peptide_torsions(target, x).shape == (len(target.residue_names) - 1,)
    assert not defects(target, x, None)
    assert "inverted" in defects(target, x * [1, 1, -1], None)


def test_energies_are_those_of_the_whole_force_field(grown):
    from openmm import app as openmm_app

    target, x = grown
    whole = openmm_app.ForceField("amber99sbildn.xml").createSystem(
        target.topology, constraints=openmm_app.HBonds, rigidWater=False, removeCMMotion=False)
    found = energies_by_force(create_system(target, None), x, None, "Reference")
    assert found == pytest.approx(energies_by_force(whole, x, None, "Reference"), abs=1e-6)
    solvent = openmm_app.ForceField("amber99sbildn.xml", "amber99_obc.xml").createSystem(
        target.topology, constraints=openmm_app.HBonds, removeCMMotion=False)
    assert forces(implicit_system(target), x, None, "Reference") == pytest.approx(
        forces(solvent, x, None, "Reference"), abs=1e-6)


def test_a_cis_peptide_bond_is_seen(grown):
    target, x = grown
    turned, (first, second) = x.copy(), target.residue_of_atom.searchsorted([1, 2])
    c, n = (next(i for i in range(*span) if target.atom_names[i] == name)
            for span, name in (((0, first), "C"), ((first, second), "N")))
    axis = (x[n] - x[c]) / np.linalg.norm(x[n] - x[c])
    # Half a turn of all that follows about the bond C-N.
    after = np.arange(target.n_atoms) > n
    relative = x[after] - x[n]
    turned[after] = x[n] + 2 * np.outer(relative @ axis, axis) - relative
    assert "1 cis peptide bonds" in defects(target, turned, None)


@pytest.mark.parametrize("grown", ["chignolin"], indirect=True)
@pytest.mark.parametrize("state", HAIRPINS["chignolin"])
def test_strands_are_drawn_together_and_let_go(grown, state):
    from openmm import Context, VerletIntegrator, unit

    target, x = grown
    hairpin = HAIRPINS["chignolin"][state]
    pairs = backbone_pairs(target, hairpin.bonds)
    assert {(target.atom_names[n], target.atom_names[o]) for n, o in pairs} == {("N", "O")}
    context = Context(drawn_together(target, hairpin), VerletIntegrator(0.001))
    context.setPositions(x)
    energy = {}
    for pull in (0.0, 500.0):
        context.setParameter("pull", pull)
        energy[pull] = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    length = np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)
    assert length.max() > 0.5
    far = (np.maximum(0, length - 0.31) ** 2).sum() + 0.2 * sum(
        1 - np.cos(np.radians(angle - wanted)) for angle, wanted in turn_angles(target, x, hairpin.turn))
    assert energy[500.0] - energy[0.0] == pytest.approx(500 * far, rel=1e-3)


def turn_angles(target, x, turn):
    """Pairs of an angle, measured by another library, and what it should be."""
    import mdtraj

    frame = mdtraj.Trajectory(x, mdtraj.Topology.from_openmm(target.topology))
    phi, psi = (np.degrees(measure(frame)[1][0]) for measure in (mdtraj.compute_phi, mdtraj.compute_psi))
    # The first residue has no phi.
    return [pair for residue, *wanted in turn for pair in zip((phi[residue - 1], psi[residue]), wanted)]


def test_hydrogen_bonds_count_where_most_are_there():
    pairs = np.array([[0, 1], [2, 3], [4, 5]])
    x = np.zeros((2, 6, 3))
    x[0, 1::2, 0], x[1, 1::2, 0] = [0.3, 0.35, 0.5], [0.3, 0.45, 0.5]
    assert bonds_kept(x, pairs).tolist() == [True, False]


def test_water_is_put_around_a_peptide():
    target = target_of("adp")
    x = grown_peptide(target, np.random.default_rng(2), None, lambda *_: None)
    n, edge = 150, 2.1
    positions = add_water(target, x, n, edge)
    topology, system = explicit_system(target, n, np.eye(3) * edge)
    assert len(positions) == system.getNumParticles() == topology.getNumAtoms() == target.n_atoms + 3 * n
    assert target.topology.getNumAtoms() == target.n_atoms
    molecule = positions[:target.n_atoms]
    assert molecule - molecule[0] == pytest.approx(x - x[0], abs=1e-6)
    oxygen = positions[target.n_atoms::3]
    assert np.linalg.norm(oxygen[:, None] - molecule, axis=-1).min() > 0.15
    assert np.ptp(oxygen, axis=0) == pytest.approx([edge] * 3, abs=0.25)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with two short runs made by the command."""
    out = tmp_path_factory.mktemp("runs")
    words = ["reference", "adp", "--out", out, "--equilibrate", 0.1, "--interval", 0.02, "--snapshots", 4, "-q"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return out


def read(out):
    with np.load(out / "sampling.npz") as data:
        assert data["done"] == len(np.load(out / "forces.npy"))
    frames = list(open_cg(out / "trajectory.xtc", out / "topology.pdb").frames())
    return np.array([f.positions for f in frames]), np.load(out / "forces.npy"), [f.time_ps for f in frames]


def test_the_command_leaves_trajectories_and_forces(finished):
    assert sorted(p.name for p in finished.iterdir()) == ["run_1", "run_2"]
    target, out = target_of("adp"), finished / "run_1"
    assert {p.name for p in out.iterdir()} == {
        "settings.json", "topology.pdb", "trajectory.xtc", "forces.npy", "equilibrated.npz", "sampling.npz"}
    x, f, times = read(out)
    assert x.shape == f.shape == (4, 22, 3) and f.dtype == np.float32
    assert times == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert np.average(x, axis=1, weights=target.masses) == pytest.approx(0, abs=1e-3)
    # Positions are rounded to 0.001 nm, and a bond's force changes by 260 a step.
    expected = forces(implicit_system(target), x[3], None, "Reference")
    heavy = np.array(target.elements) != "H"
    assert np.corrcoef(expected[heavy].ravel(), f[3][heavy].ravel())[0, 1] > 0.9
    frames = open_atoms([out / "trajectory.xtc"], target.chemistry, topology=out / "topology.pdb")
    assert frames.boxes is None and frames.target.chains == target.chains
    assert not np.allclose(x, read(finished / "run_2")[0], atol=0.05)


def test_a_run_that_was_killed_goes_on_with_no_frame_twice_and_none_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(peptide, "_KEEP_EVERY_S", 0.0)

    def stop(stage, done, total):
        if stage == "frames" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_peptide(SHORT, tmp_path, progress=stop)
    before = read(tmp_path)
    assert len(before[0]) == 2
    # Killed while it wrote: more frames in the files than the state that was kept knows of.
    for name, more in (("trajectory.xtc", (tmp_path / "trajectory.xtc").read_bytes()[:100]), ("forces.npy", b"0" * 99)):
        with (tmp_path / name).open("ab") as file:
            file.write(more)
    run_peptide(SHORT, tmp_path)
    x, f, times = read(tmp_path)
    assert times == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert np.array_equal(x[:2], before[0]) and np.array_equal(f[:2], before[1])
    steps = np.abs(np.diff(x, axis=0)).max(axis=(1, 2))
    assert (0 < steps).all() and (steps < 0.05).all()


def test_more_frames_are_added_and_other_settings_refused(tmp_path):
    run_peptide(replace(SHORT, n_snapshots=1), tmp_path)
    first = (tmp_path / "trajectory.xtc").read_bytes()
    run_peptide(replace(SHORT, n_snapshots=3), tmp_path)
    assert (tmp_path / "trajectory.xtc").read_bytes().startswith(first) and len(read(tmp_path)[0]) == 3
    with pytest.raises(InputError, match="settings.json belongs to a run with other settings"):
        run_peptide(replace(SHORT, friction_per_ps=1.0), tmp_path)


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """A folder of replica exchange that was interrupted once, and its settings."""
    out = tmp_path_factory.mktemp("exchange")
    settings = ExchangeSettings("adp", RECIPES["adp"].sequence, n_replicas=3, highest_K=330.0, equilibrate_ps=0.1,
                                exchange_ps=0.02, interval_ps=0.04, n_snapshots=12)

    def stop(stage, done, total):
        if stage == "structures" and done == 5:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "_KEEP_EVERY_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            run_exchange(settings, out, progress=stop)
    first = (out / "samples.xtc").read_bytes()
    run_exchange(settings, out)
    assert (out / "samples.xtc").read_bytes().startswith(first)
    return out, settings


def test_replicas_are_exchanged_and_structures_kept(exchanged):
    out, settings = exchanged
    source = open_cg(out / "samples.xtc", out / "topology.pdb")
    assert [f.time_ps for f in source.frames()] == pytest.approx(0.04 * np.arange(1, 13))
    assert np.load(out / "forces.npy").shape == (12, 22, 3)
    with np.load(out / "sampling.npz") as data:
        replicas = data["replicas"]
    assert np.array_equal(np.sort(replicas, axis=1), np.tile([0, 1, 2], (12, 1)))
    assert len(np.unique(replicas[:, 0])) > 1
    target = target_of("adp")
    assert not inverted_centres(target, np.array([f.positions for f in source.frames()])).any()


def test_runs_start_from_structures_of_the_second_half(exchanged, tmp_path):
    out, settings = exchanged
    start = sampled_start(out, 8)
    frames = [f.positions for f in open_cg(out / "samples.xtc", out / "topology.pdb").frames()]
    assert any(np.array_equal(start, x) for x in frames[6:])
    run_peptide(replace(SHORT, n_snapshots=1), tmp_path, start=start)
    assert len(read(tmp_path)[0]) == 1


def test_or_from_hairpins_or_are_grown_in_turn(exchanged, tmp_path):
    out, _ = exchanged
    assert sampled_start(out, 7) is None
    for file in ("samples.xtc", "topology.pdb"):
        (tmp_path / file).symlink_to(out / file)
    hairpins = np.random.default_rng(1).normal(size=(2, 22, 3))
    np.savez(tmp_path / "hairpins.npz", positions=hairpins)
    starts = [sampled_start(tmp_path, seed) for seed in range(8)]
    assert [k for k, x in enumerate(starts) if x is None] == [3, 7]
    assert all(np.array_equal(starts[k], hairpins[k % 4 - 1]) for k in (1, 2, 5, 6))
    assert np.array_equal(starts[4], sampled_start(out, 4))


def test_a_temperature_above_the_ladder_is_refused(tmp_path):
    with pytest.raises(InputError, match="goes up to 560 K"):
        run_exchange(replace(exchange.EXCHANGES["chignolin"], temperature_K=600.0), tmp_path)


@pytest.mark.parametrize("words, message", [
    (["adp", "--chains", "3"], "--chains: not for adp, which is a peptide"),
    (["adp", "--exchange", "3"], "--exchange: not for adp"),
    (["sps", "--solvent", "implicit"], "--solvent: not for sps, which is a melt"),
    (["chignolin", "--solvent", "explicit"], "chignolin has no recipe in explicit solvent")])
def test_options_of_other_recipes_are_refused(words, message, tmp_path):
    result = CliRunner().invoke(app, ["reference", *words, "--out", str(tmp_path / "x")])
    assert result.exit_code and message in str(result.output or result.exception) + str(result.exception)
    assert not (tmp_path / "x").exists()


def test_recipes():
    assert peptide_recipe("adp").n_waters == 0 and peptide_recipe("adp").interval_ps == 1.0
    water = peptide_recipe("adp", solvent="explicit", seed=4)
    assert (water.n_waters, water.edge_nm, water.friction_per_ps, water.seed) == (651, 2.7273, 1.0, 4)
    assert json.loads(json.dumps(water.sequence)) == ["ACE", "ALA", "NME"]


def test_hydrogens_are_named_the_same_way_around():
    """Two runs of a recipe may be compared label by label."""
    from openmm_backmap.analysis.kinetics.observables import observables_of
    from openmm_backmap.chemistry import build_target, load_chemistry
    from openmm_backmap.geometry.builder import build_coordinates
    from openmm_backmap.geometry.hydrogens import with_ordered_hydrogens

    target = build_target(load_chemistry("chignolin"), [["TYR", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP",
                                                         "TYR"]])
    grown = [build_coordinates(target, np.random.default_rng(seed)) for seed in (1, 2)]
    before, after = ([observables_of(target, x[None]) for x in group]
                     for group in (grown, [with_ordered_hydrogens(target, x) for x in grown]))
    hands = lambda pair: [np.concatenate([one.methyl_hand, one.methylene_hand]) for one in pair]  # noqa: E731
    assert not np.array_equal(*hands(before))
    assert np.array_equal(*hands(after))
    moved = with_ordered_hydrogens(target, grown[0])
    assert sorted(map(tuple, moved)) == sorted(map(tuple, grown[0]))


def test_a_hairpin_whose_dynamics_break_is_made_anew(monkeypatch):
    """Hydrogen bonds within residues, which every structure has, so that the second attempt is kept."""
    from openmm_backmap.reference import hairpins

    target, starts = build_target(load_chemistry("adp"), [("ACE", "ALA", "NME")]), []

    def grown(*arguments):
        starts.append(grown_peptide(*arguments) * (np.nan if not starts else 1.0))
        return starts[-1]
    monkeypatch.setattr(hairpins, "grown_peptide", grown)
    within = hairpins.Hairpin(((1, 1),))
    found = hairpins.folded(target, within, 300.0, np.random.default_rng(1), "Reference", lambda *_: None, 0.1, 0.1)
    assert len(starts) >= 2 and bonds_kept(found, backbone_pairs(target, within.bonds))
