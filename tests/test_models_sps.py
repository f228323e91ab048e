"""The shipped polystyrene model on the example melt, which it was not trained on."""

from pathlib import Path

import numpy as np
import pytest

from openmm_backmap import Backmapper
from openmm_backmap.geometry.checks import close_contacts, inverted_centres, mapping_rmsd, pierced_rings, ring_planarity

EXAMPLE = Path(__file__).parents[1] / "examples" / "sps_melt.gro"


@pytest.fixture(scope="module")
def backmapper():
    return Backmapper("sps", platform="CPU", device="cpu")


@pytest.fixture(scope="module")
def drawn(backmapper):
    return backmapper.backmap(EXAMPLE, seed=1, refine="none")


def test_beads_are_met_exactly(drawn):
    assert mapping_rmsd(drawn.target, drawn.positions[0], drawn.beads, drawn.box) < 1e-6


def test_nothing_is_wrong_that_md_could_not_mend(drawn):
    x, target, box = drawn.positions[0], drawn.target, drawn.box
    assert not inverted_centres(target, x).any()
    assert len(pierced_rings(target, x, box)) == 0
    assert len(close_contacts(target, x, box)) <= 2
    assert ring_planarity(target, x).max() < 0.025


def test_backbone_angles_are_those_of_the_melt(drawn):
    """Mean and spread (degrees) of C-C-C in a melt at 568 K: 113 and 5, by MD with the same force field."""
    x, target = drawn.positions[0], drawn.target
    names = np.array(target.atom_names)
    chain = set(np.flatnonzero(np.isin(names, ("CA", "CB"))))
    backbone = {i: [j for pair in target.bonds.tolist() if i in pair for j in pair if j != i and j in chain]
                for i in chain}
    ends = np.array([(a, i, b) for i, (a, *rest) in backbone.items() for b in rest])
    u, v = x[ends[:, 0]] - x[ends[:, 1]], x[ends[:, 2]] - x[ends[:, 1]]
    cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    angles = np.degrees(np.arccos(cosine))
    assert angles.mean() == pytest.approx(113, abs=1.5)
    assert angles.std() < 7.5


def test_the_same_seed_gives_the_same_atoms_and_another_seed_others(backmapper, drawn):
    again = backmapper.backmap(EXAMPLE, seed=1, refine="none")
    other = backmapper.backmap(EXAMPLE, seed=2, refine="none")
    assert np.array_equal(again.positions, drawn.positions)
    assert np.abs(other.positions - drawn.positions).max() > 0.05


def test_refined_atoms_have_exact_bonds_and_keep_their_beads(backmapper):
    atoms = backmapper.backmap(EXAMPLE, seed=1, refine="minimize")
    report = atoms.diagnostics[0]
    assert report.bond_error < 1e-4 and report.bead_rmsd < 1e-4
    assert report.largest_force_after < 2e4 < report.largest_force_before
    assert report.inverted_centres[1] == report.pierced_rings[1] == report.close_contacts[1] == 0
