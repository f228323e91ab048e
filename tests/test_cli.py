"""The command line: the main job, its outputs, and its verbs."""

import os
import signal
import subprocess
import time

import mdtraj
import numpy as np
import openmm
import pytest
from toy_generator import BOX_NM, toy_beads, toy_target, write_gro, write_pdb

from conftest import PROGRAM, environment, heed_interrupts
from openmm_backmap.cli import main
from openmm_backmap.geometry.checks import mapping_rmsd

QUICK = ["--platform", "CPU", "--device", "cpu", "--seed", "1"]


@pytest.fixture
def run(toy_model, capsys):
    """Run in this process with the toy model: ``run(*words)`` -> (exit code, stdout, stderr)."""
    def go(*words, model=toy_model):
        with pytest.raises(SystemExit) as left:
            main([*map(str, words), *(["--model", str(model)] if model else [])])
        return left.value.code, *capsys.readouterr()
    return go


def test_help_shows_the_main_job_and_the_verbs(run):
    code, out, _ = run("--help", model=None)
    assert code == 0
    for word in ("INPUT", "--refine", "Examples:", "cg.pdb --model sps -o aa.pdb", "evaluate", "models", "reference",
                 "train"):
        assert word in out
    assert run("cg.pdb", "--help", model=None)[0] == 0


@pytest.mark.parametrize("verb", ["evaluate", "models", "reference", "train"])
def test_every_verb_has_an_example(run, verb):
    code, out, _ = run(verb, "--help", model=None)
    assert code == 0 and f"backmap-openmm {verb}" in out


def test_version_and_no_arguments(run):
    assert run("--version", model=None)[:2] == (0, "backmap-openmm, version 0.1.0\n")
    code, _, err = run(model=None)
    assert code == 2 and "INPUT" in err


def test_structure(run, tmp_path):
    target = toy_target()
    code, out, err = run(write_gro(tmp_path / "cg.gro"), "-o", tmp_path / "aa.gro", "--refine", "minimize", *QUICK)
    assert code == 0, err
    atoms = mdtraj.load(tmp_path / "aa.gro")
    assert mapping_rmsd(target, atoms.xyz[0].astype(float), toy_beads(target), np.eye(3) * BOX_NM) < 1e-3
    for word in ("100 atoms", "energy", "bead RMSD", "close contacts", "seed 1", "aa.gro"):
        assert word in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["aa.gro", "cg.gro"]


def test_all_that_goes_with_it(run, tmp_path):
    names = ("--top", "aa.top"), ("--system", "system.xml"), ("--state", "state.xml"), ("--report", "report.html"), (
        "--picture", "melt.png")
    extra = [word for option, name in names for word in (option, tmp_path / name)]
    code, out, err = run(write_pdb(tmp_path / "<cg>.pdb"), "-o", tmp_path / "aa.pdb", "--refine", "none", "-q", *extra,
                         *QUICK)
    assert (code, out, err) == (0, "", "")
    system = openmm.XmlSerializer.deserialize((tmp_path / "system.xml").read_text())
    state = openmm.XmlSerializer.deserialize((tmp_path / "state.xml").read_text())
    assert system.getNumParticles() == len(state.getPositions()) == mdtraj.load(tmp_path / "aa.pdb").n_atoms
    assert "[ moleculetype ]" in (tmp_path / "aa.top").read_text()
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5 and "<cg>" not in page
    assert "http:" not in page and "https:" not in page
    assert "NonbondedForce" in page and "pierced rings" in page
    assert (tmp_path / "melt.png").read_bytes()[:4] == b"\x89PNG"


def test_samples_of_one_frame_are_models(run, tmp_path):
    code, *_ = run(write_gro(tmp_path / "cg.gro"), "-o", tmp_path / "aa.pdb", "-n", 3, "--refine", "none", *QUICK)
    assert code == 0
    assert mdtraj.load(tmp_path / "aa.pdb").n_frames == 3


