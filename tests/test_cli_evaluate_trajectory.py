"""``backmap-openmm evaluate-trajectory``: right trajectories score well, wrong ones do not; errors are one line."""

import csv
import json

import dipeptide as adp
import numpy as np
import pytest

from openmm_backmap.analysis.kinetics import page
from openmm_backmap.analysis.kinetics.figures import figures
from openmm_backmap.cli import main
from openmm_backmap.io.writers import write_structure


@pytest.fixture(scope="module")
def target():
    return adp.dipeptide()


@pytest.fixture(scope="module")
def files(tmp_path_factory, target):
    """A reference in two files, another run, the reference's frames in another order, and one that hops faster."""
    folder = tmp_path_factory.mktemp("files")
    own = [adp.hopping(target, 1000, 0.02, seed) for seed in (1, 2)]
    write_structure(folder / "adp.pdb", target.topology, own[0][0], None)
    for k, x in enumerate(own):
        adp.write_xtc(folder / f"ref_{k + 1}.xtc", x)
        adp.write_dcd(folder / f"ref_{k + 1}.dcd", x)
    adp.write_xtc(folder / "other.xtc", adp.hopping(target, 2000, 0.02, 3))
    adp.write_xtc(folder / "shuffled.xtc", np.concatenate(own)[np.random.default_rng(1).permutation(2000)])
    adp.write_xtc(folder / "fast.xtc", adp.hopping(target, 2000, 0.08, 4))
    return folder


@pytest.fixture
def run(files, capsys, monkeypatch):
    """Run in this process: ``run(*words)`` -> (exit code, stdout, stderr)."""
    def go(*words, drawn=False):
        monkeypatch.setattr(page, "figures", figures if drawn else lambda found: iter(()))
        with pytest.raises(SystemExit) as left:
            main(["evaluate-trajectory", "--topology", str(files / "adp.pdb"), "--chemistry", "adp", "--processes",
                  "1", "--cells", "12", *map(str, words)])
        return left.value.code, *capsys.readouterr()
    return go


def test_trajectories_are_told_apart(run, files, tmp_path):
    code, out, err = run(
        "--reference", files / "ref_*.xtc", "--independent", files / "other.xtc", f"same={files / 'ref_1.dcd'}",
        f"same={files / 'ref_2.dcd'}", f"shuffled={files / 'shuffled.xtc'}", f"fast={files / 'fast.xtc'}",
        f"scaled={files / 'fast.xtc'}", "--normalise", "scaled", "--out", tmp_path / "out")
    assert code == 0 and "timescale 1, ps" in out and "report.html" in out
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    found = {judged["label"]: judged for judged in content["judged"]}
    summary = {label: judged["summary"] for label, judged in found.items()}
    assert list(found) == ["independent run", "same", "shuffled", "fast", "scaled"]
    assert summary["same"]["bead_rmsd"] < 0.001 and summary["same"]["surface_largest"] < 0.4
    assert summary["independent run"]["timescale_1_overlaps"] == 1 and summary["independent run"]["cosine_1"] > 0.95
    own = content["reference"]["markov"]["timescales"][0]
    assert 15 < own < 40   # -1 / ln(1 - 2 * 0.02) = 24.5 frames of 1 ps
    assert summary["fast"]["timescale_1"] < own / 2 and summary["fast"]["timescale_1_overlaps"] == 0
    assert summary["scaled"]["timescale_1"] == pytest.approx(own)
    # Other order, same frames: all that does not look at time is the same.
    assert summary["shuffled"]["energy"] < 1e-3 and summary["shuffled"]["surface"] < 1e-3
    assert summary["shuffled"]["internal"] > 20 * summary["same"]["internal"]
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    assert {row["kind"] for row in rows} >= {"summary", "divergence", "internal", "timescale", "population"}


def test_the_page_has_all_figures_and_is_written_again(run, files, tmp_path):
    words = ("--reference", files / "ref_1.xtc", f"a<b={files / 'fast.xtc'}", "--out", tmp_path / "out", "--quiet")
    for drawn in (False, True):
        assert run(*words, drawn=drawn) == (0, "", "")
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count("<img") == len(list((tmp_path / "out" / "figures").glob("*.png"))) == 7
    assert "within error" in report and "a&lt;b" in report and "a<b" not in report


def test_errors_are_one_line(run, files, tmp_path):
    reference, out = ("--reference", files / "ref_1.xtc"), ("--out", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    for words, expected in (
            ((*reference, *out), "nothing to judge"),
            ((*reference, "fast.xtc", *out), "write LABEL=FILE"),
            ((*reference, f"a={files / 'none.xtc'}", *out), "no such file"),
            ((*reference, f"a={files / 'fast.xtc'}", "--normalise", "b", *out), "'b' is to be normalised"),
            ((*reference, f"a={files / 'fast.xtc'}", "--lag", "5000", *out), "longer than the lag of 5000 frames"),
            ((*reference, f"a={files / 'fast.xtc'}", "--out", tmp_path / "full"), "no folder of such results")):
        code, _, err = run(*words, "--quiet")
        assert code in (1, 2) and expected in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()
