"""Beads and bonds of large melts are made exact block by block."""

import numpy as np
import pytest

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.refine import Refiner, RefineSettings, blocks

BOX = np.eye(3) * 8.0


@pytest.fixture(scope="module")
def target():
    return build_target(load_chemistry("sps"), [["STY"] * 4, ["STY"] * 2, ["STY"] * 4, ["STY"] * 3])


@pytest.fixture(scope="module")
def structure(target):
    """Built chains side by side, and the same with noise."""
    rng = np.random.default_rng(5)
    x = build_coordinates(target, rng) + target.molecule_of_atom[:, None] * np.array([1.8, 0, 0]) + 1.0
    return x, x + rng.normal(scale=0.004, size=x.shape)


@pytest.mark.parametrize("atoms", [1, 100, 10_000])
def test_blocks_give_what_one_piece_gives(target, structure, monkeypatch, atoms):
    beads, given = target.mapping @ structure[0], structure[1]
    refiner = Refiner(target, BOX, RefineSettings("none"), "CPU")
    whole = refiner.refine(given, beads, BOX)
    monkeypatch.setattr(blocks, "LARGE_ATOMS", 0)
    monkeypatch.setattr(blocks, "_BLOCK_ATOMS", atoms)
    told = []
    divided = refiner.refine(given, beads, BOX, lambda *step: told.append(step))
    assert divided.positions == pytest.approx(whole.positions, abs=2e-6)
    for name in ("bead_rmsd_given", "bead_rmsd", "largest_displacement", "inverted_centres", "pierced_rings",
                 "close_contacts"):
        assert getattr(divided.report, name) == pytest.approx(getattr(whole.report, name), abs=1e-5)
    assert divided.report.bond_error < 1e-6 and divided.report.energies_after == {}
    assert told[-1][1] == told[-1][2] == {1: 4, 100: 3, 10_000: 1}[atoms]


def test_one_bad_molecule_does_not_spoil_those_of_other_blocks(target, structure, monkeypatch):
    beads, given = target.mapping @ structure[0], structure[1].copy()
    spoilt = target.molecule_of_atom == 1
    given[spoilt] = given[spoilt].mean(0) + np.random.default_rng(1).normal(scale=2.0, size=(spoilt.sum(), 3))
    monkeypatch.setattr(blocks, "_BLOCK_ATOMS", 1)
    refined = blocks.refine_in_blocks(target, given, beads, BOX, lambda *_: None)
    assert refined.report.bond_error > 0.01 and refined.report.bead_rmsd < 1e-4
    assert np.abs(refined.positions - structure[0])[~spoilt].max() < 0.05
