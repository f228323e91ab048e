"""Trajectories judged: known processes are found, known faults are counted, files are read as they are."""

import dataclasses

import dipeptide as adp
import numpy as np
import pytest
import torch
from deeptime.markov.msm import MarkovStateModel

from openmm_backmap.analysis.kinetics.blocks import compared, halves
from openmm_backmap.analysis.kinetics.energies import FrameEnergies
from openmm_backmap.analysis.kinetics.markov import (
    cells_of,
    implied_timescales,
    markov_model,
    metastable_states,
    similarity,
)
from openmm_backmap.analysis.kinetics.measure import measure
from openmm_backmap.analysis.kinetics.moves import ALL, INTERNAL, LABORATORY, MoveCounts, Moves, kinds_of_moves
from openmm_backmap.analysis.kinetics.observables import CHECKS, observables_of
from openmm_backmap.analysis.kinetics.reading import open_trajectories
from openmm_backmap.analysis.kinetics.surface import (
    coordinates_of,
    free_energies,
    largest_difference,
    mean_difference,
)
from openmm_backmap.chemistry import build_target, create_flexible_system, load_chemistry
from openmm_backmap.energy import TorchEnergy
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.internal import dihedral_angles
from openmm_backmap.geometry.periodic import lattice_shifts, molecules_into_box
from openmm_backmap.io.writers import write_structure
from openmm_backmap.statistics import jensen_shannon

BOX = np.array([[2.0, 0, 0], [0.4, 1.9, 0], [-0.3, 0.5, 1.8]])


@pytest.fixture(scope="module")
def target():
    return adp.dipeptide()


@pytest.fixture(scope="module")
def x(target):
    return adp.hopping(target, 300, 0.05, 1)


@pytest.fixture(scope="module")
def topology(tmp_path_factory, target, x):
    path = tmp_path_factory.mktemp("top") / "adp.pdb"
    write_structure(path, target.topology, x[0], None)
    return path


# --- Markov models --------------------------------------------------------------------------------------------------

def test_timescale_and_its_error_are_those_of_a_known_chain():
    """Of 20 chains, the true timescale lies within the 95 % of about all; and error bars are not far too wide."""
    leave, found = 0.02, []
    for seed in range(20):
        model = markov_model([adp.two_states(3000, leave, seed)], 2, 1, 1, "x", n_samples=60)
        found.append((model.timescales[0], model.lower[0], model.upper[0]))
    mean, low, high = np.array(found).T
    true = -1 / np.log(1 - 2 * leave)
    assert ((low < true) & (true < high)).sum() >= 16
    assert 0.5 < (mean.std() * 4) / (high - low).mean() < 2


def test_trajectories_are_not_joined():
    first, second = np.tile([0, 1], 30), np.tile([2, 3], 40)
    model = markov_model([first, second, first, second], 1, 3, 1, "x")
    assert set(model.states) in ({0, 1}, {2, 3})   # joined, all four would be connected
    assert np.isnan(model.timescales[1:]).all()


def test_same_seed_same_model():
    path = [adp.two_states(500, 0.1, 1)]
    one, same, other = (markov_model(path, 1, 1, seed, "x") for seed in (1, 1, 2))
    assert one.upper == same.upper and one.upper != other.upper


def test_similarity_tells_processes_apart():
    """A slow and a faster step: the same process in another run is near 1, the other one near 0."""
    steps = MarkovStateModel([[0.98, 0.02, 0], [0.02, 0.78, 0.2], [0, 0.2, 0.8]])
    one, other = (markov_model([steps.simulate(6000, seed=seed)], 1, 2, 1, "x") for seed in (1, 2))
    found = similarity(one, other)
    assert np.diag(found).min() > 0.97 and found[0, 1] < 0.2 and found[1, 0] < 0.2


def test_too_short_or_stuck_is_said():
    with pytest.raises(InputError, match="run: no trajectory is longer than the lag of 5"):
        markov_model([np.zeros(5, int)], 5, 1, 1, "run")
    with pytest.raises(InputError, match="run: fewer than two cells"):
        markov_model([np.zeros(50, int)], 5, 1, 1, "run")


def test_timescales_by_lag_stay_and_end_where_trajectories_do():
    found = implied_timescales([adp.two_states(4000, 0.02, 1)], (1, 5, 5000), 2)
    assert abs(found[1, 0] / found[0, 0] - 1) < 0.15
    assert np.isnan(found[2]).all() and np.isnan(found[:, 1]).all()


def test_metastable_states_are_the_two_of_a_hop():
    states = adp.two_states(4000, 0.01, 1)
    cells = 2 * states + np.random.default_rng(1).integers(2, size=4000)
    found = metastable_states(markov_model([cells], 1, 1, 1, "x"), 2, 5)
    assert found[0] == found[1] != found[2] == found[3] and found[4] == -1


