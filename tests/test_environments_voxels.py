"""Voxel environments: what is drawn, in which channel, and that it turns and mirrors with the bead."""

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from small_systems import BOX, TRICLINIC, small_positions, small_target

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.environments.voxel_channels import (
    Channels,
    channels_text,
    default_channels,
    load_channels,
    pair_masks,
)
from openmm_backmap.environments.voxel_sequences import atom_sequences, bead_ranks, walk, waves
from openmm_backmap.environments.voxels import (
    VoxelGrid,
    VoxelSurroundings,
    VoxelTables,
    densities,
    step_masks,
    turned,
    unpack,
)
from openmm_backmap.errors import InputError

GRID = VoxelGrid()


@pytest.fixture(scope="module")
def target():
    return small_target(2, 3)


@pytest.fixture(scope="module")
def channels(target):
    return default_channels([target])


@pytest.fixture(scope="module")
def tables(target, channels):
    return VoxelTables(target, channels)


@pytest.fixture(scope="module")
def positions(target):
    return small_positions(target)


def surroundings(tables, positions, box=BOX, grid=GRID):
    return VoxelSurroundings(tables, tables.target.mapping @ positions, box, grid)


def everything(tables, positions, box=BOX, hide_light=False, beads=None, grid=GRID, there=None):
    bead = torch.arange(tables.target.n_beads) if beads is None else torch.as_tensor(beads)
    there = torch.ones(tables.target.n_atoms, dtype=torch.bool) if there is None else there
    return surroundings(tables, positions, box, grid).environment(
        bead, torch.as_tensor(positions, dtype=torch.float32), there, hide_light)


def drawn(tables, env, column, angle=None, grid=GRID):
    """Densities (B, F, cells) with everything to be seen while ``column`` is placed."""
    angle = torch.zeros(len(env.bead), 1) if angle is None else angle
    masks = step_masks(tables, env, column, env.own_there)
    points = torch.cat([turned(env.own, angle), turned(env.points, angle)], dim=1)
    return densities(unpack(masks, tables.channels.n_channels), *grid.factors(points.transpose(1, 2)))


def test_gaussians_are_those_of_the_equation():
    grid = VoxelGrid(n_cells=4, edge_nm=0.8, width_nm=0.15)
    x = np.array([[0.1, -0.2, 0.05], [0.3, 0.0, -0.35]])
    centres = np.array([-0.3, -0.1, 0.1, 0.3])
    cells = np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), axis=-1).reshape(-1, 3)
    wanted = np.exp(-((cells - x[:, None]) ** 2).sum(-1) / (2 * 0.15**2))
    assert grid.gaussians(torch.as_tensor(x)).numpy() == pytest.approx(wanted)


def test_a_density_leads_back_to_its_point():
    x = torch.rand(50, 3, dtype=torch.float64) * 0.5 - 0.25
    density = GRID.gaussians(x)
    assert torch.allclose(GRID.coordinates(density), x, atol=2e-3)
    assert torch.allclose(density.sum(1), torch.full((50,), GRID.mass, dtype=torch.float64), rtol=0.01)
    assert torch.allclose(GRID.coordinates(7 * density), GRID.coordinates(density))


def test_densities_are_sums_over_particles():
    torch.manual_seed(0)
    mask, x = torch.randint(0, 8, (2, 5)), torch.rand(2, 5, 3, 3) - 0.5
    found = densities(unpack(mask, 3), *GRID.factors(x.transpose(1, 2))).unflatten(0, (len(x), -1))
    wanted = torch.zeros_like(found)
    for b in range(2):
        for p in range(5):
            for f in range(3):
                wanted[b, :, f] += (int(mask[b, p]) >> f & 1) * GRID.gaussians(x[b, p])
    assert torch.allclose(found, wanted, atol=1e-5)


def graph_of(target):
    return dict(nx.all_pairs_shortest_path_length(nx.Graph(target.bonds.tolist()), cutoff=3))


def named(channels, mask):
    keys = ("atoms", "bonds", "angles", "torsions", "lennard_jones", "beads")
    labels = [f"{key}:{entry[0]}" for key in keys for entry in getattr(channels, key)]
    return {label for k, label in enumerate(labels) if mask >> k & 1}


