"""An evaluation from files to scores: pairs, seeds, workers, going on, failures and what may not be mixed."""

import csv
import json
import os
from dataclasses import dataclass

import numpy as np
import pytest
from openmm.unit import kelvin
from scipy.spatial.transform import Rotation
from small_systems import BOX, small_positions
from toy_generator import ToyGenerator, conformation, toy_target, write_gro

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.evaluate import evaluate
from openmm_backmap.analysis.evaluation import draws, judging
from openmm_backmap.analysis.evaluation import figures as evaluation_figures
from openmm_backmap.analysis.evaluation import page as evaluation_page
from openmm_backmap.analysis.evaluation.inputs import bead_topology, read_inputs, read_structures
from openmm_backmap.analysis.evaluation.judging import NotDone
from openmm_backmap.analysis.evaluation.processes import run_tasks
from openmm_backmap.analysis.evaluation.results import FLOOR, as_text, number_text, summary_table
from openmm_backmap.analysis.kept import keep, kept
from openmm_backmap.analysis.relaxation import Band
from openmm_backmap.chemistry import build_target, load_chemistry, match_beads
from openmm_backmap.errors import BackmapError, ChemistryError, InputError, RefinementError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.io.writers import write_structure

SEEDS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def sps():
    return load_chemistry("sps")


@pytest.fixture(scope="module")
def target():
    return toy_target(2, 3)


def write_atoms(path, target, positions):
    write_structure(path, target.topology, positions, BOX, gro_precision=6)
    return path


def structure(target, seed):
    """Chains as the toy generator draws them, each turned and shaken a little, side by side."""
    rng = np.random.default_rng(seed)
    x = conformation(target) + rng.normal(scale=0.003, size=(target.n_atoms, 3))
    for m in range(len(target.chains)):
        own = target.molecule_of_atom == m
        turn = Rotation.from_euler("x", rng.uniform(0, 360), degrees=True)
        x[own] = turn.apply(x[own] - x[own].mean(0)) + [0.7 + 1.3 * m, 1.3, 1.3]
    return x


@pytest.fixture(scope="module")
def files(tmp_path_factory, target):
    """``reference/`` with four structures, ``other/`` with two more."""
    folder = tmp_path_factory.mktemp("atoms")
    for name, seeds in (("reference", SEEDS), ("other", (11, 12))):
        (folder / name).mkdir()
        for seed in seeds:
            write_atoms(folder / name / f"frame_{seed}.gro", target, structure(target, seed))
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(evaluation_page, "figures", lambda evaluation: iter(()))


@pytest.fixture
def quick(monkeypatch, no_figures):
    """Leave out figures, and the analyses that need more structures than these."""
    for name in ("two_sample", "landscape", "diversity"):
        monkeypatch.setitem(judging._ANALYSES, name, lambda *_: NotDone("left out"))


def run(files, out, toy_model, **changes):
    settings = {"held_out": [files / "other"], "refine": "none", "workers": 1, **changes}
    return evaluate([files / "reference"], settings.pop("models", [toy_model]), out=out, **settings)


# --- what is read ---------------------------------------------------------------------------------------------------

def test_held_out_structures_are_mapped_and_known_behind_their_frames(files, sps, target):
    found = read_inputs(sps, [files / "reference"], [files / "other"])
    assert found.frames.names == ("frame_11.gro", "frame_12.gro")
    assert found.held_out.frame.tolist() == [0, 1] and found.reference.frame.tolist() == [2, 3, 4, 5]
    assert found.paired.frame.tolist() == [0, 1]
    assert np.abs(found.frames.beads - mapped(target, found.held_out.positions)).max() < 1e-9


def test_the_reference_alone_is_mapped_itself(files, sps):
    found = read_inputs(sps, [files / "reference"], n_frames=2)
    assert found.frames.names == ("frame_1.gro", "frame_4.gro") and found.held_out is None
    assert found.reference.frame.tolist() == [0, 2, 3, 1]
    assert np.array_equal(found.paired.positions, found.reference.positions[[0, 3]])


