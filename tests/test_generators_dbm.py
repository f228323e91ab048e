"""The dbm family: energies of many beads, selection, networks, placing, the outer loop, model files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_systems import BOX, TRICLINIC, small_positions, small_target

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.environments.voxel_channels import default_channels
from openmm_backmap.environments.voxel_sequences import atom_sequences
from openmm_backmap.environments.voxels import (
    VoxelSurroundings,
    VoxelTables,
    densities,
    step_masks,
    turned,
    unpack,
)
from openmm_backmap.errors import InputError
from openmm_backmap.generators.dbm import PRESETS, DBMCritic, DBMGenerator, DBMHyperparameters, DBMNetwork, DBMSampling
from openmm_backmap.generators.dbm.energies import GAS_CONSTANT, BeadEnergies, Placement, flexible_energy, pick
from openmm_backmap.generators.dbm.placing import Scene, place
from openmm_backmap.generators.dbm.sweep import DBMSweep
from openmm_backmap.sampling import SweepSettings

TINY = DBMHyperparameters(stem=4, width=8, blocks=1, noise=4)
QUICK = SweepSettings(gibbs=0, max_redraws=0)


@pytest.fixture(scope="module")
def target():
    return small_target(2, 3)


@pytest.fixture(scope="module")
def positions(target):
    return small_positions(target)


@pytest.fixture(scope="module")
def tables(target):
    return VoxelTables(target, default_channels([target]))


def network(tables, seed=0, **changes):
    torch.manual_seed(seed)
    return DBMNetwork(replace(TINY, **changes), tables.channels.n_channels, len(tables.channels.types)).eval()


def placement(tables, positions, bead, light=False, n=3, noise=0.01):
    """``n`` placements of the sequences of beads of one kind, around where the atoms are."""
    columns, length = atom_sequences(tables, "depth-first", np.random.default_rng(0)).of(light)
    bead = torch.as_tensor(bead)
    columns = columns[bead, :int(length[bead[0]])]
    atoms = tables.base.atoms_of_bead[bead]
    x = torch.as_tensor(positions)
    own = x[atoms.clamp(min=0)][:, None].repeat(1, n, 1, 1)
    torch.manual_seed(1)
    moved = torch.zeros(own.shape[0], own.shape[2], dtype=torch.bool).scatter(1, columns, True)
    own = own + noise * torch.randn(own.shape, dtype=own.dtype) * moved[:, None, :, None]
    return Placement(bead, columns, own, x, torch.ones(tables.target.n_atoms, dtype=torch.bool), False)


@pytest.mark.parametrize("box", [BOX, TRICLINIC])
@pytest.mark.parametrize("light", [False, True])
def test_energies_of_many_beads_are_those_of_each(target, tables, positions, box, light):
    whole = flexible_energy(target, box)
    energies = BeadEnergies(tables, whole, target.mapping @ positions, box, dtype=torch.float64)
    for beads in ([1, 3, 5], [2], [0]):
        placed = placement(tables, positions, beads, light)
        found = energies.terms(placed)
        for row, bead in enumerate(beads):
            moved = tables.base.atoms_of_bead[bead][placed.columns[row]]
            wanted = whole.local(moved).terms(placed.own[row][:, placed.columns[row]], placed.positions, box)
            assert set(found) == set(wanted)
            for name, energy in wanted.items():
                assert found[name][row].numpy() == pytest.approx(energy.numpy(), rel=1e-6, abs=1e-6), name


def test_energies_without_a_box_leave_out_what_is_far(target, tables, positions):
    whole = flexible_energy(target, None)
    energies = BeadEnergies(tables, whole, target.mapping @ positions, None, dtype=torch.float64)
    placed = placement(tables, positions, [3])
    moved = tables.base.atoms_of_bead[3][placed.columns[0]]
    wanted = whole.local(moved).terms(placed.own[0][:, placed.columns[0]], placed.positions)
    found = energies.terms(placed)
    assert found["angle"][0].numpy() == pytest.approx(wanted["angle"].numpy())
    assert found["lj"][0].numpy() == pytest.approx(wanted["lj"].numpy(), abs=0.3)
    assert found["lj"][0].numpy() != pytest.approx(wanted["lj"].numpy(), abs=1e-4)


def test_energies_count_only_atoms_that_are_there(target, tables, positions):
    """With hydrogens hidden it is as if those of the bead and of bonded beads did not exist."""
    energies = BeadEnergies(tables, flexible_energy(target, BOX), target.mapping @ positions, BOX, torch.float64)
    placed = placement(tables, positions, [3])
    near = np.isin(target.bead_of_atom, tables.adjacent[3].numpy())
    bare = torch.as_tensor(~(near & (np.array(target.elements) == "H")))
    one = energies.terms(replace(placed, hide_light=True))
    two = energies.terms(replace(placed, there=bare))
    whole = energies.terms(placed)
    for name in one:
        assert torch.allclose(one[name], two[name])
    assert (whole["angle"] - one["angle"]).abs().min() > 1e-3 and (whole["lj"] - one["lj"]).abs().min() > 1e-6
    alone = energies.terms(replace(placed, there=torch.zeros_like(bare)))
    angles = [row for row in flexible_energy(target, BOX).bonded if row.kind == "angle"][0]
    ring = tables.base.atoms_of_bead[3][placed.columns[0]]
    inside = torch.isin(angles.atoms, ring).all(1)
    wanted = replace(angles, atoms=angles.atoms[inside], parameters=angles.parameters[inside])
    x = torch.as_tensor(positions).repeat(3, 1, 1)
    x[:, ring] = placed.own[0][:, placed.columns[0]]
    assert alone["angle"][0].numpy() == pytest.approx(wanted.energies(x, None).sum(1).numpy())


def test_energies_have_gradients(target, tables, positions):
    energies = BeadEnergies(tables, flexible_energy(target, BOX), target.mapping @ positions, BOX)
    placed = placement(tables, positions.astype(np.float32), [1, 3])
    own = placed.own.float().requires_grad_()
    sum(e.sum() for e in energies.terms(replace(placed, own=own)).values()).backward()
    moved = torch.zeros(2, own.shape[2], dtype=torch.bool).scatter(1, placed.columns, True)
    size = own.grad.norm(dim=-1).amin(1)
    assert torch.isfinite(own.grad).all() and (size[moved] > 1.0).all()


def test_the_lowest_and_the_first_are_picked():
    energies = torch.tensor([[3.0, 1.0, 2.0], [torch.nan, torch.inf, 1e30], [5.0, -1e9, 4.0]])
    assert pick(energies, "lowest", 300).tolist() == [1, 2, 1]
    assert pick(energies, "first", 300).tolist() == [0, 0, 0]


def test_boltzmann_picks_by_weight():
    temperature, n = 568.0, 40000
    level = torch.tensor([0.0, 1.0, 2.0, 30.0, torch.inf]) * GAS_CONSTANT * temperature
    found = pick((level + 1000).expand(n, -1), "boltzmann", temperature, torch.Generator().manual_seed(0))
    weight = torch.exp(-torch.tensor([0.0, 1.0, 2.0, 30.0, torch.inf]))
    counts = torch.bincount(found, minlength=5) / n
    assert torch.allclose(counts, weight / weight.sum(), atol=0.01)


@pytest.mark.parametrize("stem", [4, 0])
@pytest.mark.parametrize("head", ["density", "coordinates"])
def test_both_heads_give_a_density_and_its_point(tables, head, stem):
    net = network(tables, head=head, stem=stem)
    torch.manual_seed(2)
    seen, kind, noise = torch.rand(5, tables.channels.n_channels, 512), torch.tensor([0, 1, 2, 3, 0]), torch.randn(5, 4)
    density, point = net(seen, kind, noise)
    assert density.shape == (5, 512) and point.shape == (5, 3) and (density >= 0).all()
    if head == "density":
        assert torch.allclose(density.sum(1), torch.full((5,), net.grid.mass), rtol=1e-5)
        assert torch.allclose(point, net.grid.coordinates(density), atol=1e-6)
    else:
        assert torch.allclose(density, net.grid.gaussians(point))
        assert point.abs().max() < net.grid.edge_nm / 2
    other = net(seen, kind, torch.randn(5, 4))[1]
    assert (point - other).norm(dim=1).min() > 1e-6
    assert (point - net(seen, kind.flip(0).roll(1), noise)[1]).norm(dim=1).max() > 1e-6
    assert (point - net(seen.flip(2), kind, noise)[1]).norm(dim=1).min() > 1e-6


def test_without_a_stem_cells_keep_their_places(tables):
    """A move by two cells moves what the first layers make of it by one, and what the head makes by two."""
    net = network(tables, stem=0)
    encoder, last = net.encoder[0], net.head
    seen = torch.zeros(1, tables.channels.n_channels, 8, 8, 8)
    seen[..., 2, 5, 3] = 1
    one, two = encoder(seen), encoder(seen.roll(2, 3))
    assert torch.equal(one.roll(1, 3), two) and not torch.equal(one, two)
    x = torch.zeros(1, TINY.width, 4, 4, 4)
    x[..., 1, 2, 1] = 1
    change = [(last(x.roll(k, 4)) - last(torch.zeros_like(x))).view(8, 8, 8) for k in (0, 1)]
    assert torch.allclose(change[0].roll(2, 2), change[1], atol=1e-6)
    assert (change[0].abs() > 1e-9).nonzero().amin(0).tolist() == [0, 2, 0]
    assert (change[0].abs() > 1e-9).nonzero().amax(0).tolist() == [5, 7, 5]


@pytest.mark.parametrize("stem", [4, 0])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_the_critic_sees_environment_type_and_atom(tables, spectral_norm, stem):
    torch.manual_seed(0)
    critic = DBMCritic(replace(TINY, stem=stem), tables.channels.n_channels, 4, spectral_norm)
    for _ in range(50 if spectral_norm else 1):
        critic(torch.rand(1, tables.channels.n_channels, 512), torch.tensor([0]), torch.rand(1, 512))
    critic.eval()
    seen, kind, atom = torch.rand(3, tables.channels.n_channels, 512), torch.tensor([0, 1, 2]), torch.rand(3, 512)
    score = critic(seen, kind, atom)
    assert score.shape == (3,)
    others = (critic(seen.flip(2), kind, atom), critic(seen, (kind + 1) % 4, atom), critic(seen, kind, atom.flip(1)))
    for other in others:
        assert (other - score).abs().min() > 1e-7
    if spectral_norm:
        largest = [torch.linalg.matrix_norm(m.weight.flatten(1), 2).item() for m in critic.modules()
                   if isinstance(m, torch.nn.Conv3d | torch.nn.Linear)]
        assert max(largest) < 1.15


@pytest.mark.parametrize("turn", [360.0, 40.0, 0.0])
def test_orientations_fill_the_turn_and_no_more(turn):
    angles = torch.rad2deg(replace(TINY, turn_deg=turn).orientations(torch.linspace(0, 2, 401)[:-1]))
    assert angles.min() == 0 and angles.max() == pytest.approx(0.995 * turn, abs=1e-3)
    assert angles.diff()[:199].numpy() == pytest.approx(turn / 200, abs=1e-3)
    assert torch.allclose(angles[:200], angles[200:], atol=1e-2)


def test_presets_make_networks(tables):
    assert set(PRESETS) == {"small", "published"}
    for preset in PRESETS.values():
        hyper = DBMHyperparameters(**preset)
        assert DBMNetwork(hyper, 3, 2).hyper == hyper


def test_each_atom_is_placed_among_those_before_it(target, tables, positions):
    """What the network sees at a step has the atoms of the steps before where it put them, and no later one."""
    around = VoxelSurroundings(tables, target.mapping @ positions, BOX, TINY.grid)
    sequences = atom_sequences(tables, "depth-first", np.random.default_rng(0))
    bead = torch.tensor([1, 3])
    columns = sequences.heavy[bead]
    there = torch.zeros(target.n_atoms, dtype=torch.bool)
    env = around.environment(bead, torch.as_tensor(positions, dtype=torch.float32), there, hide_light=True)
    scene = Scene(tables, TINY.grid, env, torch.tensor([[0.3, 2.0], [1.0, -1.0]]))
    noise = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(0))
    steps = list(place(network(tables), scene, columns, env.own_there, noise))
    first, last = tables.channels.first("atoms"), tables.channels.first("bonds")
    for k, step in enumerate(steps):
        atoms = step.environment[:, first:last].sum(1)
        wanted = sum((TINY.grid.gaussians(before.point) for before in steps[:k]), torch.zeros_like(atoms))
        assert torch.allclose(atoms, wanted, atol=1e-5)
    found = scene.own_local()
    assert found.shape == (2, 2, env.own.shape[1], 3)
    last_column = found[torch.arange(2), :, columns[:, 5]]
    assert torch.allclose(last_column[0, 0, 2], steps[5].point[0, 2], atol=1e-6)
    assert torch.allclose(last_column.norm(dim=-1).flatten(), steps[5].point.norm(dim=-1), atol=1e-6)


def test_what_is_kept_from_atom_to_atom_changes_nothing(target, tables, positions):
    """Beads of two kinds, whose atoms are of several types: each step sees all particles with their own channels."""
    around = VoxelSurroundings(tables, target.mapping @ positions, BOX, TINY.grid)
    bead = torch.tensor([1, 2, 3])
    x = torch.as_tensor(positions, dtype=torch.float32)
    env = around.environment(bead, x, torch.ones(target.n_atoms, dtype=torch.bool), hide_light=False)
    scene = Scene(tables, TINY.grid, env, torch.tensor([[0.3, 2.0], [1.0, -1.0], [0.5, 0.0]]))
    assert (env.near >= 0).any() and ((env.near < 0) & env.present).any()
    for column in torch.tensor([[0, 0, 0], [1, 1, 1], [0, 1, 2], [0, 1, 2]]):
        masks = unpack(step_masks(tables, env, column, env.own_there), tables.channels.n_channels)
        points = torch.cat([scene.own, turned(env.points, scene.angle)], dim=1)
        wanted = densities(masks, *TINY.grid.factors(points.transpose(1, 2)))
        assert torch.allclose(scene.environment(column, env.own_there), wanted, atol=1e-5)


def test_gradients_flow_back_through_the_sequence(target, tables, positions):
    around = VoxelSurroundings(tables, target.mapping @ positions, BOX, TINY.grid)
    bead = torch.tensor([1])
    columns = atom_sequences(tables, "depth-first", np.random.default_rng(0)).heavy[bead]
    env = around.environment(bead, torch.as_tensor(positions, dtype=torch.float32),
                             torch.zeros(target.n_atoms, dtype=torch.bool), True)
    scene = Scene(tables, TINY.grid, env, torch.zeros(1, 1))
    noise = torch.zeros(6, 1, 4, requires_grad=True)
    steps = list(place(network(tables), scene, columns, env.own_there, noise))
    gradient = torch.autograd.grad(steps[5].point.sum(), noise)[0]
    assert gradient[0].abs().max() > 0


class Recorded(DBMSweep):
    """Tells what was drawn when."""

    def draw(self, beads, light, gibbs):
        self.calls = [*getattr(self, "calls", []), (sorted(beads.tolist()), light, gibbs)]
        super().draw(beads, light, gibbs)


def sweep(target, tables, positions, box=BOX, sweeps=QUICK, seed=0, kind=DBMSweep, **sampling):
    sampling = DBMSampling(**{"n_ensemble": 1, **sampling})
    beads = target.mapping @ positions
    energies = BeadEnergies(tables, flexible_energy(target, box), beads, box) if sampling.needs_energies else None
    around = VoxelSurroundings(tables, beads, box, TINY.grid)
    return kind(around, network(tables), sampling, sweeps, energies, box, np.random.default_rng(seed))


@torch.inference_mode()
def test_heavy_atoms_of_all_beads_come_before_hydrogens(target, tables, positions):
    run = sweep(target, tables, positions, sweeps=SweepSettings(gibbs=1, max_redraws=0), kind=Recorded)
    x = run.run()
    assert run.there.all() and torch.isfinite(x).all()
    kinds = [call[1:] for call in run.calls]
    assert list(dict.fromkeys(kinds)) == [(False, False), (True, False), (False, True), (True, True)]
    for kind in dict.fromkeys(kinds):
        drawn = [bead for beads, *what in run.calls if tuple(what) == kind for bead in beads]
        assert sorted(drawn) == list(range(target.n_beads))


@torch.inference_mode()
def test_the_published_order_of_beads():
    target = small_target(1, 4)
    tables = VoxelTables(target, default_channels([target]))
    run = sweep(target, tables, small_positions(target), kind=Recorded, bead_order="depth-first")
    run.run()
    assert [beads for beads, light, _ in run.calls if not light] == [[b] for b in range(target.n_beads)]


@torch.inference_mode()
def test_low_energies_are_kept(target, tables, positions):
    """The energy of what ``lowest`` keeps is below that of the first candidate, on the whole."""
    run = sweep(target, tables, positions, n_ensemble=6)
    seen = []
    terms = run.energies.terms
    run.energies.terms = lambda placed: seen.append((placed, terms(placed))) or seen[-1][1]
    run.run()
    placed, energy = seen[0]
    total = sum(energy.values())
    kept = run.positions[tables.base.atoms_of_bead[placed.bead].gather(1, placed.columns)]
    at = placed.columns[..., None].expand(-1, -1, 3)
    for row in range(len(placed.bead)):
        best = placed.own[row, total[row].argmin()].gather(0, at[row])
        assert torch.equal(best, kept[row])
    assert sum((sum(e.values()).amin(1) < sum(e.values())[:, 0]).sum() for _, e in seen) > len(seen)


@torch.inference_mode()
def test_batches_on_a_processor_may_be_of_any_size(target, tables, positions, monkeypatch):
    found = []
    for rows in (1, 1000):
        monkeypatch.setattr("openmm_backmap.generators.dbm.sweep._ROWS", rows)
        found.append(sweep(target, tables, positions, n_ensemble=3, selection="boltzmann").run())
    assert torch.allclose(*found, atol=1e-5)


@torch.inference_mode()
def test_faulty_beads_are_drawn_afresh(target, tables, positions):
    """An untrained network leaves every stereocentre to chance: faults are found, and drawn without their own atoms."""
    run = sweep(target, tables, positions, sweeps=SweepSettings(gibbs=0, max_redraws=2), kind=Recorded)
    run.run()
    again = [call for call in run.calls[len(run.calls) // 3:] if not call[2]]
    assert again and run.there.all()
    seen = []
    draw_alike = run._draw_alike
    run._draw_alike = lambda *words: seen.append(run.there.clone()) or draw_alike(*words)
    run._redraw(None)
    assert seen and any(not there.all() for there in seen)


@pytest.mark.parametrize("wrong", [{"selection": "best"}, {"bead_order": "up"}, {"n_ensemble": 0}])
def test_odd_sampling_is_refused(wrong):
    with pytest.raises(InputError, match="selection is one of lowest, boltzmann, first"):
        DBMSampling(**wrong)


@pytest.fixture(scope="module")
def liquid_generator():
    """Channels of octane and cumene, with an untrained network."""
    liquids = [build_target(load_chemistry("octane"), [["OCT"]]), build_target(load_chemistry("cumene"), [["CUM"]])]
    channels = default_channels(liquids)
    torch.manual_seed(0)
    net = DBMNetwork(TINY, channels.n_channels, len(channels.types))
    return DBMGenerator(net, channels, sampling=DBMSampling(n_ensemble=2, selection="boltzmann"), sweeps=QUICK)


def test_a_model_of_small_molecules_places_a_polymer(liquid_generator, target, positions):
    model = liquid_generator.to_model(load_chemistry("octane"), {"recipe": "none"})
    again = DBMGenerator.from_model(model)
    assert again.sampling == liquid_generator.sampling and again.sweeps == QUICK
    assert again.channels == liquid_generator.channels
    beads = target.mapping @ positions
    one, two = (g.generate(target, beads, BOX, rng=np.random.default_rng(1)) for g in (liquid_generator, again))
    assert one.shape == (1, target.n_atoms, 3) and np.array_equal(one, two)


def test_types_without_channels_are_named(liquid_generator, target, positions):
    channels = default_channels([build_target(load_chemistry("octane"), [["OCT"]])])
    narrow = DBMGenerator(liquid_generator.network, channels)
    with pytest.raises(InputError, match="do not cover chemistry sps: no channel for atom type C_AR"):
        narrow.generate(target, target.mapping @ positions, BOX, rng=np.random.default_rng(0))


@pytest.mark.parametrize("changes", [
    {"network": {"depth": 3}}, {"network": {"stem": 8}}, {"sampling": {"n": 1}}, {"channels": {"atoms": ["C"]}}])
def test_content_that_does_not_fit_is_refused(liquid_generator, changes):
    model = liquid_generator.to_model(load_chemistry("octane"), {})
    with pytest.raises(InputError, match="do not fit together|channels need"):
        DBMGenerator.from_model(replace(model, hyperparameters={**model.hyperparameters, **changes}))


def test_a_model_is_found_for_other_molecules_if_its_family_transfers(tmp_path):
    from openmm_backmap.generators.base import find_model
    from openmm_backmap.model_file import save_model

    path = tmp_path / "dbm.pt"
    channels = default_channels([small_target()])
    generator = DBMGenerator(DBMNetwork(TINY, channels.n_channels, len(channels.types)), channels)
    save_model(generator.to_model(load_chemistry("sps"), {}), path)
    assert find_model(path).chemistry.name == "sps"
    assert find_model(path, "octane").chemistry.name == "octane"
