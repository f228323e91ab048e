"""``backmap-openmm cg-model``: fits and runs that leave what they promise, go on after an interruption and refuse
what cannot be."""

import csv
import re

import numpy as np
import openmm as mm
import pytest
from coarse_systems import BOX, beads_of, molecules, simple_model, write_frames

from openmm_backmap.chemistry import match_beads, whole_beads
from openmm_backmap.cli import main
from openmm_backmap.coarse import (
    FitSettings,
    RunSettings,
    blocks,
    fit_model,
    load_cg_model,
    run_model,
    save_cg_model,
)
from openmm_backmap.coarse.graph import bead_app_topology
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.internal import bond_lengths
from openmm_backmap.io.readers import open_cg
from openmm_backmap.io.writers import write_structure

QUICK = ("--ps", "1", "--platform", "Reference", "--cutoff", "0.8")


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("atoms") / "melt", molecules("octane"), 3)


@pytest.fixture(scope="module")
def fitted(frames, tmp_path_factory):
    """A folder that the command has left, with one iteration."""
    out = tmp_path_factory.mktemp("models") / "octane"
    with pytest.raises(SystemExit) as left:
        main(["cg-model", "fit", str(frames / "frame_*.gro"), "--chemistry", "octane", "--out", str(out),
              "--iterations", "1", "-q", *QUICK])
    assert left.value.code == 0
    return out


@pytest.fixture
def run(capsys):
    """``run(*words)`` -> exit code, stdout, stderr of ``cg-model``."""
    def go(*words):
        with pytest.raises(SystemExit) as left:
            main(["cg-model", *map(str, words)])
        return left.value.code, *capsys.readouterr()
    return go


def scores(folder):
    with open(folder / "scores.csv") as file:
        return list(csv.DictReader(file))


def test_a_fit_leaves_a_model_its_system_and_figures(fitted):
    assert {p.name for p in fitted.iterdir()} == {
        "settings.json", "model.yaml", "start.gro", "system.xml", "scores.csv", "convergence.png", "iteration_000",
        "iteration_001"}
    assert {p.name for p in (fitted / "iteration_001").iterdir()} == {"model.yaml", "run.npz", "distributions.png"}
    model = load_cg_model(fitted)
    assert [t.name for t in model.terms] == ["bond A-A", "angle A-A-A", "dihedral A-A-A-A", "pair A-A"]
    assert model.provenance["iteration"] == 1 and model.provenance["molecules"] == 8
    assert {(row["iteration"], row["term"]) for row in scores(fitted)} >= {("0", "bond A-A"), ("1", "pair A-A")}
    system = mm.XmlSerializer.deserialize((fitted / "system.xml").read_text())
    assert system.getNumParticles() == 32
    first = load_cg_model(fitted / "iteration_000")
    assert np.abs(first.term("pair A-A").energy - model.term("pair A-A").energy).max() > 0


def test_a_fit_goes_on_with_more_iterations(frames, fitted, tmp_path, run):
    words = ("fit", frames, "--chemistry", "octane", *QUICK)
    once = tmp_path / "once"
    code, text, err = run(*words, "--out", once, "--iterations", 0)
    assert code == 0, err
    assert "pair A-A" in text and "floor" in text
    stamp = (once / "iteration_000" / "run.npz").stat().st_mtime_ns
    assert run(*words, "--out", once, "--iterations", 1)[0] == 0
    assert (once / "iteration_000" / "run.npz").stat().st_mtime_ns == stamp
    # Another fit that was never stopped has come to the same.
    assert (once / "model.yaml").read_text() == (fitted / "model.yaml").read_text()


@pytest.mark.parametrize("words, message", [
    (("--seed", "2"), "seed"),
    (("--iterations", "0"), "fit of 1 iterations"),
])
def test_a_folder_of_another_fit_is_refused(frames, fitted, run, words, message):
    words = words if "--iterations" in words else (*words, "--iterations", 1)
    code, _, err = run("fit", frames, "--chemistry", "octane", "--out", fitted, *QUICK, *words)
    assert code == 1 and message in err and err.count("\n") == 1


def test_a_damaged_record_is_one_line(frames, fitted, tmp_path, run):
    record = tmp_path / "m" / "settings.json"
    record.parent.mkdir()
    record.write_bytes((fitted / "settings.json").read_bytes()[:-20])
    code, _, err = run("fit", frames, "--chemistry", "octane", "--out", record.parent, *QUICK)
    assert code == 1 and f"{record}: damaged; remove it and give the command" in err and err.count("\n") == 1


@pytest.mark.parametrize("without, message", [("twists", "angles"), ("bonds", "constrained"),
                                              ("angle A-B-A", "angle A-A-A")])
def test_terms_that_cannot_be_left_out(frames, tmp_path, run, without, message):
    code, _, err = run("fit", frames, "--chemistry", "octane", "--out", tmp_path / "m", *QUICK, "--without", without)
    assert code == 1 and message in err and err.count("\n") == 1


def test_terms_are_chosen(frames, tmp_path):
    settings = FitSettings(iterations=0, ps=1.0, cutoff_nm=0.8, constrain_bonds=True,
                           without=("dihedrals",))
    chemistry = molecules("octane", 1).chemistry
    model, _ = fit_model([frames], chemistry, tmp_path / "m", settings, platform="Reference")
    assert [t.name for t in model.terms] == ["angle A-A-A", "pair A-A"]
    assert [c.name for c in model.constraints] == ["bond A-A"]
    assert 0.2 < model.constraints[0].length_nm < 0.3