def test_channels_follow_the_bonds_between_two_atoms(target, channels, tables, positions):
    """Bond, angle and torsion partners by distance in the bond graph, all others Lennard-Jones, for every atom."""
    near, env = graph_of(target), everything(tables, positions)
    atoms = tables.base.atoms_of_bead
    for b in range(target.n_beads):
        own = atoms[b][atoms[b] >= 0].tolist()
        row = replace(env, **{k: getattr(env, k)[b:b + 1] for k in env.__dataclass_fields__})
        for column, placed in enumerate(own):
            mask = step_masks(tables, row, torch.tensor([column]), row.own_there)[0, :len(own)].tolist()
            for other, bits in zip(own, mask):
                kinds = {label.split(":")[0] for label in named(channels, bits)}
                steps = near[placed].get(other, 4)
                wanted = {"atoms", {0: "", 1: "bonds", 2: "angles", 3: "torsions", 4: "lennard_jones"}[steps]}
                # On a path that goes on beyond it, a partner is drawn in the longer paths' channels too.
                assert (bits == 0) if steps == 0 else wanted <= kinds
                assert ("lennard_jones" in kinds) == (steps == 4)


def test_channels_of_a_known_pair(target, channels):
    names = [f"{r}.{n}" for r, n in zip(target.residue_of_atom, target.atom_names)]
    ca, cg, hz = (names.index(f"0.{n}") for n in ("CA", "CG", "HZ"))
    placed, other, mask = pair_masks(target, channels)
    found = {(p, o): m for p, o, m in zip(placed.tolist(), other.tolist(), mask.tolist())}
    assert named(channels, found[ca, cg]) == {
        "atoms:C_AR", "bonds:C-C_AR", "angles:C-C_AR-C_AR", "torsions:C-C_AR-C_AR-C_AR", "torsions:C-C_AR-C_AR-H_AR"}
    assert (ca, hz) not in found and (hz, ca) not in found
    assert all(np.diff(placed * target.n_atoms + other) > 0)


