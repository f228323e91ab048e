"""Properties of the mapping M of any chain, and of the projection onto its beads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.refine.projection import project

CHEMISTRY = load_chemistry("sps")
chains = st.lists(st.integers(1, 5), min_size=1, max_size=3)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None)


def make(lengths, seed):
    target = build_target(CHEMISTRY, [["STY"] * n for n in lengths])
    return target, np.random.default_rng(seed)


@few
@given(chains)
def test_every_bead_is_a_weighted_mean_of_atoms_of_its_molecule(lengths):
    target, _ = make(lengths, 0)
    assert target.mapping.sum(axis=1) == pytest.approx(1.0)
    assert (target.mapping.data > 0).all()
    entries = target.mapping.tocoo()
    assert (target.molecule_of_bead[entries.row] == target.molecule_of_atom[entries.col]).all()


@few
@given(chains, seeds)
def test_mapping_is_linear_and_moves_along(lengths, seed):
    target, rng = make(lengths, seed)
    a, b = rng.normal(size=(2, 3, target.n_atoms, 3))
    assert mapped(target, 2.5 * a - b) == pytest.approx(2.5 * mapped(target, a) - mapped(target, b))
    assert mapped(target, a + [1.0, -2.0, 0.5]) == pytest.approx(mapped(target, a) + [1.0, -2.0, 0.5])
    assert mapped(target, a)[1] == pytest.approx(target.mapping @ a[1])


@few
@given(chains, seeds)
def test_projection_is_exact_and_idempotent(lengths, seed):
    target, rng = make(lengths, seed)
    samples, beads = rng.normal(size=(2, target.n_atoms, 3)), rng.normal(size=(target.n_beads, 3))
    once = project(target, samples, beads)
    assert np.abs(mapped(target, once) - beads).max() < 1e-9
    assert project(target, once, beads) == pytest.approx(once, abs=1e-9)


@few
@given(chains, seeds)
def test_projection_turns_and_moves_with_everything(lengths, seed):
    target, rng = make(lengths, seed)
    positions, beads = rng.normal(size=(target.n_atoms, 3)), rng.normal(size=(target.n_beads, 3))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    there = project(target, positions @ rotation + 1.0, beads @ rotation + 1.0)
    assert there == pytest.approx(project(target, positions, beads) @ rotation + 1.0, abs=1e-8)