def test_beads_of_a_file_find_the_structure_behind_them(files, sps, target, tmp_path):
    beads = mapped(target, structure(target, 3))
    topology = bead_topology(sps, target.chains)
    lines = ["beads", str(len(beads))] + [
        f"{topology.residue_numbers[r]:5d}{'PS1':<5s}{name:>5s}{b + 1:5d}" + "".join(f"{v:8.3f}" for v in x)
        for b, (r, name, x) in enumerate(zip(topology.residue_of_bead, topology.bead_names, beads))]
    file = tmp_path / "cg.gro"
    file.write_text("\n".join([*lines, "3.0 2.6 2.6"]) + "\n")
    found = read_inputs(sps, [files / "reference"], cg=[file])
    assert found.reference.frame.tolist() == [1, 2, 0, 3] and len(found.paired) == 1
    strangers = read_inputs(sps, [files / "reference"], cg=[write_gro(tmp_path / "toy.gro", target)])
    assert strangers.paired is None and strangers.reference.frame.tolist() == [1, 2, 3, 4]


def test_beads_written_for_a_model_are_read_as_the_same_chains(sps, target):
    topology = bead_topology(sps, target.chains)
    beads = mapped(target, structure(target, 1))
    match = match_beads(sps, topology, beads, BOX)
    assert match.target.chains == target.chains and np.array_equal(match.bead_index, np.arange(target.n_beads))


def test_what_cannot_be_mixed(files, sps, tmp_path):
    with pytest.raises(InputError, match="frame_1.gro: both reference and held out"):
        read_inputs(sps, [files / "reference"], [files / "reference" / "frame_1.gro"])
    other = toy_target(1, 3)
    file = write_atoms(tmp_path / "one.gro", other, structure(other, 1))
    with pytest.raises(InputError, match="one.gro: holds another system"):
        read_inputs(sps, [files / "reference"], [file])
    with pytest.raises(InputError, match="one.gro: holds 1 molecules"):
        read_inputs(sps, [files / "reference"], cg=[write_gro(tmp_path / "one.gro", other)])


def test_structures_of_others_belong_to_the_frames_in_order(files, sps):
    found = read_inputs(sps, [files / "reference"], [files / "other"])
    given = read_structures("theirs", [files / "reference"], found)
    assert given.frame.tolist() == [0, 0, 1, 1] and np.array_equal(given.beads, found.frames.beads[[0, 0, 1, 1]])
    with pytest.raises(InputError, match="theirs: 1 structures for 2 coarse-grained frames"):
        read_structures("theirs", [files / "reference" / "frame_1.gro"], found)


# --- which models ---------------------------------------------------------------------------------------------------

def test_models_labels_and_levels_of_refinement(toy_model):
    choices, chemistry = draws.choose([toy_model, f"{toy_model}@none", f"mine={toy_model}@minimize", "random"], "sps",
                                      None)
    assert [c.label for c in choices] == ["toy", "toy (none)", "mine", "random"]
    assert [c.refine for c in choices] == ["equilibrate", "none", "minimize", "none"]
    assert [c.chemistry for c in choices] == [None, None, None, "sps"]
    assert chemistry.name == "sps" and draws.choose([toy_model], None, "none")[0][0].refine == "none"


@pytest.mark.parametrize("models, chemistry, message", [
    (["{toy}", "{toy}"], None, "'toy' is taken"), (["held out={toy}"], None, "'held out' is taken"),
    (["{toy}@fast"], None, "'fast' is no level of refinement"), (["random"], None, "chemistry"),
    ([], None, "give --chemistry"), (["toy_"], None, "unknown model 'toy_'")])
def test_models_that_cannot_be_meant(toy_model, models, chemistry, message):
    with pytest.raises(BackmapError, match=message):
        draws.choose([word.format(toy=toy_model) for word in models], chemistry, None)


def test_a_model_that_transfers_is_judged_on_the_molecules_asked_for():
    (transferred, own), chemistry = draws.choose(["dbm-transfer", "dbm-sps"], "sps", None)
    assert chemistry.name == "sps" and (transferred.chemistry, own.chemistry) == ("sps", None)
    assert draws.choose(["dbm-transfer"], None, None)[1].name == "octane"


