"""``backmap-openmm evaluate``: table, exit codes, and going on after Ctrl-C."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from small_systems import BOX, small_positions, small_target
from toy_generator import ToyGenerator

from conftest import PROGRAM, environment, heed_interrupts
from openmm_backmap.analysis.evaluation import draws as evaluation_draws
from openmm_backmap.analysis.evaluation import judging
from openmm_backmap.analysis.evaluation import page as evaluation_page
from openmm_backmap.cli import main
from openmm_backmap.errors import RefinementError
from openmm_backmap.io.writers import write_structure


@pytest.fixture(scope="module")
def atoms(tmp_path_factory):
    """Folders ``ref`` and ``more`` of atomistic structures."""
    folder = tmp_path_factory.mktemp("atoms")
    target = small_target(2, 3)
    for name, seeds in (("ref", (1, 2, 3)), ("more", (4, 5))):
        (folder / name).mkdir()
        for seed in seeds:
            write_structure(folder / name / f"{seed}.gro", target.topology, small_positions(target, seed), BOX,
                            gro_precision=6)
    return folder


@pytest.fixture
def run(toy_model, capsys, monkeypatch):
    """Run in this process, without figures and costly analyses: ``run(*words)`` -> (exit code, stdout, stderr)."""
    monkeypatch.setattr(evaluation_page, "figures", lambda evaluation: iter(()))
    for name in ("two_sample", "landscape", "diversity"):
        monkeypatch.setitem(judging._ANALYSES, name, lambda *_: judging.NotDone("left out"))

    def go(*words):
        with pytest.raises(SystemExit) as left:
            main(["evaluate", *map(str, words), "--workers", "1", "--device", "cpu", "--platform", "CPU"])
        return left.value.code, *capsys.readouterr()
    return go


def test_help_explains_and_shows_examples(run):
    code, out, _ = run("--help")
    assert code == 0
    for word in ("backmap-openmm evaluate --reference", "--held-out", "--structures", "goes on", "exit code is 1"):
        assert word in out


def test_a_short_table_and_all_files(run, atoms, toy_model, tmp_path):
    out = tmp_path / "eval"
    code, said, err = run("--reference", atoms / "ref" / "*.gro", "--held-out", atoms / "more", "--model",
                          f"mine={toy_model}@none", "--structures", f"copy={atoms / 'more'}", "--out", out)
    assert code == 0, err
    lines = said.splitlines()
    assert [w for w in ("reference against itself", "held out", "mine", "copy") if w in lines[0]] == [
        "reference against itself", "held out", "mine", "copy"]
    for word in ("angles", "dihedrals", "g(r)", "inverted centres", "report.html", "scores.json"):
        assert word in said
    assert {"report.html", "scores.json", "scores.csv", "settings.json", "figures"} <= {p.name for p in out.iterdir()}
    code, said, err = run("--reference", atoms / "ref" / "*.gro", "--held-out", atoms / "more", "--model",
                          f"mine={toy_model}@none", "--out", out, "--quiet")
    assert (code, said, err) == (0, "", "")


def test_a_failed_draw_ends_in_exit_code_1_after_everything_is_written(run, atoms, toy_model, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RefinementError("a ring is pierced")

    evaluation_draws._backmapper.cache_clear()
    family = type(evaluation_draws._backmapper(str(toy_model), None, "CPU", "cpu").generator)
    assert family.__name__ == ToyGenerator.__name__
    monkeypatch.setattr(family, "generate", refuse)
    out = tmp_path / "eval"
    code, said, err = run("--reference", atoms / "ref", "--held-out", atoms / "more", "-m", toy_model, "--out", out)
    assert code == 1
    assert "Error: toy: 2 draw(s) failed, the first: 4.gro, draw 1: a ring is pierced" in err
    assert "held out" in said and (out / "report.html").exists()
    assert len(json.loads((out / "scores.json").read_text())["judged"][1]["failures"]) == 2


@pytest.mark.parametrize("words, code, message", [
    (["--out", "x"], 2, "Missing option '--reference'"),
    (["--reference", "{ref}", "--out", "x"], 1, "Error: nothing to judge"),
    (["--reference", "nosuch", "--model", "{toy}", "--out", "x"], 1, "Error: nosuch: no such file"),
    (["--reference", "{ref}", "--model", "nosuch", "--out", "x"], 1, "unknown model 'nosuch'"),
    (["--reference", "{ref}", "--model", "random", "--out", "x"], 1, "--chemistry"),
    (["--reference", "{ref}", "--structures", "a.gro", "--out", "x"], 2, "write LABEL=ATOMS"),
    (["--reference", "{ref}", "--model", "{toy}", "--out", "{ref}"], 1, "is not the folder of an evaluation"),
    (["--reference", "{ref}", "--model", "{toy}", "--relax", "0.1", "--out", "x"], 2, "--relax")])
def test_one_clear_line(run, atoms, toy_model, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    found, _, err = run(*(word.format(ref=atoms / "ref", toy=toy_model) for word in words))
    assert found == code and message in err
    assert "Traceback" not in err and not (tmp_path / "x").exists()


def running(group: int) -> list[str]:
    """Processes of a group that have not ended; nobody may have asked yet how they ended."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            name, state, _, own = re.fullmatch(r"\d+ \((.*)\) (\S) (\d+) (\d+) .*", file.read_text().strip()).groups()
            if int(own) == group and state not in "ZX":
                found.append(name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_ctrl_c_ends_all_processes_and_the_same_command_goes_on(atoms, toy_model, toy_package, tmp_path):
    out = tmp_path / "eval"
    words = ["evaluate", "--reference", atoms / "ref", "--held-out", atoms / "more", "--model", f"{toy_model}@none",
             "--samples", 8, "--workers", 2, "--out", out]
    process = subprocess.Popen([*PROGRAM, *map(str, words)], env=environment(toy_package), stderr=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_interrupts)
    deadline = time.monotonic() + 100
    while not list(out.glob("draws/*/*.npz")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.endswith(
        "interrupted; the same command goes on where this one stopped\n") and "Traceback" not in err
    deadline = time.monotonic() + 20
    while running(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(process.pid)
    for file in out.glob("draws/*/*.npz"):
        with np.load(file, allow_pickle=False) as data:
            assert np.isfinite(data["positions"]).all()
    assert not (out / "report.html").exists()