def test_models_of_a_pdb_are_frames(run, tmp_path):
    cg = write_pdb(tmp_path / "cg.pdb", n_models=3)
    code, out, _ = run(cg, "-o", tmp_path / "aa.pdb", "--refine", "none", *QUICK)
    assert code == 0 and "3 frames" in out
    assert mdtraj.load(tmp_path / "aa.pdb").n_frames == 3


def test_trajectory(run, tmp_path):
    cg = write_gro(tmp_path / "cg.gro", n_frames=4)
    mdtraj.load(cg).save_xtc(str(tmp_path / "cg.xtc"))
    write_gro(tmp_path / "one.gro")
    code, out, err = run(tmp_path / "cg.xtc", "--topology", tmp_path / "one.gro", "-o", tmp_path / "aa.xtc", "-n", 2,
                         "--first", 1, "--stride", 2, "--refine", "none", "--structure", tmp_path / "aa.gro", *QUICK)
    assert code == 0, err
    first = mdtraj.load(tmp_path / "aa.gro")
    for k in (1, 2):
        assert mdtraj.load(tmp_path / f"aa_{k}.xtc", top=first).n_frames == 2
    assert mdtraj.load(tmp_path / "aa_1.xtc", top=first)[0].xyz == pytest.approx(first.xyz, abs=2e-3)
    assert not list(tmp_path.glob(".*"))


def test_same_seed_same_file(run, tmp_path):
    cg = write_gro(tmp_path / "cg.gro")
    for name in ("a.gro", "b.gro"):
        assert run(cg, "-o", tmp_path / name, "--refine", "none", *QUICK)[0] == 0
    assert (tmp_path / "a.gro").read_bytes() == (tmp_path / "b.gro").read_bytes()


def test_aliases(run, tmp_path):
    cg = write_gro(tmp_path / "cg.gro")
    cg.write_text(cg.read_text().replace("PS1", "POL"))
    assert run(cg, "-o", tmp_path / "aa.gro", "--refine", "none", *QUICK)[0] == 1
    assert run(cg, "-o", tmp_path / "aa.gro", "--refine", "none", "--alias", "POL=PS1", *QUICK)[0] == 0


def test_overwrite(run, tmp_path):
    cg, out = write_gro(tmp_path / "cg.gro"), tmp_path / "aa.gro"
    out.write_text("mine")
    code, _, err = run(cg, "-o", out, "--refine", "none", *QUICK)
    assert code == 1 and "--overwrite" in err and out.read_text() == "mine"
    assert run(cg, "-o", out, "--refine", "none", "--overwrite", *QUICK)[0] == 0
    assert mdtraj.load(out).n_atoms == 100


def test_models(run, toy_model, monkeypatch):
    monkeypatch.setattr("openmm_backmap.model_file.shipped_models", lambda: {"toy": toy_model})
    code, out, _ = run("models", model=None)
    assert code == 0 and "toy" in out and "polystyrene" in out
    code, out, _ = run("models", "show", "toy", model=None)
    assert code == 0 and "3 parameters" in out and "angles" in out
    code, _, err = run("models", "show", "toi", model=None)
    assert code == 1 and "did you mean 'toy'" in err


def test_ctrl_c_leaves_no_output(toy_package, toy_model, tmp_path):
    cg = write_gro(tmp_path / "cg.gro", n_frames=400)
    words = [str(cg), "-o", str(tmp_path / "aa.pdb"), "--model", str(toy_model), "--platform", "CPU"]
    process = subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment(toy_package), preexec_fn=heed_interrupts)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*part*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].endswith("interrupted; no output was written") and "Traceback" not in err
    # What was done is kept aside, and said.
    assert sorted(p.name for p in tmp_path.iterdir()) == [".aa.pdb.frames", "cg.gro"]
    assert "are kept in" in err


def test_the_command_as_installed(command, toy_model, tmp_path):
    done = command(write_gro(tmp_path / "cg.gro"), "-m", toy_model, "-o", tmp_path / "aa.pdb", "--refine", "none", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "aa.pdb").is_file()