def test_a_model_of_other_molecules_is_refused_before_any_work(files, toy_model, tmp_path):
    with pytest.raises(ChemistryError, match="octane"):
        evaluate([files / "reference"], ["sps=random"], out=tmp_path / "out", chemistry="octane")
    choice = draws.choose([toy_model], None, None)[0][0]
    octane = load_chemistry("octane")
    liquid = build_target(octane, [["OCT"]] * 2)

    @dataclass
    class Inputs:
        target: object = liquid

    with pytest.raises(ChemistryError, match="no monomer 'OCT'"):
        draws.check_model(choice, Inputs())
    assert not (tmp_path / "out").exists()


# --- the whole ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def finished(files, toy_model, tmp_path_factory):
    """An evaluation with everything in it, by one process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    told = []
    found = run(files, out, toy_model, n_samples=2, structures={"theirs": [files / "other"]},
                progress=lambda *words: told.append(words))
    return out, found, told


def test_everything_is_written(finished, target):
    out, found, told = finished
    assert [j.label for j in found.judged] == ["held out", "toy", "theirs"]
    assert [j.kind for j in found.judged] == ["held out", "model", "structures"]
    assert not found.failures
    toy = found.judged[1].ensemble
    assert toy.positions.shape == (4, target.n_atoms, 3) and toy.frame.tolist() == [0, 0, 1, 1]
    assert np.abs(mapped(target, toy.positions) - found.inputs.frames.beads[toy.frame]).max() < 1e-5
    assert {p.name for p in (out / "figures").iterdir()} >= {
        "divergences.png", "distributions_angle.png", "distributions_dihedral.png", "energies.png", "radial.png",
        "summary.png"}
    text = (out / "report.html").read_text()
    assert text.count("<h1>") == 1 and "http://" not in text.replace("http://www.w3.org", "")
    assert all(f"<h2>{label}</h2>" in text for label in ("held out", "toy", "theirs"))
    assert len(text) < 15e6
    stages = [stage for stage, _, _ in told]
    assert ("backmapping", 4, 4) in told and "judging" in stages and not list(out.rglob("*.part*"))


def test_scores_are_complete_and_plain(finished, files):
    out, found, _ = finished

    def refuse(word):
        pytest.fail(f"{word} is no JSON")

    scores = json.loads((out / "scores.json").read_text(), parse_constant=refuse)
    assert scores["format"] == "openmm_backmap evaluation" and scores["version"] == 1
    assert scores["provenance"]["versions"]["openmm"] and scores["provenance"]["date"]
    assert len(scores["settings"]["files"]["reference"]) == 4 and len(scores["settings"]["files"]["held_out"]) == 2
    assert [f["atomistic_structure_known"] for f in scores["frames"]] == [True, True]
    by_label = {j["label"]: j for j in scores["judged"]}
    # The same files are held out and given: their numbers agree.
    assert by_label["theirs"]["distributions"] == by_label["held out"]["distributions"]
    assert by_label["toy"]["model"]["refine"] == "none" and by_label["toy"]["structures"] == 4
    assert by_label["toy"]["summary"]["bead_rmsd"] < 1e-5 < by_label["toy"]["summary"]["angle_mean"]
    with open(out / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {(row["label"], row["kind"]) for row in rows}
    assert kinds >= {("toy", k) for k in ("summary", "bond", "angle", "dihedral", "improper", "energy", "radial")}
    value = next(row for row in rows if row["label"] == "toy" and row["name"] == "angle_mean")
    assert float(value["value"]) == pytest.approx(by_label["toy"]["summary"]["angle_mean"])


def test_several_draws_of_a_frame_do_not_lower_the_floor(finished):
    held, toy, _ = finished[1].judged
    assert len(toy.ensemble) == 2 * len(held.ensemble)
    assert [row.floor for row in toy.comparison.rows] == [row.floor for row in held.comparison.rows]


def test_the_table_has_the_floor_first_and_marks_the_best(finished):
    _, found, _ = finished
    table = summary_table(found)
    assert [label for label, _ in table.rows] == [FLOOR, "held out", "toy", "theirs"]
    assert all(row != 1 for row, _ in table.best)  # what is held out does not compete
    for quantity in table.quantities:
        winners = [row for row, key in table.best if key == quantity.key]
        if winners:
            values = [table.rows[row][1][quantity.key] for row in (2, 3) if quantity.key in table.rows[row][1]]
            assert table.rows[winners[0]][1][quantity.key] == min(values, key=lambda v: abs(v - quantity.best))
    lines = as_text(table).splitlines()
    assert len(lines) == 1 + len(table.quantities) and lines[0].split()[-2:] == ["toy", "theirs"]


def test_numbers_are_short():
    assert [number_text(v) for v in (None, np.nan, np.inf, 0.0, 3.0, 0.01234, 123.4, 1e-9)] == [
        "-", "-", "not reached", "0", "3", "0.0123", "123", "0"]


def test_the_same_call_does_nothing_again(finished, files, toy_model, no_figures):
    out, found, _ = finished
    made = {p: p.stat().st_mtime_ns for p in [*out.rglob("draws/**/*.npz"), *out.rglob("analysis/**/*.npz")]}
    told = []
    again = run(files, out, toy_model, n_samples=2, structures={"theirs": [files / "other"]},
                progress=lambda *words: told.append(words))
    assert len(made) > 8 and all(p.stat().st_mtime_ns == t for p, t in made.items())
    assert ("backmapping", 0, 0) in told
    assert again.judged[1].comparison == found.judged[1].comparison


def test_other_settings_in_the_same_folder_are_refused(finished, files, toy_model, tmp_path):
    out = finished[0]
    for change, name in (({"seed": 2}, "seed"), ({"n_samples": 3}, "n_samples"), ({"held_out": []}, "files"),
                         ({"refine": "minimize"}, "models: toy")):
        with pytest.raises(InputError, match=f"settings.json belongs to an evaluation with other settings .*{name}"):
            run(files, out, toy_model, **{"n_samples": 2, **change})
    with pytest.raises(InputError, match="is there and is not the folder of an evaluation"):
        run(files, files, toy_model)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(InputError, match="not the settings of an evaluation"):
        run(files, tmp_path, toy_model)


def test_an_interrupted_evaluation_goes_on_and_draws_do_not_depend_on_it(finished, files, toy_model, tmp_path, quick):
    def interrupt(stage, done, total):
        if (stage, done) == ("backmapping", 1):
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(files, out, toy_model, progress=interrupt)
    (first,) = out.rglob("draws/**/*.npz")
    before = first.stat().st_mtime_ns
    found = run(files, out, toy_model)
    assert first.stat().st_mtime_ns == before
    whole = finished[1].judged[1].ensemble
    assert np.array_equal(found.judged[1].ensemble.positions, whole.positions[[0, 2]])
    # Another model may join; what is there stays.
    more = run(files, out, toy_model, models=[toy_model, f"again={toy_model}"])
    assert [j.label for j in more.judged] == ["held out", "toy", "again"] and first.stat().st_mtime_ns == before
    assert not np.array_equal(more.judged[2].ensemble.positions, more.judged[1].ensemble.positions)


def test_several_processes_give_the_same_draws(finished, files, toy_model, tmp_path, no_figures):
    found = run(files, tmp_path / "out", toy_model, n_samples=2, workers=2)
    assert np.array_equal(found.judged[1].ensemble.positions, finished[1].judged[1].ensemble.positions)
    assert found.judged[1].comparison == finished[1].judged[1].comparison


@pytest.mark.parametrize("bad", [(2,), (1, 2)])
def test_draws_that_fail_are_recorded_and_the_rest_is_done(files, toy_model, tmp_path, monkeypatch, quick, bad):
    calls = []
    generate = ToyGenerator.generate

    def fail(self, *arguments, **options):
        calls.append(1)
        if len(calls) in bad:
            raise RefinementError("a ring is pierced")
        return generate(self, *arguments, **options)

    draws._backmapper.cache_clear()
    family = type(draws._backmapper(str(toy_model), None, None, None).generator)
    monkeypatch.setattr(family, "generate", fail)
    found = run(files, tmp_path / "out", toy_model)
    failures = found.failures["toy"]
    assert [f.frame for f in failures] == [f"frame_{10 + k}.gro" for k in bad]
    assert failures[0].reason == "a ring is pierced"
    toy = found.judged[1]
    assert (toy.ensemble is None) == (len(bad) == 2)
    text = (tmp_path / "out" / "report.html").read_text()
    assert "a ring is pierced" in text and f"{len(bad)} of 2 draws failed" in text
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["judged"][1]["failures"][0]["reason"] == "a ring is pierced"
    assert summary_table(found).rows[2][1]["failed"] == len(bad)
    run(files, tmp_path / "out", toy_model)
    assert len(calls) == 2


def test_dynamics_are_told_of(files, toy_model, tmp_path, quick):
    # Built chains, not equilibrated: dynamics start from them, and their energies are what they are.
    found = run(files, tmp_path / "out", toy_model, relax_ps=0.4, temperature=450 * kelvin, n_frames=1, platform="CPU")
    assert found.start.energies.shape == (1, 5)
    assert isinstance(found.band, Band) or found.start.failures[0]
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["relaxation"]["settings"]["length_ps"] == 0.4
    assert scores["relaxation"]["settings"]["temperature_K"] == 450
    assert scores["judged"][1]["relaxation"]["times_ps"] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    names = [name for name, _, _ in evaluation_figures._others(found)]
    assert names == ["relaxation"]


def test_nothing_to_judge(files, tmp_path):
    with pytest.raises(InputError, match="nothing to judge"):
        evaluate([files / "reference"], out=tmp_path / "out", chemistry="sps")


# --- what is kept, and by whom --------------------------------------------------------------------------------------

def test_results_survive_being_kept(tmp_path):
    value = {"a": (NotDone("x"), [1.5, None, "text"]), 3: np.arange(6).reshape(2, 3), "nan": float("nan")}
    keep(tmp_path / "x.npz", value)
    found = kept(tmp_path / "x.npz")
    assert found["a"] == value["a"] and np.array_equal(found[3], value[3]) and np.isnan(found["nan"])


def test_kept_files_cannot_ask_for_anything_else(tmp_path):
    for name in ("subprocess:Popen", "openmm_backmap.analysis.kept:os", "openmm_backmap.analysis.kept:keep"):
        layout = json.dumps({"dataclass": name, "fields": {}})
        np.savez(tmp_path / "x.npz", layout=np.array(layout))
        with pytest.raises(InputError, match="x.npz: of another version, or damaged"):
            kept(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="x.npz: damaged"):
        kept(tmp_path / "x.npz")


def test_errors_of_other_processes_come_through(tmp_path):
    with pytest.raises(InputError, match="damaged"):
        run_tasks(judging.judge, [judging.JudgeTask("description", ("x",), _damaged(tmp_path), 1)] * 2, 2, "x")


def die(task, progress):
    os._exit(3)


def test_a_process_that_dies_is_no_riddle():
    with pytest.raises(BackmapError, match="a worker process died.*fewer --workers"):
        run_tasks(die, [1, 2], 2, "x")


def _damaged(folder):
    (folder / "ensembles").mkdir()
    (folder / "ensembles" / "x.npz").write_bytes(b"PK nothing")
    return folder


def test_an_ensemble_is_kept_whole(tmp_path, target):
    x = small_positions(toy_target(2, 3))[None]
    judging.save_target(target, tmp_path)
    judging.save_ensemble(Ensemble("e", target, x, None, np.arange(1)), "e", tmp_path)
    found = judging._ensemble(judging.JudgeTask("description", ("e",), tmp_path, 1), "e")
    assert found.target.chains == target.chains and np.array_equal(found.positions, x) and found.boxes is None
