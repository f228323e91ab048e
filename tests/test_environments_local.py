"""Frames, neighbours and graph classes of local environments, and the symmetries that they must have."""

from dataclasses import fields, replace

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from small_systems import BOX, TRICLINIC, small_positions, small_target

from openmm_backmap.environments.local import (
    MAX_GRAPH_DISTANCE,
    MAX_OFFSET,
    N_GRAPH,
    N_OFFSETS,
    BeadSurroundings,
    TargetTables,
    Vocabulary,
    bead_frames,
)

N_ATOMS, N_BEADS = 25, 6


@pytest.fixture(scope="module")
def target():
    return small_target()


@pytest.fixture(scope="module")
def positions(target):
    return small_positions(target)


def surroundings(target, beads, box=None):
    return BeadSurroundings(TargetTables(target, Vocabulary.of(target)), beads, box, N_ATOMS, N_BEADS)


def environment(target, positions, box=None, beads=None, shown=None):
    """Environments of all beads, or of ``beads``; all neighbours shown, or ``shown``."""
    around = surroundings(target, target.mapping @ positions, box)
    bead = torch.arange(target.n_beads) if beads is None else torch.as_tensor(beads)
    shown = torch.ones(len(bead), around.index.shape[1], dtype=torch.bool) if shown is None else shown
    return around.environment(bead, torch.as_tensor(positions, dtype=torch.float32), shown)


def assert_same(one, other, tolerance=1e-5):
    """Equal environments, whatever the order of context atoms as near as each other."""
    for f in fields(one):
        a, b = getattr(one, f.name), getattr(other, f.name)
        if a.dtype.is_floating_point:
            assert torch.allclose(a, b, atol=tolerance), f.name
        else:
            assert torch.equal(a, b), f.name


def test_frames_are_orthonormal_and_mirrored_for_left_hands(target, positions):
    frame = bead_frames(target, target.mapping @ positions, None)
    assert frame @ frame.transpose(0, 2, 1) == pytest.approx(np.broadcast_to(np.eye(3), frame.shape), abs=1e-12)
    assert np.linalg.det(frame) == pytest.approx(target.bead_hand, abs=1e-12)
    assert set(target.bead_hand) == {-1, 1}


def test_frames_point_at_the_frame_beads(target, positions):
    beads = target.mapping @ positions
    frame = bead_frames(target, beads, None)
    first, second = (np.einsum("nki,ni->nk", frame, beads[j] - beads) for j in target.bead_frame.T)
    assert first[:, :2] == pytest.approx(np.zeros((target.n_beads, 2)), abs=1e-12) and (first[:, 2] > 0).all()
    assert second[:, 1] == pytest.approx(np.zeros(target.n_beads), abs=1e-12) and (second[:, 0] > 0).all()


@pytest.mark.parametrize("box", [BOX, TRICLINIC])
def test_frames_see_nearest_images(target, positions, box):
    beads = target.mapping @ positions
    broken = beads + np.random.default_rng(0).integers(-2, 3, (target.n_beads, 3)) @ box
    assert bead_frames(target, broken, box) == pytest.approx(bead_frames(target, beads, box), abs=1e-9)


@pytest.mark.parametrize("place", ["in line", "on one spot"])
def test_beads_without_directions_get_finite_orthonormal_frames(target, place):
    beads = np.zeros((target.n_beads, 3))
    if place == "in line":
        beads[:, 0] = 0.3 * np.arange(target.n_beads)
    frame = bead_frames(target, beads, None)
    assert frame @ frame.transpose(0, 2, 1) == pytest.approx(np.broadcast_to(np.eye(3), frame.shape), abs=1e-12)


def test_a_lone_monomer_has_finite_environments():
    target = small_target(1, 1)
    env = environment(target, small_positions(target))
    assert all(torch.isfinite(getattr(env, f.name).float()).all() for f in fields(env))
    assert env.bead_present.sum() == 2 and env.own.sum() == target.n_atoms


def test_local_and_global_positions_are_each_others_reverse(target, positions):
    around = surroundings(target, target.mapping @ positions)
    bead = torch.tensor([0, 3, 7])
    x = torch.randn(3, 4, 5, 3)
    assert torch.allclose(around.to_global(bead, around.to_local(bead, x)), x, atol=1e-6)
    assert torch.allclose(around.to_local(bead, around.centre[bead][:, None]), torch.zeros(3, 1, 3), atol=1e-6)


def test_environments_do_not_turn_or_move_with_the_system(target, positions):
    turn = Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix()
    moved = positions @ turn.T + [3.0, -5.0, 1.0]
    assert_same(environment(target, positions), environment(target, moved))


