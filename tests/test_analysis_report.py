"""The page of a plain run: what it says of sound and of faulty atoms."""

import dataclasses
import re

import numpy as np
import pytest
from small_systems import BOX, small_positions, small_target

from openmm_backmap.analysis import page
from openmm_backmap.analysis.report import write_picture, write_report
from openmm_backmap.backmapper import Backmapped
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import close_contacts
from openmm_backmap.refine import RefineSettings, refine


@pytest.fixture(scope="module")
def drawn():
    """Two samples, as a generator leaves them."""
    target = small_target()
    positions = np.stack([small_positions(target, seed) for seed in (1, 2)])
    beads = target.mapping @ positions[0]
    return Backmapped(target.topology, positions, None, BOX, (), {"input": "<cg>.gro", "seed": 1}, target, beads)


@pytest.fixture(scope="module")
def refined(drawn):
    done = refine(drawn.target, drawn.positions[0], drawn.beads, BOX, RefineSettings(mode="none"), "Reference")
    return dataclasses.replace(drawn, positions=done.positions[None], diagnostics=(done.report,),
                               provenance={**drawn.provenance, "temperature_K": 568.0})


def written(tmp_path, result):
    write_report(tmp_path / "report.html", result)
    return (tmp_path / "report.html").read_text()


def rows_after(text, heading):
    """Cells of the first table after a heading."""
    table = text[text.index(f"<h2>{heading}</h2>"):]
    table = table[table.index("<table>"):table.index("</table>")]
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in table.split("<tr>")[1:]]


def test_sections_and_their_numbers(refined, tmp_path):
    text = written(tmp_path, refined)
    energies = {row[0]: row[1:] for row in rows_after(text, "Energies (kJ/mol)")}
    report = refined.diagnostics[0]
    assert energies["HarmonicAngleForce"][1] == f"{report.energies_after['HarmonicAngleForce']:,.1f}"
    head, row = rows_after(text, "Checks")
    near = len(close_contacts(refined.target, refined.positions[0], BOX))
    assert near and row[:4] == ["1", f"{near} → {near}", "0 → 0", "0 → 0"] and head[2] == "inverted centres (of 6)"
    assert f"{near} close contacts." in text[:text.index("<script")]
    settings = dict(rows_after(text, "Run"))
    assert settings["seed"] == "1" and settings["box (nm)"] == "3 0 0; 0 2.6 0; 0 0 2.6"
    geometry = rows_after(text, "Bonds, angles and impropers against the force field")
    (angle,) = (row for row in geometry if row[:2] == ["angle", "C-C-C"])
    assert angle[4:6] == ["111.0", "5.4"]
    assert "&lt;cg&gt;.gro" in text and "<cg>" not in text
    assert text.count("data:image/png;base64,") == 5 and text.count('class="view"') == 1
    assert "http:" not in text and "https:" not in text


def test_atoms_as_drawn_have_their_farthest_beads_named(drawn, tmp_path):
    """The beads are those of the first sample: bead B of the second residue of chain 3 is put elsewhere."""
    target, beads = drawn.target, drawn.beads.copy()
    moved = np.flatnonzero((target.molecule_of_bead == 2) & (target.bead_type == 1))[1]
    beads[moved] += [0, 0, 1.2]
    text = written(tmp_path, dataclasses.replace(drawn, beads=beads))
    _, first, *others = rows_after(text, "Beads")
    assert first[0] == "B of residue 2 (SPM) of chain 3" and float(first[2]) > 1
    assert ["B of residue 2 (SPM) of chain 3", "1", "1.2000"] in [first, *others]
    assert "neither projected nor refined" in text and "2 sample(s)" in text
    assert len(rows_after(text, "Checks")) == 1 + 2


def test_what_is_wrong_is_said_first(drawn, tmp_path):
    """Mirror images, at a temperature at which angles do not scatter as these do."""
    mirrored = drawn.positions[:1] * [1, 1, -1]
    text = written(tmp_path, dataclasses.replace(
        drawn, positions=mirrored, beads=drawn.target.mapping @ mirrored[0],
        provenance={**drawn.provenance, "temperature_K": 1.0}))
    verdict = text[:text.index("<script")]
    assert "do not start a simulation from these atoms" in verdict
    assert rows_after(text, "Checks")[1][2] == "6"
    assert "Unlike what the force field expects" in verdict and re.search(r"<td class=bad>[^<]*too broad", text)


def test_files_are_not_replaced_unasked(drawn, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        write_report(tmp_path / "report.html", drawn)
    assert (tmp_path / "report.html").read_text() == "mine"
    write_picture(tmp_path / "a.png", drawn)
    with pytest.raises(InputError, match="--overwrite"):
        write_picture(tmp_path / "a.png", drawn)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_tables_escape_and_align():
    text = page.table(("a", "b", "c"), [("<x>", 1.5, page.Number("1.0")), (page.Bad("!"), 2, "")])
    assert "<td>&lt;x&gt;</td><td class=n>1.5</td><td class=n>1.0</td>" in text
    assert "<th>a</th><th class=n>b</th><th class=n>c</th>" in text and "<td class=bad>!</td>" in text