def test_cells_of_few_points():
    model = cells_of(np.repeat(np.arange(4.0)[:, None], 10, axis=0), 100, 1)
    assert model.n_clusters == 4


# --- surfaces and blocks --------------------------------------------------------------------------------------------

def test_surface_differences_are_those_put_in():
    own, other = np.zeros((2, 1, 3, 3))
    own[0, 0, :2], other[0, 0, :2] = (1000, 1000), (1500, 500)
    own[0, 2, 2] = 20     # too few frames to be compared
    ratio = np.array([1500 / 1000, 500 / 1000]) * 2020 / 2000
    assert largest_difference(own, other)[0] == pytest.approx(np.abs(np.log(ratio)).max())
    assert mean_difference(own, other)[0] == pytest.approx(np.abs(np.log(ratio)).mean())
    assert np.isnan(largest_difference(own * 0.001, other)[0])
    assert np.isfinite(free_energies(own)).all()


def test_floor_is_of_halves_of_the_blocks():
    table = np.array([[4, 0], [0, 4], [4, 0], [0, 4]])
    first, second = halves(table)
    assert len(first) == 3 and (first + second == [8, 8]).all()
    value = compared(table, table, jensen_shannon)
    assert value.value == 0 and value.floor == pytest.approx(1 / 3)  # one of the three splits parts them all


# --- displacements --------------------------------------------------------------------------------------------------

def test_rigid_motion_is_no_internal_displacement(target, x):
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    pair = np.stack([x[0], x[0] @ turn + 0.3])
    laboratory, internal = (Moves(name, target, 1.0).of(pair, None) for name in (LABORATORY, INTERNAL))
    assert np.allclose(internal, 0, atol=1e-9) and laboratory.mean() > 0.1


def test_displacements_pass_through_the_box(target, x):
    drifting = x[:50] + np.linspace(0, 5, 50)[:, None, None]
    wrapped = np.array([molecules_into_box(frame, BOX, target.molecule_of_atom) for frame in drifting])
    boxes = np.repeat(BOX[None], 49, axis=0)
    kind = Moves(LABORATORY, target, 1.0)
    assert not np.allclose(kind.of(wrapped, None), kind.of(drifting, None))
    assert np.allclose(kind.of(wrapped, boxes), kind.of(drifting, None), atol=1e-9)


def test_lattice_shifts_take_whole_vectors(x):
    vectors = np.array([[0.1, 0.2, -0.1], [0.05, 0, 0.3]])
    moved = vectors + np.array([[1, -2, 3], [0, 1, -1]]) @ BOX
    assert np.allclose(moved - lattice_shifts(moved, np.stack([BOX, BOX])), vectors)


def test_histograms_of_displacements(target, x):
    kind, = (k for k in kinds_of_moves(target, x, None) if k.name == INTERNAL)
    moves = kind.of(x, None)
    counts = MoveCounts.zeros(kind, 10)
    counts.add(moves[:100], np.zeros(100, int))
    counts.add(moves[100:], np.full(199, 3))
    edges = counts.edges(ALL)
    table = counts.coarse(ALL, edges)
    assert table.sum() == moves.size and table[3].sum() == 199 * 22
    assert counts.mean(ALL) == pytest.approx(moves.mean())
    assert abs(table.sum(0)[:-1] - np.histogram(moves, edges)[0]).sum() < 0.02 * moves.size
    assert counts.coarse(ALL, 2 * edges, 2.0).tolist() == table.tolist()


# --- observables and energies ---------------------------------------------------------------------------------------

def test_dihedrals_of_the_backbone_are_found(target, x):
    found = observables_of(target, x)
    assert found.dihedrals.tolist() == [list(adp.PHI), list(adp.PSI)]
    assert found.check_sizes.tolist() == [1, 2, 3, 0]
    assert np.allclose(found.features(x)[:, 0], dihedral_angles(x[:, adp.PHI]))
    assert not found.checks(x).any()


def test_faults_are_counted(target, x):
    found = observables_of(target, x)
    swapped = x[:1].copy()
    swapped[:, [11, 12]] = swapped[:, [12, 11]]
    cis = adp.turned(x[:1], adp.OMEGA, np.zeros(1))
    for wrong, expected in ((swapped, [0, 0, 1, 0]), (cis, [0, 1, 0, 0]), (x[:1] * [1, 1, -1], [1, 0, 3, 0])):
        assert found.checks(wrong)[0].tolist() == expected, CHECKS


