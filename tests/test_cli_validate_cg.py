"""``backmap-openmm validate-cg``: a bad model is found, files are complete, runs go on, errors are one line."""

import csv
import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_systems import BOX
from toy_generator import conformation, toy_target

from openmm_backmap.analysis.evaluation import draws
from openmm_backmap.analysis.forces import page
from openmm_backmap.chemistry import load_chemistry
from openmm_backmap.cli import main
from openmm_backmap.errors import RefinementError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.io.atomistic import open_atoms
from openmm_backmap.io.writers import write_structure

NAMES = "BS"


@pytest.fixture(scope="module")
def target():
    return toy_target(2, 3)


def structure(target, seed, apart_nm=1.3):
    """Chains as the toy generator draws them, each turned about x, side by side."""
    rng = np.random.default_rng(seed)
    x = conformation(target) + rng.normal(scale=0.003, size=(target.n_atoms, 3))
    for m in range(len(target.chains)):
        own = target.molecule_of_atom == m
        turn = Rotation.from_euler("x", rng.uniform(0, 360), degrees=True)
        x[own] = turn.apply(x[own] - x[own].mean(0)) + [0.7 + apart_nm * m, 1.3, 1.3]
    return x


def write_beads(path, target, frames, box=BOX):
    """Frames of beads as a .gro file."""
    lines = []
    for k, beads in enumerate(frames):
        lines += [f"beads t= {k}.0", str(len(beads))]
        lines += [f"{b // 6 + 1:5d}{'PS1':<5s}{NAMES[b % 2] + str(b % 6 // 2 + 1):>5s}{b + 1:5d}"
                  + "".join(f"{v:12.7f}" for v in x) for b, x in enumerate(beads)]
        lines += [" ".join(f"{v:.5f}" for v in np.diag(box))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory, target):
    """``ref/`` with ten structures; ``right.gro``, ``pushed.gro`` and ``odd.gro`` with beads."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "ref").mkdir()
    for seed in range(10):
        write_structure(folder / "ref" / f"{seed}.gro", target.topology, structure(target, seed), BOX, gro_precision=6)
    right = [mapped(target, structure(target, seed)) for seed in range(20, 24)]
    write_beads(folder / "right.gro", target, right)
    write_beads(folder / "pushed.gro", target, [mapped(target, structure(target, s, 0.3)) for s in range(30, 34)])
    write_beads(folder / "nan.gro", target, [np.where(np.arange(12)[:, None] == 3, np.nan, right[0])])
    write_beads(folder / "small.gro", target, right, BOX / 2)
    write_beads(folder / "nobox.gro", target, right, BOX * 0)
    return folder


@pytest.fixture
def run(toy_model, capsys):
    """Run in this process: ``run(*words)`` -> (exit code, stdout, stderr)."""
    def go(*words):
        with pytest.raises(SystemExit) as left:
            main(["validate-cg", *map(str, words), "--workers", "1", "--device", "cpu", "--platform", "CPU"])
        return left.value.code, *capsys.readouterr()
    return go


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(page, "figures", lambda found: iter(()))


def test_a_bad_model_is_found_and_all_is_written(run, files, toy_model, target, tmp_path):
    out = tmp_path / "out"
    words = ["--reference", files / "ref", "--model", f"{toy_model}@none", "--cg", f"right={files / 'right.gro'}",
             "--cg", f"pushed={files / 'pushed.gro'}", "--out", out]
    code, said, err = run(*words)
    assert code == 0, err
    assert "ranking (none), the best first: right" in said and "worst of pushed: pushed.gro, frame" in said
    found = json.loads((out / "scores.json").read_text())
    by_label = {judged["label"]: judged["summary"] for judged in found["judged"]}
    assert list(by_label) == ["held out", "in-distribution", "right", "pushed"]
    assert by_label["pushed"]["auc"] >= 0.9 and by_label["right"]["auc"] < 0.9
    assert by_label["pushed"]["divergence"] > 3 * by_label["in-distribution"]["divergence"]
    assert by_label["pushed"]["beyond"] > 10 > by_label["in-distribution"]["beyond"]
    assert by_label["pushed"]["bead_rmsd_drawn"] < 0.01 and by_label["pushed"]["contacts"] > 0
    assert [m["label"] for m in found["ranking"]["none"]["models"]] == ["right", "pushed"]
    assert {p.name for p in (out / "figures").iterdir()} == {
        "forces.png", "divergences.png", "frames.png", "radial.png"}
    worst = next(j for j in found["judged"] if j["label"] == "pushed")["worst"][0]
    assert len(open_atoms([out / worst["file"]], load_chemistry("sps"), strict=False).target.chains) == 2
    with open(out / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == {"summary", "force"}
    with np.load(out / "forces" / "pushed.npz", allow_pickle=False) as data:
        assert data["forces"].shape == data["beads"].shape == (4, 12, 3) and data["boxes"].shape == (4, 3, 3)
    text = (out / "report.html").read_text()
    assert "backmapShow(" in text and "worst/pushed_1.gro" in text and "http" not in text.split("<script>")[0]


def test_it_goes_on_and_trajectories_may_be_added(run, files, toy_model, tmp_path, no_figures, monkeypatch):
    out = tmp_path / "out"
    words = ["--reference", files / "ref", "--model", f"{toy_model}@none", "--frames", 2, "--out", out, "--quiet"]
    assert run(*words, "--cg", f"a={files / 'right.gro'}") == (0, "", "")
    drawn = []
    draw = draws.draw
    monkeypatch.setattr(draws, "draw", lambda task, progress: drawn.append(task.choice.label) or draw(task))
    assert run(*words, "--cg", f"a={files / 'right.gro'}", "--cg", f"b={files / 'pushed.gro'}")[0] == 0
    assert drawn == ["b", "b"]
    code, _, err = run(*words, "--cg", f"a={files / 'pushed.gro'}")
    assert code == 1 and "other settings (cg: a)" in err
    code, _, err = run(*words, "--seed", 2)
    assert code == 1 and "other settings (seed)" in err


def test_chi_squared_of_a_force_field_that_is_given(run, files, toy_model, target, tmp_path, no_figures):
    import openmm as mm

    system = mm.System()
    for _ in range(12):
        system.addParticle(50.0)
    (tmp_path / "free.xml").write_text(mm.XmlSerializer.serialize(system))
    words = ["--reference", files / "ref" / "[0-5].gro", "--held-out", files / "ref" / "[6-9].gro", "--frames", 2,
             "--model", f"{toy_model}@none", "--cg", f"a={files / 'right.gro'}", "--out", tmp_path / "out"]
    assert run(*words, "--cg-system", f"a={tmp_path / 'free.xml'}")[0] == 0
    judged = json.loads((tmp_path / "out" / "scores.json").read_text())["judged"]
    values = next(j["summary"] for j in judged if j["label"] == "a")
    assert [len(j["frame_scores"]) for j in judged] == [4, 2, 2]
    with np.load(tmp_path / "out" / "forces" / "a.npz", allow_pickle=False) as data:
        assert values["chi2_bm"] - values["chi2"] == pytest.approx((data["forces"] ** 2).mean())
    (tmp_path / "free.xml").write_text("<System/>")
    code, _, err = run(*words, "--cg-system", f"a={tmp_path / 'free.xml'}")
    assert code == 1 and "free.xml: not an OpenMM System as XML" in err


def test_minimisation_beside_it_and_draws_that_fail(run, files, toy_model, tmp_path, no_figures, monkeypatch):
    draws._backmapper.cache_clear()
    family = type(draws._backmapper(str(toy_model), None, "CPU", "cpu"))
    backmap = family.backmap

    def refuse(self, *words, refine, **more):
        if refine.mode == "minimize":
            raise RefinementError("a ring is pierced")
        return backmap(self, *words, refine=refine, **more)

    monkeypatch.setattr(family, "backmap", refuse)
    code, said, err = run("--reference", files / "ref", "--model", f"{toy_model}@none", "--frames", 2,
                          "--cg", f"a={files / 'right.gro'}", "--also-minimised", "--out", tmp_path / "out")
    assert code == 1 and "Error: a, minimised: 2 draw(s) failed, the first: right.gro, frame 0, draw 1: a ring" in err
    assert "in-distribution, minimised" in said and (tmp_path / "out" / "report.html").exists()


def test_what_md_cannot_start_from_is_judged(run, files, toy_model, target, tmp_path, no_figures):
    """Chains pushed into each other have no room at beads that are held, and tell so."""
    inside = [mapped(target, structure(target, seed, 0.05)) for seed in (40, 41)]
    write_beads(tmp_path / "inside.gro", target, inside)
    code, said, err = run("--reference", files / "ref", "--model", f"{toy_model}@minimize", "--frames", 2,
                          "--cg", f"inside={tmp_path / 'inside.gro'}", "--out", tmp_path / "out")
    assert code == 0, err
    judged = {j["label"]: j for j in json.loads((tmp_path / "out" / "scores.json").read_text())["judged"]}
    assert judged["inside"]["structures"] == 2 and len(judged["inside"]["unsound"]) == 2
    assert judged["inside"]["summary"]["unsound"] == 100 and judged["in-distribution"]["summary"]["unsound"] == 0
    assert judged["inside"]["summary"]["auc"] == 1 and judged["inside"]["summary"]["bead_rmsd"] < 0.002
    text = (tmp_path / "out" / "report.html").read_text()
    assert "a run refuses them" in text and "inside.gro, frame 1" in text


@pytest.mark.parametrize("words, code, message", [
    ([], 2, "Missing option '--reference'"),
    (["--reference", "{f}/ref", "--out", "x"], 2, "Missing option '-m'"),
    (["--reference", "nosuch", "-m", "{toy}", "--out", "x"], 1, "Error: nosuch: no such file"),
    (["--reference", "{f}/ref/1.gro", "-m", "{toy}", "--out", "x"], 1, "give at least 4, or others by --held-out"),
    (["--reference", "{f}/ref", "-m", "nosuch", "--out", "x"], 1, "unknown model 'nosuch'"),
    (["--reference", "{f}/ref", "-m", "random", "--out", "x"], 1, "--chemistry"),
    (["--reference", "{f}/ref", "-m", "random", "--chemistry", "octane", "--out", "x"], 1, "0.gro"),
    (["--reference", "{f}/ref", "-m", "{toy}", "--cg", "a.gro", "--out", "x"], 2, "--cg a.gro: write LABEL=BEADS"),
    (["--reference", "{f}/ref", "-m", "{toy}", "--cg", "a={f}/nan.gro", "--out", "x"], 1, "nan.gro"),
    (["--reference", "{f}/ref", "-m", "{toy}", "--cg", "a={f}/small.gro", "--out", "x"], 1, "small.gro, frame 0: the"),
    (["--reference", "{f}/ref", "-m", "{toy}", "--cg", "a={f}/nobox.gro", "--out", "x"], 1, "a has no periodic box"),
    (["--reference", "{f}/ref", "-m", "{toy}", "--cg", "held out={f}/right.gro", "--out", "x"], 1, "is taken"),
    (["--reference", "{f}/ref", "-m", "{toy}", "--cg-system", "b={f}/b.xml", "--out", "x"], 1, "label of no traj"),
    (["--reference", "{f}/ref", "-m", "{toy}@minimize", "--also-minimised", "--out", "x"], 1, "minimised already")])
def test_one_clear_line(run, files, toy_model, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    found, _, err = run(*(word.format(f=files, toy=toy_model) for word in words))
    assert found == code and message in err and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1 or code == 2
    assert not (tmp_path / "x").exists()