def test_a_fit_that_was_interrupted_comes_to_the_same(frames, fitted, tmp_path, monkeypatch):
    settings = FitSettings(iterations=1, ps=1.0, cutoff_nm=0.8)
    chemistry = molecules("octane", 1).chemistry

    def stop(stage, done, total):
        if stage.startswith("iteration 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_model([frames], chemistry, tmp_path / "m", settings, platform="Reference", progress=stop)
    assert not (tmp_path / "m" / "model.yaml").exists()
    assert not list((tmp_path / "m").rglob("*.part*"))
    model, _ = fit_model([frames], chemistry, tmp_path / "m", settings, platform="Reference")
    kept = load_cg_model(fitted)
    np.testing.assert_array_equal(model.term("pair A-A").energy, kept.term("pair A-A").energy)


def test_a_run_is_a_trajectory_that_is_read(fitted, tmp_path, run):
    code, text, err = run("run", fitted, "-o", tmp_path / "cg.xtc", "--ps", 1, "--every", 0.25, "--platform",
                          "Reference", "--system", tmp_path / "cg.xml")
    assert code == 0, err
    assert {p.name for p in tmp_path.iterdir()} == {"cg.xtc", "cg.gro", "cg.xml"}
    source = open_cg(tmp_path / "cg.xtc", tmp_path / "cg.gro")
    found = list(source.frames())
    assert [frame.time_ps for frame in found] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    match = match_beads(molecules("octane", 1).chemistry, source.topology, found[0].positions, found[0].box)
    assert len(match.target.chains) == 8
    beads = whole_beads(match.target, found[-1].positions[match.bead_index], found[-1].box)
    lengths = bond_lengths(beads[match.target.bead_bonds])
    assert lengths.min() > 0.15 and lengths.max() < 0.35
    assert np.abs(found[0].positions - found[-1].positions).max() > 0.01
    assert run("run", fitted, "-o", tmp_path / "cg.xtc", "--ps", 1)[0] == 1


def test_a_run_of_other_numbers_of_molecules_and_types(tmp_path):
    target = molecules("cumene", 5)
    write_structure(tmp_path / "start.gro", bead_app_topology(target), beads_of(target, 1), BOX)
    run_model(simple_model(target), tmp_path / "start.gro", tmp_path / "cg.dcd", RunSettings(0.5, 0.25),
              platform="Reference")
    assert open_cg(tmp_path / "cg.dcd", tmp_path / "cg.gro").n_frames == 2


def test_a_run_that_was_interrupted_has_the_same_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 2)
    target = molecules("octane", 4)
    model, settings = simple_model(target), RunSettings(1.0, 0.2, seed=3)
    start = tmp_path / "start.gro"
    write_structure(start, bead_app_topology(target), beads_of(target, 1), BOX)

    def stop(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    go = lambda name, **options: run_model(model, start, tmp_path / name, settings, platform="Reference",  # noqa: E731
                                           **options)
    with pytest.raises(KeyboardInterrupt):
        go("a.xtc", progress=stop)
    assert not (tmp_path / "a.xtc").exists()
    with pytest.raises(InputError, match="interrupted run"):
        run_model(model, start, tmp_path / "a.xtc", RunSettings(1.0, 0.2, seed=4), platform="Reference")
    seen = []
    go("a.xtc", progress=lambda stage, done, total: seen.append(done))
    assert seen == [0, 3, 4, 5]
    go("b.xtc")
    a, b = ([frame.positions for frame in open_cg(tmp_path / name, tmp_path / "a.gro").frames()]
            for name in ("a.xtc", "b.xtc"))
    np.testing.assert_array_equal(a, b)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_what_a_run_refuses(tmp_path, run):
    target = molecules("octane", 2)
    save_cg_model(tmp_path / "model.yaml", simple_model(target))
    beads, topology = beads_of(target, 1), bead_app_topology(target)
    write_structure(tmp_path / "naked.gro", topology, beads, None)
    far = beads.copy()
    far[0] -= 0.5
    write_structure(tmp_path / "far.gro", topology, far, np.eye(3) * 6)
    go = lambda *words: run("run", tmp_path, *words)  # noqa: E731
    for words, message in (
            (("-o", tmp_path / "cg.xtc"), "--cg"),
            (("-o", tmp_path / "cg.xyz", "--cg", tmp_path / "far.gro"), "xyz"),
            (("-o", tmp_path / "cg.xtc", "--cg", tmp_path / "naked.gro"), "no periodic box"),
            (("-o", tmp_path / "cg.xtc", "--cg", tmp_path / "far.gro"), "nm long"),
            (("-o", tmp_path / "cg.xtc", "--cg", tmp_path / "far.gro", "--ps", "0.1"), "no frame")):
        code, _, err = go(*words)
        assert code == 1 and message in err and err.count("\n") == 1
    assert run("run", tmp_path / "nothing", "-o", tmp_path / "cg.xtc")[0] == 1


def test_help_has_examples(run):
    for words in ((), ("fit",), ("run",)):
        code, text, _ = run(*words, "--help")
        assert code == 0 and re.search(r"backmap-openmm cg-model (fit|run)", text)
