"""Random, geometric and fragment: what they place, how they minimise, and how they are found and reported."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from small_systems import BOX, small_dataset, small_positions, small_target
from toy_generator import toy_target, write_gro

from openmm_backmap import Backmapper
from openmm_backmap.chemistry import build_target, load_chemistry, parse_chemistry
from openmm_backmap.cli import main
from openmm_backmap.cli.app import app
from openmm_backmap.errors import ChemistryError, InputError, RefinementError, UnknownNameError
from openmm_backmap.generators.base import default_refine, find_model, load_generator, untrained_families
from openmm_backmap.generators.baselines.fragment import FragmentGenerator, kinds_of
from openmm_backmap.generators.baselines.geometric import GeometricGenerator
from openmm_backmap.generators.baselines.minimise import Stage, StagedMinimiser
from openmm_backmap.generators.baselines.placing import Rules, correct, rules_of
from openmm_backmap.generators.baselines.random import RandomGenerator, window
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.checks import inverted_centres, mapped, mapping_rmsd, ring_planarity
from openmm_backmap.geometry.internal import dihedral_angles
from openmm_backmap.model_file import save_model
from openmm_backmap.training.fragment import FragmentTrainer, FragmentTraining, fragments_of

MOLECULES = {"sps": ["STY"] * 4, "octane": ["OCT"], "cumene": ["CUM"], "tmbt": ["TMB"]}
BONDED = (Stage(200, without=("nonbonded",)),)


def system_of(name):
    """One molecule of a shipped chemistry, and beads of a conformation of it."""
    target = build_target(load_chemistry(name), [MOLECULES[name]])
    return target, mapped(target, build_coordinates(target, np.random.default_rng(5)))


def drawn(generator, target, beads, n_samples=1, seed=1, box=None):
    return generator.generate(target, beads, box, n_samples=n_samples, rng=np.random.default_rng(seed))


def library(dataset, **settings):
    trainer = FragmentTrainer(dataset, dataset, FragmentTraining(**settings))
    trainer.train()
    return trainer.generator().to_model(dataset.chemistry, {})


@pytest.fixture(scope="module")
def target():
    return small_target(2, 3)


@pytest.fixture(scope="module")
def atoms(target):
    return small_positions(target, 9)


# random -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", MOLECULES)
def test_random_units_are_rigid_and_their_share_of_the_bead_lies_on_it(name):
    target, beads = system_of(name)
    x = drawn(RandomGenerator(find_model("random", name)), target, beads, 2)
    for bead in range(target.n_beads):
        own = np.flatnonzero(target.bead_of_atom == bead)
        one, two = x[:, own]
        gaps = [np.linalg.norm(y[:, None] - y, axis=-1) for y in (one, two)]
        assert gaps[0] == pytest.approx(gaps[1], abs=1e-9)
        weights = target.mapping[[bead]].toarray()[0, own]
        assert weights @ one / weights.sum() == pytest.approx(beads[bead], abs=1e-9)
    inside = target.bead_of_atom[target.bonds[:, 0]] == target.bead_of_atom[target.bonds[:, 1]]
    lengths = np.linalg.norm(np.diff(x[0][target.bonds[inside]], axis=1), axis=-1)
    assert 0.10 < lengths.min() and lengths.max() < 0.16


def test_random_units_point_everywhere(target, atoms):
    x = drawn(RandomGenerator(find_model("random", "sps")), target, mapped(target, atoms), 200)
    ring, tip = (target.atom_names.index(name) for name in ("CG", "CZ"))
    axis = x[:, tip] - x[:, ring]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    assert axis.mean(0) == pytest.approx(np.zeros(3), abs=0.15)
    assert axis.T @ axis / len(axis) == pytest.approx(np.eye(3) / 3, abs=0.1)


def test_a_monomer_of_a_long_chain_stands_in_a_short_piece_as_in_the_whole():
    chain = tuple("abcdefgh")
    for k, name in enumerate(chain):
        piece, at = window(chain, k)
        assert piece[at] == name and at % 2 == k % 2 and len(piece) <= 4
        assert (at == 0, at == len(piece) - 1) == (k == 0, k == len(chain) - 1)
        assert piece[max(at - 1, 0):at + 2] == chain[max(k - 1, 0):k + 2]
    assert window(("a",), 0) == (("a",), 0)


# geometric ----------------------------------------------------------------------------------------------------------

CORNER = np.array([[9.0, 9.0, 9.0], [0.0, 0.0, 0.0], [0.15, 0.0, 0.0], [0.2, 0.14, 0.0], [0.05, -0.05, 0.14]])


def corrected(kind, n, hand=1):
    rules = Rules(None, ((kind, np.arange(n)[None], np.array([hand])),), np.full(5, 0.14), np.full(5, np.radians(120)))
    return correct(rules, CORNER)


@pytest.mark.parametrize(("kind", "dihedral"), [("cis", 0.0), ("trans", 180.0)])
def test_cis_and_trans(kind, dihedral):
    x = corrected(kind, 4)
    assert abs(dihedral_angles(x[:4])) == pytest.approx(dihedral, abs=1e-6)
    assert np.linalg.norm(x[0] - x[1]) == pytest.approx(0.14)
    assert (x[0] - x[1]) @ (x[2] - x[1]) / 0.14 / 0.15 == pytest.approx(-0.5)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_out_points_away(n):
    x = corrected("out", n)
    directions = x[2:n] - x[1]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    mean = directions.sum(0)
    assert x[0] - x[1] == pytest.approx(-0.14 * mean / np.linalg.norm(mean))


@pytest.mark.parametrize("hand", [1, -1])
def test_chiral(hand):
    a, b, c, d, e = corrected("chiral", 4, hand)
    assert hand * np.cross(c - b, d - b) @ (a - b) > 0
    a, b, c, d, e = corrected("chiral", 5, hand)
    normal = np.cross(d - c, e - c)
    assert -hand * normal @ (a - b) / np.linalg.norm(normal) == pytest.approx(0.14)


@pytest.mark.parametrize("name", MOLECULES)
def test_rules_name_every_atom_once_and_reach_every_hydrogen(name):
    target, beads = system_of(name)
    rules = rules_of(target)
    assert rules.means.sum(axis=1) == pytest.approx(np.ones(target.n_atoms))
    moved = np.concatenate([atoms[:, 0] for _, atoms, _ in rules.steps])
    assert len(np.unique(moved)) == len(moved)
    assert set(np.flatnonzero(np.array(target.elements) == "H")) <= set(moved)
    bonded = {frozenset(pair) for pair in target.bonds.tolist()}
    for _, atoms, _ in rules.steps:
        assert all(frozenset(row) in bonded for row in atoms[:, :2].tolist())


@pytest.mark.parametrize("name", MOLECULES)
def test_placed_atoms_settle_into_sound_molecules(name):
    target, beads = system_of(name)
    generator = GeometricGenerator(find_model("geometric", name), "CPU", stages=BONDED)
    for seed in range(3):
        x = drawn(generator, target, beads, seed=seed)[0]
        assert not inverted_centres(target, x).any()
        assert ring_planarity(target, x).max(initial=0) < 0.02
        # Nothing holds them on their beads in these stages.
        assert mapping_rmsd(target, x, beads, None) < 0.08
        lengths = np.linalg.norm(np.diff(x[target.bonds], axis=1), axis=-1)
        assert 0.09 < lengths.min() and lengths.max() < 0.19


def test_copies_of_a_chain_are_placed_alike():
    one, three = small_target(1, 3), small_target(3, 3)
    beads = mapped(one, build_coordinates(one, np.random.default_rng(2)))
    shifts = np.array([[0, 0, 0], [2.0, 0, 0], [0, 3.0, 0]])
    kick = np.random.default_rng(0).normal(scale=0.01, size=(one.n_atoms, 3))
    alone = correct(rules_of(one), rules_of(one).means @ beads + kick)
    together = rules_of(three)
    x = correct(together, together.means @ (beads + shifts[:, None]).reshape(-1, 3) + np.tile(kick, (3, 1)))
    assert x == pytest.approx((alone + shifts[:, None]).reshape(-1, 3))


def test_a_chemistry_without_rules_says_so(target, atoms):
    chemistry = load_chemistry("sps")
    text = chemistry.source[:chemistry.source.index("    # For the generator")] + chemistry.source[
        chemistry.source.index("# Closes every chain"):]
    bare = parse_chemistry(text, chemistry.force_field_xml)
    model = replace(find_model("geometric", "sps"), chemistry_source=text)
    with pytest.raises(ChemistryError, match="monomer STY has no placement.*docs/chemistry.md"):
        drawn(GeometricGenerator(model), build_target(bare, target.chains), mapped(target, atoms))


# fragment -----------------------------------------------------------------------------------------------------------

def test_fragments_are_pieces_of_the_snapshots_in_the_frames_of_their_beads(target):
    dataset = small_dataset(1, target=target)
    x = dataset.systems[0].positions[0].astype(float)
    beads = mapped(target, x)
    every = FragmentGenerator(library(dataset), fragments_of(dataset), stages=())
    # Of one kind there may be two, in the two chains: some draw picks for every bead its own.
    closest = np.min([np.abs(y - x).max(axis=1) for y in drawn(every, target, beads, 40)], axis=0)
    assert closest.max() < 1e-6
    assert not inverted_centres(target, drawn(every, target, beads)).any()


def test_kinds_tell_ends_apart_but_not_chain_lengths_or_hands():
    short, long = kinds_of(small_target(1, 3)), kinds_of(small_target(2, 7))
    assert set(short) == set(long) and len(short) == 5
    assert sum(len(bead) for bead, _ in long.values()) == 28
    for bead, atoms in long.values():
        assert (small_target(2, 7).bead_of_atom[atoms] == bead[:, None]).all()


def test_beads_that_the_library_does_not_hold_are_named(target):
    generator = FragmentGenerator(library(small_dataset(1)), {}, stages=())
    single = build_target(load_chemistry("sps"), [["STY"]])
    with pytest.raises(InputError, match="no fragment of a bead with the atoms HB1, CB, HB2, HA, CA, H1, H2"):
        drawn(generator, single, np.zeros((2, 3)))


@pytest.mark.parametrize("damage", [
    lambda m: replace(m, weights={**m.weights, "fragments.0": m.weights["fragments.0"][:, :2]}),
    lambda m: replace(m, weights={**m.weights, "fragments.1": m.weights["fragments.1"][:0]}),
    lambda m: replace(m, weights={**m.weights, "fragments.2": m.weights["fragments.2"] * float("nan")}),
    lambda m: replace(m, hyperparameters={})])
def test_damaged_libraries_are_refused(damage):
    with pytest.raises(InputError, match="do not fit together"):
        load_generator(damage(library(small_dataset(1))), "cpu")


# minimisation -------------------------------------------------------------------------------------------------------

def energies(target, x, box):
    from openmm_backmap.chemistry import create_system
    from openmm_backmap.energy.openmm_energy import energies_by_force

    flexible = replace(target, chemistry=replace(target.chemistry, constraints="none"))
    return energies_by_force(create_system(flexible, box), x, box, "Reference")


def test_a_stage_minimises_the_forces_that_are_on_and_no_others(target, atoms):
    noisy = atoms + np.random.default_rng(0).normal(scale=0.02, size=atoms.shape)
    stages = (Stage(60, without=("nonbonded", "torsion", "improper")),)
    x = StagedMinimiser(stages, "CPU").minimise(target, noisy, mapped(target, atoms), BOX)
    before, after = energies(target, noisy, BOX), energies(target, x, BOX)
    assert after["bond"] + after["angle"] < 0.1 * (before["bond"] + before["angle"])
    again = StagedMinimiser((Stage(60, without=("nonbonded",)),), "CPU").minimise(target, noisy, mapped(target, atoms),
                                                                                  BOX)
    assert energies(target, again, BOX)["improper"] < 0.5 * after["improper"]


def test_restrained_stages_hold_the_beads(target, atoms):
    beads = mapped(target, atoms) + np.array([[0.03, 0, 0], [0, -0.03, 0]])[target.molecule_of_bead]
    off = [mapping_rmsd(target, StagedMinimiser((Stage(500, ("nonbonded",), held),), "CPU").minimise(
        target, atoms, beads, BOX), beads, BOX) for held in (True, False)]
    assert off[0] < 0.005 and off[1] > 0.02


def test_overlaps_of_any_force_come_apart(target, atoms):
    second = target.molecule_of_atom == 1
    x = atoms.copy()
    x[second] += x[0] - x[second][0] + 1e-3
    before = energies(target, x, BOX)["total"]
    after = energies(target, StagedMinimiser((Stage(150),), "CPU").minimise(target, x, mapped(target, x), BOX), BOX)
    assert before > 1e15 and after["total"] < 1e-6 * before


def test_atoms_on_top_of_each_other_are_refused(target, atoms):
    same = atoms.copy()
    same[1] = same[0]
    with pytest.raises(RefinementError, match="on top of each other"):
        StagedMinimiser((Stage(5),), "CPU").minimise(target, same, mapped(target, atoms), BOX)


def test_one_minimiser_serves_frames_in_boxes_of_their_own(target, atoms):
    kept, stages = StagedMinimiser((Stage(20),), "CPU"), (Stage(20),)
    kept.minimise(target, atoms, mapped(target, atoms), BOX)
    for box in (1.1 * BOX, None):
        fresh = StagedMinimiser(stages, "CPU").minimise(target, atoms, mapped(target, atoms), box)
        again = kept.minimise(target, atoms, mapped(target, atoms), box)
        # The grid of the Ewald sum is that of the first box.
        assert again == pytest.approx(fresh, abs=1e-5)


# found by name, run, and reported -----------------------------------------------------------------------------------

def test_families_are_found_by_name_and_chemistry(toy_model, tmp_path):
    for family in ("random", "geometric"):
        model = find_model(family, "octane")
        assert (model.family, model.chemistry.name, model.weights) == (family, "octane", {})
        assert default_refine(model) == "none"
    assert {"random", "geometric"} <= set(untrained_families()) and "flow" not in untrained_families()
    assert default_refine(find_model(toy_model)) == "equilibrate"
    save_model(library(small_dataset(1)), tmp_path / "fragment.pt")
    mine = find_model(tmp_path / "fragment.pt")
    assert default_refine(mine) == "none" and find_model(mine) is mine


def test_a_trained_family_and_a_chemistry_mean_a_shipped_model(tmp_path, monkeypatch):
    save_model(library(small_dataset(1)), tmp_path / "fragment-sps.pt")
    for module in ("model_file", "generators.base"):
        monkeypatch.setattr(f"openmm_backmap.{module}.shipped_models",
                            lambda: {"fragment-sps": tmp_path / "fragment-sps.pt"})
    found = find_model("fragment", "sps")
    assert found.name == "fragment-sps" and found.sha256 == find_model("fragment-sps").sha256


@pytest.mark.parametrize(("words", "error", "said"), [
    (("random",), InputError, "give --chemistry"),
    (("random", "nosuch"), UnknownNameError, "unknown chemistry 'nosuch'"),
    (("randm", "sps"), UnknownNameError, "unknown model 'randm' .did you mean 'random'"),
    (("sps", "sps"), InputError, "model sps brings its own chemistry: leave --chemistry sps out"),
    (("fragment", "cumene.yaml"), UnknownNameError, "unknown chemistry 'cumene.yaml'"),
    (("flow", "octane"), InputError, "no shipped model flow-octane: make one with 'backmap-openmm train.*family: flow")
])
def test_models_that_cannot_be_found_say_what_to_do(words, error, said, monkeypatch):
    monkeypatch.setattr("openmm_backmap.generators.base.shipped_models", lambda: {"sps": None})
    with pytest.raises(error, match=said):
        find_model(*words)


def test_baselines_are_reported_by_default_and_refined_when_asked(tmp_path):
    cg = write_gro(tmp_path / "cg.gro", toy_target(2, 5))
    backmapper = Backmapper("random", "sps", platform="CPU", device="cpu")
    atoms = backmapper.backmap(cg, seed=1)
    assert atoms.provenance["refine"] == "none" and atoms.provenance["family"] == "random"
    assert atoms.diagnostics[0].inverted_centres[1] > 0 and atoms.diagnostics[0].bead_rmsd < 1e-6
    report = backmapper.backmap(cg, seed=1, refine="minimize").diagnostics[0]
    assert report.inverted_centres[0] > report.inverted_centres[1] == 0 and report.largest_force_after < 2e4


@pytest.mark.parametrize("project", [(), ("--no-projection",)])
def test_the_summary_says_what_is_wrong(tmp_path, project, capsys):
    cg = write_gro(tmp_path / "cg.gro", toy_target(2, 5))
    words = [cg, "-o", tmp_path / "aa.gro", "--model", "random", "--chemistry", "sps", "--seed", 1, "-n", 2,
             "--platform", "CPU", *project]
    with pytest.raises(SystemExit) as left:
        main(list(map(str, words)))
    out, err = capsys.readouterr()
    assert left.value.code == 0, err
    assert "not fit to start MD from (2 of 2 samples): " in out and "inverted centre" in out.splitlines()[-2]
    for word in ("close contacts", "inverted", "pierced rings"):
        assert any(line.startswith(word) for line in out.splitlines())


def test_models_lists_what_needs_no_training():
    out = CliRunner().invoke(app, ["models"]).output
    assert "random           untrained" in out and "geometric        untrained" in out