def test_atoms_of_the_surroundings_are_all_drawn(target, tables, positions):
    """Every atom and bead within the cutoff, images included, and no other: by brute force."""
    for box in (None, BOX, TRICLINIC):
        env, around = everything(tables, positions, box), surroundings(tables, positions, box)
        beads = target.mapping @ positions
        shifts = np.zeros((1, 3)) if box is None else np.array(
            [[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]) @ box
        everywhere = (positions[:, None] + shifts).reshape(-1, 3)
        own = np.repeat(target.bead_of_atom, len(shifts))
        centre = np.tile(np.all(shifts == 0, axis=1), target.n_atoms)
        for b in range(target.n_beads):
            near = np.linalg.norm(everywhere - beads[b], axis=1) < GRID.cutoff_nm
            near &= ~((own == b) & centre)
            wanted = (everywhere[near] - beads[b]) @ around.frame[b].numpy().astype(float).T
            found = env.points[b, :env.kind.shape[1]][env.present[b]].numpy()
            assert len(found) == len(wanted)
            assert np.abs(np.sort(found, axis=0) - np.sort(wanted, axis=0)).max() < 1e-4
            assert (env.bead_mask[b] > 0).sum() == (np.linalg.norm(
                (beads[:, None] + shifts).reshape(-1, 3) - beads[b], axis=1) < GRID.cutoff_nm).sum()


def test_environments_turn_and_move_with_the_system(tables, positions):
    turn = Rotation.from_euler("xyz", [0.3, -1.0, 2.0]).as_matrix()
    column = torch.zeros(tables.target.n_beads, dtype=torch.long)
    one = drawn(tables, everything(tables, positions, None), column)
    two = drawn(tables, everything(tables, positions @ turn.T + [3.0, -1.0, 0.5], None), column)
    assert torch.allclose(one, two, atol=2e-5)


def test_mirror_images_with_the_other_hand_look_alike(target, channels, tables, positions):
    mirrored = positions * [-1.0, 1.0, 1.0]
    column = torch.zeros(target.n_beads, dtype=torch.long)
    one = drawn(tables, everything(tables, positions, None), column)
    other = VoxelTables(replace(target, bead_hand=-target.bead_hand), channels)
    assert torch.allclose(one, drawn(other, everything(other, mirrored, None), column), atol=2e-5)
    assert (one - drawn(tables, everything(tables, mirrored, None), column)).abs().max() > 0.1


def test_orientations_turn_about_z(tables, positions):
    env = everything(tables, positions)
    angle = torch.full((len(env.bead), 1), 0.7)
    turn = torch.as_tensor(Rotation.from_euler("z", 0.7).as_matrix(), dtype=torch.float32)
    column = torch.zeros(len(env.bead), dtype=torch.long)
    by_hand = replace(env, own=env.own @ turn.T, points=env.points @ turn.T)
    assert torch.allclose(drawn(tables, env, column, angle), drawn(tables, by_hand, column), atol=1e-5)
    assert torch.allclose(turned(turned(env.points, angle), -angle)[:, :, 0], env.points, atol=1e-6)


def test_hydrogens_of_the_bead_and_of_bonded_beads_are_hidden(target, tables, positions):
    light = np.array(target.elements) == "H"
    bonded = nx.Graph(target.bead_bonds.tolist())
    whole, hidden = (everything(tables, positions, hide_light=hide) for hide in (False, True))
    hydrogen = [target.chemistry.type_classes.index(name) for name in ("H", "H_AR")]
    around, beads = surroundings(tables, positions), target.mapping @ positions
    for b in range(target.n_beads):
        own = tables.base.atoms_of_bead[b].numpy()
        seen = own[:hidden.own_there.shape[1]][hidden.own_there[b].numpy()]
        assert set(seen) == {a for a in own if a >= 0 and not light[a]}
        lost = (whole.present[b].sum() - hidden.present[b].sum()).item()
        near = np.linalg.norm(positions - beads[b], axis=1) < GRID.cutoff_nm
        adjacent = np.isin(target.bead_of_atom, list(bonded[b]))
        assert lost == (near & adjacent & light).sum() > 0
        kept = hidden.kind[b][hidden.present[b]]
        assert torch.isin(kept, torch.tensor(hydrogen)).sum() == torch.isin(
            whole.kind[b][whole.present[b]], torch.tensor(hydrogen)).sum() - lost
    assert around.neighbour_adjacent.any()


def test_atoms_that_are_not_there_are_not_seen(target, tables, positions):
    env = everything(tables, positions, there=torch.zeros(target.n_atoms, dtype=torch.bool))
    assert not env.present.any() and not env.own_there.any()
    assert (env.bead_mask > 0).any()
    density = drawn(tables, env, torch.zeros(target.n_beads, dtype=torch.long))
    first = tables.channels.first("beads")
    assert density[:, :first].abs().max() == 0 and density[:, first:].abs().max() > 0.5


def test_shown_limits_neighbours_and_hydrogens_only_once_those_are_placed(target, tables, positions):
    around, x = surroundings(tables, positions), torch.as_tensor(positions, dtype=torch.float32)
    there, bead = torch.ones(target.n_atoms, dtype=torch.bool), torch.arange(target.n_beads)
    none = torch.zeros(target.n_beads, around.index.shape[1], dtype=torch.bool)
    assert not around.environment(bead, x, there, True, none).present.any()
    env = around.environment(bead, x, there, False, none)
    carbon = torch.tensor([target.chemistry.type_classes.index(name) for name in ("C", "C_AR")])
    assert env.present.any() and torch.isin(env.kind[env.present], carbon).all()


def test_channels_file(tmp_path, channels):
    file = tmp_path / "channels.yaml"
    file.write_text("""
atoms: [C, [H, H_AR]]
bonds: [C-C, [C-H, H_AR-C_AR]]
lennard_jones: [C_AR, C-H]
beads: [A, [B, P]]
aliases: {types: {CT: C}, beads: {S: B}}
""")
    found = load_channels(file)
    assert found.n_channels == 8 and found.types == ("C", "C_AR", "H", "H_AR")
    assert found.bits("bonds") == {"C-C": 4, "C-H": 8, "H-C": 8, "H_AR-C_AR": 8, "C_AR-H_AR": 8}
    assert found.bits("beads") == {"A": 64, "B": 128, "P": 128}
    assert Channels.from_dict(found.to_dict()) == found
    file.write_text(channels_text(channels))
    assert load_channels(file) == channels


@pytest.mark.parametrize("content, message", [
    ({"atom": ["C"]}, "unknown entry atom"), (["C"], "unknown entry"),
    ({"atoms": ["C"]}, "bead types under 'beads'"), ({"beads": ["A"]}, "atom types"),
    ({"atoms": ["C-C"], "beads": ["A"]}, "atoms: 'C-C' is not 1"),
    ({"angles": ["C-C"], "beads": ["A"]}, "angles: 'C-C' is not 3"),
    ({"atoms": [["C", 3]], "beads": ["A"]}, "atoms is a list of names"),
    ({"atoms": ["C"], "beads": ["A"], "aliases": ["C"]}, "aliases has 'types' and 'beads'"),
    ({"atoms": [f"C{k}" for k in range(70)], "beads": ["A"]}, "71 channels, at most 62")])
def test_odd_channels_are_refused(content, message):
    with pytest.raises(InputError) as error:
        Channels.from_dict(content, "c.yaml")
    assert message in str(error.value) and str(error.value).startswith("c.yaml")


def test_unreadable_channels_are_refused(tmp_path):
    (tmp_path / "odd.yaml").write_text("atoms: [C\n")
    for name in ("odd.yaml", "none.yaml"):
        with pytest.raises(InputError, match=f"{name}: not a readable channels file"):
            load_channels(tmp_path / name)


def test_channels_of_small_molecules_serve_the_polymer(target):
    liquids = [build_target(load_chemistry(name), [[monomer]]) for name, monomer in
               (("octane", "OCT"), ("cumene", "CUM"))]
    channels = default_channels(liquids)
    assert channels.types == ("C", "C_AR", "H", "H_AR")
    VoxelTables(target, channels)
    alone = default_channels(liquids[:1])
    with pytest.raises(InputError, match="no channel for atom type C_AR, atom type H_AR, bead type B; .*aliases"):
        VoxelTables(target, alone)
    VoxelTables(target, replace(alone, type_aliases={"C_AR": "C", "H_AR": "H"}, bead_aliases={"B": "A"}))


def test_walks_of_a_graph():
    """A ring of four with a tail, and one more on the root."""
    near = [[1, 3, 4], [0, 2], [1, 3, 5], [0, 2], [0], [2]]
    rng = np.random.default_rng(0)
    assert walk(near, 0, "depth-first", rng) == [0, 1, 2, 3, 5, 4]
    assert walk(near, 0, "breadth-first", rng) == [0, 1, 3, 4, 2, 5]
    found = {tuple(walk(near, 0, "random", rng)) for _ in range(30)}
    assert len(found) > 5 and all(sorted(f) == list(range(6)) for f in found)
    assert all(any(k in near[f] for f in order[:n]) for order in found for n, k in enumerate(order) if n)


def test_sequences_of_polystyrene(target, tables):
    rng = np.random.default_rng(0)
    names = np.array(target.atom_names)
    atoms = tables.base.atoms_of_bead.numpy()
    wanted = {"depth-first": (["CG", "CD1", "CE1", "CZ", "CE2", "CD2"], ["HD1", "HE1", "HZ", "HE2", "HD2"]),
              "breadth-first": (["CG", "CD1", "CD2", "CE1", "CE2", "CZ"], ["HD1", "HD2", "HE1", "HE2", "HZ"])}
    for order, (heavy, light) in wanted.items():
        sequences = atom_sequences(tables, order, rng)
        for b in (1, 3, 5):
            assert names[atoms[b][sequences.heavy[b].numpy()]].tolist() == heavy
            assert names[atoms[b][sequences.light[b][:5].numpy()]].tolist() == light
        assert names[atoms[2][sequences.heavy[2, :2].numpy()]].tolist() == ["CB", "CA"]
    sequences = atom_sequences(tables, "random", rng)
    total = sequences.heavy_length + sequences.light_length
    assert torch.equal(total, tables.base.size)


def test_beads_in_the_published_order():
    target = small_target(2, 3)
    rng = np.random.default_rng(0)
    assert bead_ranks(target, "depth-first", rng).tolist() == list(range(12))
    assert sorted(bead_ranks(target, "random", rng)[6:]) == list(range(6, 12))


def test_waves_are_the_order_done_at_once():
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(60, 3))
    distance = np.linalg.norm(x[:, None] - x, axis=-1)
    index = np.argsort(distance, axis=1)[:, 1:]
    rank = rng.permutation(60)
    wave = waves(index, np.take_along_axis(distance, index, 1), 0.25, rank)
    close = distance < 0.25
    for i in range(60):
        before = [wave[j] for j in range(60) if close[i, j] and rank[j] < rank[i]]
        assert wave[i] == max(before, default=-1) + 1
