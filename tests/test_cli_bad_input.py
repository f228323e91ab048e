"""Bad input through the command line: exit code 1 or 2, one clear line, nothing written."""

import pickle

import pytest
from toy_generator import toy_target, write_gro, write_pdb

from openmm_backmap.cli import main

QUICK = ["--platform", "CPU", "--device", "cpu", "--seed", "1", "--refine", "none"]


@pytest.fixture
def refused(toy_model, tmp_path, capsys):
    """Run and check what every refusal has in common; the line of the error comes back."""
    def go(*words, model=toy_model, code=1, leaves=()):
        before = sorted(p.name for p in tmp_path.iterdir())
        with pytest.raises(SystemExit) as left:
            main([*map(str, words), "-o", str(tmp_path / "aa.gro"), "--model", str(model)])
        out, err = capsys.readouterr()
        lines = err.strip().splitlines()
        assert left.value.code == code and out == "" and "(unexpected" not in err
        assert lines[-1].startswith("Error: ") and "Traceback" not in err
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, *leaves])
        return lines[-1]
    return go


@pytest.fixture
def cg(tmp_path):
    return write_gro(tmp_path / "cg.gro")


def edit(path, *changes):
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    return path


def line_of(path, bead):
    return next(line for line in path.read_text().splitlines() if line[10:15].strip() == bead)


def without(path, *beads):
    """Take beads of the first chain out of a .gro file."""
    lines = path.read_text().splitlines()
    drop = [next(i for i, line in enumerate(lines) if line[10:15].strip() == bead) for bead in beads]
    lines = [line for i, line in enumerate(lines) if i not in drop]
    lines[1] = str(int(lines[1]) - len(drop))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_missing_file(refused, tmp_path):
    assert "nowhere.gro does not exist" in refused(tmp_path / "nowhere.gro")


