"""Force fields learned from forces: the map of forces, the network, its file, training, and many copies in OpenMM."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_peptide import peptide, walk

from openmm_backmap.analysis.forces.projection import owned_atoms
from openmm_backmap.chemistry import create_system, match_beads
from openmm_backmap.cli import main
from openmm_backmap.coarse import (
    CopiesSettings,
    ForceSettings,
    NetworkSettings,
    NeuralModel,
    blocks,
    fit_forces,
    load_neural_model,
    run_copies,
    save_neural_model,
)
from openmm_backmap.coarse.copies import Copies, LearnedForces, beginning, longest_step
from openmm_backmap.coarse.force_data import read_runs
from openmm_backmap.coarse.force_map import force_moments, least_noise_map, tied_atoms
from openmm_backmap.coarse.neural import CGNetwork, forces
from openmm_backmap.energy.openmm_energy import forces as atomistic_forces
from openmm_backmap.errors import ChemistryError, InputError, RefinementError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.internal import dihedral_angles
from openmm_backmap.io.readers import open_cg
from openmm_backmap.io.writers import write_structure
from openmm_backmap.model_file import load_model, save_model

FRAMES = 300
SMALL = ForceSettings(epochs=3, iterations=1, batch=64, learning_rate=2e-2, ps=0.02, network=NetworkSettings(16, 1))


@pytest.fixture(scope="module")
def target():
    return peptide()


@pytest.fixture(scope="module")
def run_folder(target, tmp_path_factory):
    """What the recipe of a peptide leaves, in small."""
    folder = tmp_path_factory.mktemp("adp") / "run_1"
    folder.mkdir()
    x, system = walk(FRAMES), create_system(target, None)
    write_structure(folder / "topology.pdb", target.topology, x[0], None)
    write_structure(folder / "trajectory.xtc", target.topology, x, None)
    np.save(folder / "forces.npy", np.array([atomistic_forces(system, frame, None, "Reference") for frame in x],
                                            dtype="<f4"))
    return folder


@pytest.fixture(scope="module")
def model(target):
    """Learned from nothing: the prior, and a network with random weights."""
    beads = torch.as_tensor(mapped(target, walk(FRAMES)).astype(np.float32))
    torch.manual_seed(3)
    network = CGNetwork(target, 300.0, NetworkSettings(16, 2))
    network.fit_prior(beads)
    return NeuralModel(target, network.requires_grad_(False), 300.0, beads[::10].clone())


def test_the_map_is_right_for_constraints_and_has_the_least_noise(target):
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(200, target.n_atoms, 3)) * rng.uniform(1, 20, size=(target.n_atoms, 1))
    moments = force_moments(noise) / len(noise)
    found, owned = least_noise_map(target, moments), owned_atoms(target).toarray()
    np.testing.assert_allclose(found @ target.mapping.T, np.eye(target.n_beads), atol=1e-9)
    groups = tied_atoms(target)
    assert groups.max() + 1 == sum(element != "H" for element in target.elements)
    for group in range(groups.max() + 1):
        assert np.ptp(found[:, groups == group], axis=1).max() < 1e-12
    size = lambda b: np.einsum("ia,ab,ib->i", b, moments, b)  # noqa: E731
    assert (size(found) < size(owned) * (1 + 1e-9)).all() and size(found).sum() < 0.9 * size(owned).sum()


def test_constraints_that_tie_beads_to_each_other_are_refused(target):
    stiff = replace(target, chemistry=replace(target.chemistry, constraints="all-bonds"))
    with pytest.raises(ChemistryError, match="tie beads"):
        least_noise_map(stiff, np.eye(target.n_atoms))


def test_forces_are_the_gradient_and_follow_rotations(model):
    network, x = model.network.double(), model.starts[:4].double()
    try:
        energy, force = forces(network, x)
        moved, step = x.clone(), 1e-6
        moved[:, 2, 1] += step
        np.testing.assert_allclose((network(moved) - energy) / step, -force[:, 2, 1], rtol=1e-3, atol=0.1)
        turn = torch.as_tensor(np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0])
        turn *= torch.sign(torch.linalg.det(turn))
        np.testing.assert_allclose(forces(network, x @ turn.T + 1.0)[1], force @ turn.T, atol=1e-6)
        np.testing.assert_allclose(network(x @ turn.T + 1.0), energy, atol=1e-9)
        assert (network(x * torch.tensor([1.0, 1.0, -1.0])) - energy).abs().min() > 20  # the other hand
    finally:
        network.float()


def test_the_prior_is_the_inverted_distributions(target, model):
    network = model.network
    bond = int(np.flatnonzero(network.coordinates.apart == 1)[0])
    lengths = np.linalg.norm(np.diff(mapped(target, walk(FRAMES))[:, network.coordinates.pairs[bond]], axis=1), axis=-1)
    assert float(network.length[bond]) == pytest.approx(lengths.mean(), rel=1e-4)
    assert float(network.stiffness[bond]) == pytest.approx(network.kT / lengths.var(), rel=0.02)
    assert (network.stiffness[network.coordinates.apart == 3] == 0).all()
    near = model.starts[:1].clone()
    far = near.clone()
    near[:, 0] = near[:, 5] + 0.1  # the two ends, which are four bonds apart
    assert float(network.prior(near) - network.prior(far)) > 50 * network.kT


def test_a_correction_takes_away_what_a_run_has_too_much_of(target, model):
    """Frames reweighted by the change of energy have the dihedrals of the reference."""
    network = CGNetwork(target, 300.0, NetworkSettings(16, 2))
    network.load_state_dict(model.network.state_dict())
    x = torch.as_tensor(np.concatenate([mapped(target, walk(FRAMES, seed=seed)) for seed in (1, 2)])).float()
    before = network.prior(x)
    dihedral = dihedral_angles(x.numpy()[:, network.coordinates.torsions[3]])
    low = dihedral < np.median(dihedral)
    rows = np.concatenate([np.tile(np.flatnonzero(low), 30), np.tile(np.flatnonzero(~low), 10)])
    network.correct_dihedrals(x.repeat(20, 1, 1), x[rows])
    weights = torch.exp(-(network.prior(x) - before) / network.kT)[rows].detach().numpy()
    assert low[rows].mean() == pytest.approx(0.75, abs=0.01)
    assert (weights * low[rows]).sum() / weights.sum() == pytest.approx(0.5, abs=0.1)


def test_a_fit_learns_and_goes_on_where_it_was_stopped(run_folder, target, tmp_path):
    chemistry = target.chemistry
    whole = fit_forces([run_folder], chemistry, tmp_path / "whole", SMALL)
    assert whole.losses[-1]["held_out"] < 0.95 * whole.losses[0]["held_out"]
    assert {p.name for p in (tmp_path / "whole").iterdir()} == {
        "settings.json", "model.pt", "losses.csv", "losses.png", "scores.csv", "distributions.png"}
    with open(tmp_path / "whole" / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert {"bond ACE-C-ALA-N", "angle ACE-C-ALA-N-ALA-CA"} < {row["term"] for row in rows}
    assert all(0 <= float(row["divergence"]) <= 1 for row in rows)

    def stop(stage, done, total):
        if stage.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_forces([run_folder], chemistry, tmp_path / "parts", SMALL, progress=stop)
    assert not (tmp_path / "parts" / "model.pt").exists()
    with pytest.raises(InputError, match="other settings"):
        fit_forces([run_folder], chemistry, tmp_path / "parts", replace(SMALL, seed=2))
    seen = []
    again = fit_forces([run_folder], chemistry, tmp_path / "parts", SMALL,
                       progress=lambda stage, *_: seen.append(stage.split(" of ")[0]))
    assert "epoch 1" not in seen and "epoch 2" in seen
    assert again.losses == whole.losses
    x = whole.model.starts[:5]
    assert torch.equal(whole.model.network(x), again.model.network(x))


def test_run_folders_that_do_not_fit_are_refused(run_folder, target, tmp_path):
    chemistry = target.chemistry
    assert read_runs([run_folder], chemistry).lengths == (FRAMES,)
    folder = tmp_path / "run_1"
    folder.mkdir()
    with pytest.raises(InputError, match="topology.pdb"):
        read_runs([folder], chemistry)
    for name in ("topology.pdb", "trajectory.xtc"):
        (folder / name).write_bytes((run_folder / name).read_bytes())
    for content, message in ((np.zeros((5, 3, 3)), "shape"), (np.full((5, target.n_atoms, 3), np.nan), "not finite"),
                             (np.array([{}]), "not readable")):
        np.save(folder / "forces.npy", content)
        with pytest.raises(InputError, match=message):
            read_runs([folder], chemistry)
    np.save(folder / "forces.npy", np.ones((7, target.n_atoms, 3)))
    assert read_runs([folder], chemistry).lengths == (7,)
    with pytest.raises(InputError, match="at least 100"):
        fit_forces([folder], chemistry, tmp_path / "out", SMALL)


def test_a_model_file_comes_back_and_others_are_refused(model, tmp_path):
    file = tmp_path / "model.pt"
    save_neural_model(file, model)
    again = load_neural_model(tmp_path)
    assert torch.equal(again.network(model.starts), model.network(model.starts)) and again.target.n_beads == 6
    content = load_model(file)
    broken = {name: torch.full_like(value, torch.nan) for name, value in content.weights.items()}
    sizes = lambda **changes: {"hyperparameters": {**content.hyperparameters, **changes}}  # noqa: E731
    for change, message in (({"family": "flow"}, "family flow"), ({"weights": broken}, "not finite"),
                            ({"weights": {}}, "do not fit"), (sizes(monomers=["XYZ"]), "XYZ"),
                            (sizes(network={"width": 10 ** 6, "depth": 2}), "larger than")):
        save_model(replace(content, **change), file)
        with pytest.raises(InputError, match=message):
            load_neural_model(file)


def test_copies_do_not_see_each_other(model):
    import openmm as mm

    x = model.starts[:3].numpy().astype(float)
    context = mm.Context(LearnedForces(model, 3).system(), mm.VerletIntegrator(0.001),
                         mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x.reshape(-1, 3))
    state = context.getState(energy=True, forces=True)
    energy, force = forces(model.network, model.starts[:3])
    assert state.getPotentialEnergy()._value == pytest.approx(float(energy.sum()), rel=1e-5)
    np.testing.assert_allclose(state.getForces(asNumpy=True)._value.reshape(3, -1, 3), force, atol=1e-2)
    assert 0.0005 < longest_step(model) < 0.005
    start = beginning(model, CopiesSettings(copies=len(model.starts) + 2))
    assert start.positions.shape == start.velocities.shape == (6 * (len(model.starts) + 2), 3)


def test_copies_leave_trajectories_that_backmapping_reads(model, target, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 2)
    settings = CopiesSettings(0.1, 0.02, seed=4, copies=3)

    def stop(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_copies(model, tmp_path / "a.xtc", settings, progress=stop)
    assert not list(tmp_path.glob("a*"))
    files = run_copies(model, tmp_path / "a.xtc", settings)
    assert [file.name for file in files] == ["a_1.xtc", "a_2.xtc", "a_3.xtc", "a.gro"]
    once = run_copies(model, tmp_path / "b.xtc", settings)
    for a, b in zip(files[:3], once[:3], strict=True):
        source = open_cg(a, files[-1])
        found = [frame.positions for frame in source.frames()]
        assert len(found) == 5
        np.testing.assert_array_equal(found, [frame.positions for frame in open_cg(b, once[-1]).frames()])
        match = match_beads(target.chemistry, source.topology, found[0], None, where=str(a))
        assert match.target.chains == target.chains and (match.bead_index == np.arange(6)).all()
    with pytest.raises(InputError, match="exists"):
        run_copies(model, tmp_path / "a.xtc", settings)
    with pytest.raises(InputError, match="unknown ending '.xyz'"):
        run_copies(model, tmp_path / "a.xyz", settings)
    with pytest.raises(InputError, match="0.01 ps with a frame every 1 ps hold no frame"):
        run_copies(model, tmp_path / "c.xtc", replace(settings, ps=0.01, every_ps=1.0))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_ctrl_c_and_errors_come_through(model, monkeypatch):
    settings, calls = CopiesSettings(0.1, 0.02, copies=2), []

    def pressed(*_):
        calls.append(1)
        raise KeyboardInterrupt

    dynamics = Copies(model, settings)
    dynamics.start(beginning(model, settings), np.random.default_rng(1))
    monkeypatch.setattr("openmm_backmap.coarse.copies.forces", pressed)
    with pytest.raises(KeyboardInterrupt):
        list(dynamics.frames(2))
    assert calls == [1]
    monkeypatch.undo()
    far = beginning(model, settings)
    far.positions[0] = np.nan
    dynamics = Copies(model, settings)
    dynamics.start(far, np.random.default_rng(1))
    with pytest.raises(RefinementError, match="not finite"):
        list(dynamics.frames(1))


def test_the_command(run_folder, model, tmp_path, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as left:
            main(["cg-model", *map(str, words)])
        return left.value.code, *capsys.readouterr()

    code, out, err = run("fit", run_folder, "--chemistry", "adp", "--method", "forces", "--epochs", 1,
                         "--iterations", 0, "--ps", 0.02, "--out", tmp_path / "cg", "-q")
    assert (code, out, err) == (0, "", "")
    code, out, _ = run("run", tmp_path / "cg", "-o", tmp_path / "cg.xtc", "--ps", 0.02, "--every", 0.01)
    assert code == 0 and "cg.xtc" in out and open_cg(tmp_path / "cg.xtc", tmp_path / "cg.gro").n_frames == 2
    assert run("run", tmp_path / "cg", "-o", tmp_path / "new.xtc", "--system", tmp_path / "s.xml")[0] == 2
    for words in (("--method", "forces", "--cutoff", 1), ("--epochs", 3)):
        code, _, err = run("fit", run_folder, "--chemistry", "adp", "--out", tmp_path / "no", *words)
        assert code == 2 and "only; leave it out" in err
    code, _, err = run("fit", tmp_path, "--chemistry", "adp", "--method", "forces", "--out", tmp_path / "no")
    assert code == 1 and err.count("\n") == 1 and "topology.pdb" in err