@pytest.mark.parametrize("box", [BOX, TRICLINIC])
def test_environments_do_not_change_when_molecules_move_by_box_vectors(target, positions, box):
    shift = np.array([[1, 0, -2], [0, 0, 0], [-1, 3, 1]]) @ box
    moved = positions + shift[target.molecule_of_atom]
    one = environment(target, positions, box)
    assert_same(one, environment(target, moved, box))
    assert (one.bead_offset[one.bead_present] == N_OFFSETS - 1).any()


def test_mirror_images_with_other_hands_have_the_same_environment(target, positions):
    other = replace(target, bead_hand=-target.bead_hand)
    assert_same(environment(target, positions), environment(other, positions * [1, -1, 1]))


def test_only_atoms_of_shown_beads_are_seen_and_never_the_own_ones(target, positions):
    around = surroundings(target, target.mapping @ positions, BOX)
    bead = torch.arange(target.n_beads)
    shown = torch.rand(target.n_beads, around.index.shape[1], generator=torch.Generator().manual_seed(1)) < 0.3
    x = torch.as_tensor(positions, dtype=torch.float32)
    env = around.environment(bead, x, shown)
    for b in range(target.n_beads):
        seen = {(int(j), s) for j, s, there in zip(around.index[b], around.shift[b], shown[b]) if there and j >= 0}
        allowed = [around.to_local(bead[b:b + 1], (x[target.bead_of_atom == j] + s)[None])[0] for j, s in seen]
        allowed = torch.cat([torch.empty(0, 3), *allowed])
        assert b not in {j for j, _ in seen}
        found = env.position[b][env.present[b]]
        assert len(found) == min(N_ATOMS, len(allowed))
        nearest = allowed[allowed.norm(dim=-1).argsort()[:len(found)]]
        assert torch.allclose(found.norm(dim=-1), nearest.norm(dim=-1), atol=1e-5)
        distance = (found[:, None] - allowed).norm(dim=-1)
        assert len(found) == 0 or distance.min(dim=1).values.max() < 1e-5


def test_nothing_shown_leaves_beads_alone(target, positions):
    around = surroundings(target, target.mapping @ positions)
    env = environment(target, positions, shown=torch.zeros(target.n_beads, around.index.shape[1], dtype=torch.bool))
    assert not env.present.any() and env.bead_present.any() and (env.position == 0).all()


def graph_classes(target, i, others, same_molecule):
    """Classes of the bond-graph distances from atom i, by networkx."""
    distance = nx.single_source_shortest_path_length(nx.Graph(target.bonds.tolist()), i)
    return [distance[j] if same and distance[j] <= MAX_GRAPH_DISTANCE else
            MAX_GRAPH_DISTANCE + 1 if same else N_GRAPH - 1 for j, same in zip(others, same_molecule)]


def test_graph_and_offset_classes_agree_with_networkx(target, positions):
    bead = np.array([0, 1, 4, 9])
    around = surroundings(target, target.mapping @ positions)
    env = environment(target, positions, beads=bead)
    local = around.to_local(torch.as_tensor(bead), torch.as_tensor(positions, dtype=torch.float32).expand(4, -1, -1))
    for row, b in enumerate(bead):
        own = np.flatnonzero(target.bead_of_atom == b)
        atom = torch.cdist(env.position[row], local[row]).argmin(dim=1).numpy()[env.present[row].numpy()]
        same = target.molecule_of_atom[atom] == target.molecule_of_bead[b]
        for column, i in enumerate(own):
            assert env.own_graph[row, column, :len(own)].tolist() == graph_classes(target, i, own, own >= 0)
            assert env.graph[row, column, :len(atom)].tolist() == graph_classes(target, i, atom, same)
        steps = np.clip(target.bead_of_atom[atom] - b, -MAX_OFFSET, MAX_OFFSET) + MAX_OFFSET
        assert env.offset[row, :len(atom)].tolist() == np.where(same, steps, N_OFFSETS - 1).tolist()


def test_slots_and_types_name_what_is_there(target, positions):
    env = environment(target, positions)
    vocabulary = Vocabulary.of(target)
    for b in range(target.n_beads):
        names = [vocabulary.slots[s] for s in env.slot[b][env.own[b]]]
        kind = target.chemistry.bead_types[target.bead_type[b]]
        assert names == [f"{kind}:{target.atom_names[i]}" for i in np.flatnonzero(target.bead_of_atom == b)]