def test_unknown_ending(refused, tmp_path):
    (tmp_path / "cg.txt").write_text("x")
    assert ".gro" in refused(tmp_path / "cg.txt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_truncated(refused, cg, share):
    text = cg.read_text()
    cg.write_text(text[:int(len(text) * share)])
    assert "cg.gro" in refused(cg, *QUICK)


def test_not_finite(refused, cg):
    line = line_of(cg, "S2")
    edit(cg, (line, line[:20] + f"{'nan':>12s}" + line[32:]))
    assert "cg.gro" in refused(cg, *QUICK)


def test_wrong_bead_names(refused, cg):
    cg.write_text(cg.read_text().replace(" S1", " Q1"))
    assert "--alias" in refused(cg, *QUICK)


def test_unknown_residues_mixed_in(refused, cg):
    edit(cg, ("    2PS1 ", "    2SOL "))
    line = refused(cg, *QUICK)
    assert "SOL (1)" in line and "PS1" in line


def test_missing_partner_bead(refused, cg):
    line = refused(without(cg, "S2"), *QUICK)
    assert "PS1 1" in line and "S2" in line


def test_gap(refused, cg):
    line = refused(without(cg, "B2", "S2"), *QUICK)
    assert "PS1 1" in line and "missing" in line


def test_beads_too_far_apart(refused, cg):
    line = line_of(cg, "S2")
    edit(cg, (line, line[:44] + f"{float(line[44:56]) + 1.0:12.7f}"))
    assert "gap of" in refused(cg, *QUICK)


def test_two_beads_in_one_place(refused, cg):
    a, b = line_of(cg, "B2"), line_of(cg, "S2")
    edit(cg, (b, b[:20] + a[20:]))
    assert "in one place" in refused(cg, *QUICK)


def test_trajectory_without_names(refused, tmp_path):
    (tmp_path / "cg.xtc").write_bytes(b"\0" * 40)
    assert "--topology" in refused(tmp_path / "cg.xtc")


def test_box_smaller_than_twice_the_cutoff(refused, tmp_path):
    cg = write_gro(tmp_path / "small.gro", toy_target(1, 2), box_nm=1.6)
    line = refused(cg, *QUICK)
    assert "1.600 nm" in line and "at least 2 nm" in line


def test_frames_that_do_not_exist(refused, cg):
    assert "--last" in refused(cg, "--first", 2, "--last", 1, code=2)
    assert "no frame 5" in refused(cg, "--first", 5)


@pytest.mark.parametrize("words", [["--samples", 0], ["--refine", "melt"], ["--temperature", -5], ["--bogus"],
                                   ["--seed", "x"]])
def test_usage(refused, cg, words):
    refused(cg, *words, code=2)


def test_a_second_input(refused, cg, tmp_path):
    assert "second.gro does not exist" in refused(cg, tmp_path / "second.gro")
    assert "draws every frame by itself: give one INPUT" in refused(cg, cg, code=2)


def test_unknown_names(refused, cg):
    assert "unknown model 'spss'" in refused(cg, model="spss")
    assert "did you mean 'CUDA'" in refused(cg, "--platform", "CUDAA")
    assert "device 'tpu'" in refused(cg, "--device", "tpu")
    assert "OLD=NEW" in refused(cg, "--alias", "POL")


def test_baselines_need_a_chemistry_and_models_bring_theirs(refused, cg, monkeypatch):
    monkeypatch.setattr("openmm_backmap.generators.base.shipped_models", dict)
    assert "give --chemistry" in refused(cg, model="random")
    assert "unknown chemistry 'nosuch'" in refused(cg, "--chemistry", "nosuch", model="random")
    assert "did you mean 'geometric'" in refused(cg, "--chemistry", "sps", model="geometrc")
    assert "brings its own chemistry" in refused(cg, "--chemistry", "sps")
    assert "no shipped model fragment-octane: make one with" in refused(cg, "--chemistry", "octane", model="fragment")
    assert "unknown chemistry 'nosuch'" in refused(cg, "--chemistry", "nosuch", model="fragment")


def test_a_chemistry_without_rules_of_placement(refused, cg, tmp_path):
    from openmm_backmap.chemistry import load_chemistry

    chemistry = load_chemistry("sps")
    start, end = (chemistry.source.index(text) for text in ("    placement:", "# Closes every chain"))
    (tmp_path / "mine.yaml").write_text(chemistry.source[:start] + chemistry.source[end:])
    (tmp_path / "sps.xml").write_text(chemistry.force_field_xml)
    assert "has no placement" in refused(cg, "--chemistry", tmp_path / "mine.yaml", *QUICK, model="geometric")


def test_projection_is_needed_for_refinement(refused, cg):
    assert "refine must be none" in refused(cg, "--no-projection", "--refine", "minimize")


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_model_that_is_none(refused, cg, tmp_path):
    model = tmp_path / "model.pt"
    model.write_bytes(b"no model")
    assert "model.pt" in refused(cg, model=model)
    model.write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    assert "model.pt" in refused(cg, model=model)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("option", ["--structure", "--top", "--system", "--state", "--report", "--picture"])
def test_outputs_are_checked_before_the_work(refused, cg, tmp_path, option):
    assert "does not exist" in refused(cg, option, tmp_path / "nowhere" / "file.gro", model="never looked at")
    (tmp_path / "mine.gro").write_text("mine")
    assert "--overwrite" in refused(cg, option, tmp_path / "mine.gro", model="never looked at")
    assert "two outputs" in refused(cg, option, tmp_path / "aa.gro", model="never looked at")


def test_output_of_no_known_format(toy_model, cg, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main([str(cg), "-o", str(tmp_path / "aa.xyz"), "--model", str(toy_model)])
    assert left.value.code == 1 and "unknown ending '.xyz'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main([str(cg), "-o", str(tmp_path / "aa.xtc"), "--structure", str(tmp_path / "aa.dcd"), "-m", str(toy_model)])
    assert left.value.code == 1 and "unknown ending '.dcd'; known: .gro" in capsys.readouterr().err


def test_unexpected_errors_take_one_line(toy_model, cg, tmp_path, capsys, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("in the middle\nof it")
    monkeypatch.setattr("toy_generator.ToyGenerator.generate", broken)
    words = [str(cg), "-o", str(tmp_path / "aa.gro"), "--model", str(toy_model), *QUICK]
    for extra, traceback in (([], False), (["-v"], True)):
        with pytest.raises(SystemExit) as left:
            main([*words, *extra])
        err = capsys.readouterr().err
        assert left.value.code == 1 and ("Traceback" in err) == traceback
        assert "Error: ZeroDivisionError: in the middle of it (unexpected; run with -v for the traceback)" in err
    assert not (tmp_path / "aa.gro").exists()


def test_pdb_with_a_different_second_model(refused, tmp_path):
    cg = write_pdb(tmp_path / "cg.pdb", n_models=2)
    lines = cg.read_text().splitlines()
    cg.write_text("\n".join(lines[:-3] + lines[-2:]) + "\n")
    assert "cg.pdb" in refused(cg, *QUICK, leaves=[".aa.gro.frames"])