def test_methylenes_have_hands_too():
    target = build_target(load_chemistry("sps"), [("STY",) * 3])
    x = build_coordinates(target, np.random.default_rng(1))[None]
    found = observables_of(target, x)
    assert found.dihedrals is None and found.features(x).shape == (1, 15)
    assert len(found.methylenes) and not found.checks(x)[0, 3]
    swapped = x.copy()
    first, second = found.methylenes[0, 1:3]
    swapped[0, [first, second]] = x[0, [second, first]]
    assert found.checks(swapped)[0, 3] == 1


def test_energies_are_those_of_the_bridge(target, x):
    own = TorchEnergy.from_system(create_flexible_system(target, None))
    expected = own.total(torch.as_tensor(x[:20])).numpy()
    assert np.allclose(FrameEnergies(target)(x[:20]), expected, rtol=1e-6)
    clash = x[:1].copy()
    clash[0, 5] = clash[0, 17]
    assert FrameEnergies(target)(clash)[0] > 1e6


# --- reading --------------------------------------------------------------------------------------------------------

def test_formats_and_pieces_agree(tmp_path, target, x, topology, monkeypatch):
    monkeypatch.setattr("openmm_backmap.analysis.kinetics.reading._ATOMS_PER_PIECE", 22 * 70)
    write_structure(tmp_path / "a.gro", target.topology, x[0], None, gro_precision=6)
    for path in (adp.write_xtc(tmp_path / "a.xtc", x), adp.write_dcd(tmp_path / "a.dcd", x)):
        runs = open_trajectories("a", [path], target.chemistry, topology=topology, strict=True)
        pieces = list(runs.pieces(0))
        assert [len(p.positions) for p in pieces] == [70, 70, 70, 70, 20] and runs.lengths == (300,)
        assert np.allclose(np.concatenate([p.positions for p in pieces]), x, atol=6e-4)
    assert open_trajectories("a", [tmp_path / "a.xtc"], target.chemistry, topology=topology).target.n_atoms == 22


def test_broken_molecules_are_joined(tmp_path, target, x, topology):
    inside = x[:5] - x[:5].mean(1, keepdims=True)
    fractions = inside @ np.linalg.inv(BOX)
    path = adp.write_xtc(tmp_path / "broken.xtc", (fractions % 1.0) @ BOX, BOX)
    piece, = open_trajectories("a", [path], target.chemistry, topology=topology, strict=True).pieces(0)
    bonds = np.linalg.norm(np.subtract(*np.moveaxis(piece.positions[:, target.bonds], 2, 0)), axis=-1)
    assert bonds.max() < 0.2 and piece.boxes.shape == (5, 3, 3)


def test_what_cannot_be_judged_is_refused(tmp_path, target, x, topology):
    single = adp.write_xtc(tmp_path / "one.xtc", x[:1])
    with pytest.raises(InputError, match="one.xtc: holds a single frame"):
        open_trajectories("a", [single], target.chemistry, topology=topology)
    two = build_target(target.chemistry, [target.chains[0]] * 2)
    write_structure(tmp_path / "two.pdb", two.topology, np.concatenate([x[0], x[0] + 1.0]), None)
    with pytest.raises(InputError, match="two.pdb: holds 2 molecules"):
        open_trajectories("a", [tmp_path / "two.pdb"], target.chemistry)
    mixed = adp.write_xtc(tmp_path / "mixed.xtc", x[:, ::-1])
    with pytest.raises(InputError, match="should be bonded"):
        next(open_trajectories("a", [mixed], target.chemistry, topology=topology, strict=True).pieces(0))


def test_slow_component_is_the_hop(tmp_path, target, topology):
    """Without dihedrals, the distances of beads and their slow components find the same two states."""
    x = adp.hopping(target, 1500, 0.02, 3)
    runs = open_trajectories("a", [adp.write_xtc(tmp_path / "a.xtc", x)], target.chemistry, topology=topology)
    observables = dataclasses.replace(observables_of(target, x), dihedrals=None)
    measured = measure(runs, observables, FrameEnergies(target), kinds_of_moves(target, x, None))
    assert measured.features.shape == (1500, 15) and measured.spacing_ps == 1.0
    coordinates = coordinates_of(measured, False, 5)
    plane = coordinates.of(measured)
    assert abs(np.corrcoef(plane[:, 0], adp.two_states(1500, 0.02, 3))[0, 1]) > 0.95
    assert coordinates.counts(plane, measured.block).sum() == 1500


def test_no_factor_between_populations_where_the_reference_has_no_states():
    from openmm_backmap.analysis.kinetics.results import worst_factor

    assert np.isnan(worst_factor(np.zeros(3), np.array([0.5, 0.5, 0.0])))
    assert worst_factor(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == 2
