"""A melt drawn in domains is the melt drawn whole."""

from functools import cache

import numpy as np
import pytest
import torch
from small_systems import BOX, TINY, TRICLINIC, small_positions, small_target

from openmm_backmap.chemistry.parts import part_of
from openmm_backmap.environments.local import Vocabulary
from openmm_backmap.generators.flow import BaseDistribution, FlowGenerator, FlowNetwork, FlowSampling
from openmm_backmap.geometry.checks import inverted_centres, ring_planarity, rings
from openmm_backmap.sampling import domains, faults
from openmm_backmap.sampling.domains import Division, in_turn
from openmm_backmap.sampling.faults import HALO_NM, Nearby, faulty_beads
from openmm_backmap.sampling.sweeps import SweepSettings

N_COPIES = (4, 1, 1)


@cache
def melt(box_name="box"):
    """Chains side by side in a long box, with as many beads as several domains need."""
    cell = {"box": BOX, "triclinic": TRICLINIC}[box_name]
    box = cell * np.array(N_COPIES)[:, None]
    target = small_target(3 * N_COPIES[0], 3)
    one = small_positions(small_target(3, 3))
    x = np.concatenate([one + k * cell[0] for k in range(N_COPIES[0])])
    return target, x, target.mapping @ x, box


@cache
def generator(batch=512, max_redraws=1):
    target = melt()[0]
    vocabulary = Vocabulary.of(target)
    torch.manual_seed(0)
    network = FlowNetwork(TINY, len(vocabulary.slots), len(vocabulary.bead_types))
    base = BaseDistribution(torch.zeros(len(vocabulary.slots), 3), torch.full((len(vocabulary.slots),), 0.7))
    return FlowGenerator(network, base, vocabulary, sampling=FlowSampling(1),
                         sweeps=SweepSettings(gibbs=1, max_redraws=max_redraws, batch=batch))


@cache
def whole(box_name="box", **settings):
    target, _, beads, box = melt(box_name)
    return generator(**settings).generate(target, beads, box, rng=np.random.default_rng(4))[0]


def draw(monkeypatch, size, box_name="box", **settings):
    monkeypatch.setattr(domains, "DOMAIN_BEADS", size)
    target, _, beads, box = melt(box_name)
    return generator(**settings).generate(target, beads, box, rng=np.random.default_rng(4))[0]


@pytest.mark.parametrize("box_name", ["box", "triclinic"])
@pytest.mark.parametrize("size", [40, 15])
def test_the_division_does_not_matter(monkeypatch, size, box_name):
    assert draw(monkeypatch, size, box_name) == pytest.approx(whole(box_name), abs=2e-6)


def test_redraws_are_in_it():
    target, _, _, box = melt()
    before = whole(max_redraws=0)
    beads = faulty_beads(target, before, box)
    moved = np.abs(whole() - before).max(1) > 1e-3
    assert len(beads) and np.array_equal(np.unique(target.bead_of_atom[moved]), beads)


def test_nor_do_batches():
    assert whole(batch=2) == pytest.approx(whole(), abs=2e-6)


def test_parts_that_are_not_kept_ready_are_made_again(monkeypatch):
    monkeypatch.setattr(domains, "_READY", 1)
    assert draw(monkeypatch, 40) == pytest.approx(whole(), abs=2e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_domains_are_blocks_with_all_that_is_near(n):
    target, _, beads, box = melt()
    division = Division(target, beads, box, n)
    assert np.array_equal(np.sort(np.concatenate(division.own)), np.arange(target.n_beads))
    assert np.ptp([len(own) for own in division.own]) <= 2
    separation = beads[:, None] - beads
    separation -= np.round(separation / np.diag(box)) * np.diag(box)
    near = np.linalg.norm(separation, axis=-1) < HALO_NM
    for own, seen in zip(division.own, division.near):
        assert set(np.flatnonzero(near[own].any(0))) <= set(seen)
    if n == 5:
        assert any(len(seen) < target.n_beads for seen in division.near)


def test_a_part_is_the_whole_with_less():
    target, x, _, _ = melt()
    beads = np.sort(np.random.default_rng(1).choice(target.n_beads, 30, replace=False))
    part, atoms = part_of(target, beads)
    assert np.array_equal(target.bead_of_atom[atoms], beads[part.bead_of_atom])
    assert part.atom_names == tuple(target.atom_names[k] for k in atoms)
    assert {tuple(b) for b in atoms[part.bonds].tolist()} == {
        tuple(b) for b in target.bonds.tolist() if set(b) <= set(atoms.tolist())}
    assert [part.residue_names[r] for r in part.residue_of_atom] == [
        target.residue_names[r] for r in target.residue_of_atom[atoms]]
    framed = part.bead_frame >= 0
    assert np.array_equal(beads[part.bead_frame[framed]], target.bead_frame[beads][framed])
    assert part.n_atoms == len(part.elements) == len(part.masses) == part.mapping.shape[1]
    # Rings and centres that are there whole are as they were.
    assert len(rings(part)) == sum(set(ring.tolist()) <= set(atoms.tolist()) for ring in rings(target))
    assert ring_planarity(part, x[atoms]).max() <= ring_planarity(target, x).max() + 1e-12
    assert inverted_centres(part, x[atoms]).sum() == 0 and len(part.stereo) < len(target.stereo)


def test_whole_molecules_make_a_whole_target():
    target, x, beads, _ = melt()
    some = np.flatnonzero(np.isin(target.molecule_of_bead, [1, 4]))
    part, atoms = part_of(target, some)
    assert part.mapping @ x[atoms] == pytest.approx(beads[some])
    assert np.array_equal(np.unique(part.molecule_of_atom), [0, 1])


def test_workers_divide_what_is_small():
    class Here:
        count = 3

        def spread(self, division):
            self.asked = division
            return in_turn(division, generator().prepared)

    target, _, beads, box = melt()
    workers = Here()
    x = generator().generate(target, beads, box, rng=np.random.default_rng(4), workers=workers)[0]
    assert x == pytest.approx(whole(), abs=2e-6) and len(workers.asked) == 3


@pytest.mark.parametrize("box_name", ["box", "triclinic"])
def test_a_look_around_moved_beads_finds_the_faults_that_are_there(monkeypatch, box_name):
    monkeypatch.setattr(faults, "_AROUND", 1)
    target, x, beads, box = melt(box_name)
    every, nearby = faulty_beads(target, x, box), Nearby(target, beads, box)
    for bead in every.tolist()[:6]:
        around = nearby.of(np.array([bead]))
        assert len(nearby.of(around)) < target.n_beads
        assert bead in (found := nearby.faulty(x, np.array([bead])))
        assert np.array_equal(found, np.intersect1d(every, around))
