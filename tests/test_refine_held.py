"""Short dynamics with the beads held."""

from dataclasses import replace

import numpy as np
import pytest
from small_peptide import peptide, walk

from openmm_backmap.analysis.kinetics.energies import FrameEnergies
from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.checks import inverted_centres, mapped
from openmm_backmap.geometry.hydrogens import with_ordered_hydrogens
from openmm_backmap.refine.batches import ExactBatch
from openmm_backmap.refine.held import HeldDynamics


@pytest.fixture(scope="module")
def held():
    return HeldDynamics(peptide(), 300.0, "Reference")


@pytest.fixture(scope="module")
def frames():
    return walk(40)


def chignolin():
    return build_target(load_chemistry("chignolin"), ["TYR TYR ASP PRO GLU THR GLY THR TRP TYR".split()])


def energies(x):
    target = peptide()
    return FrameEnergies(target)(ExactBatch(target)(x, mapped(target, x)))


def test_beads_stay_and_atoms_move(held, frames):
    moved, sound = held(frames, np.random.default_rng(1))
    assert sound.all()
    assert mapped(held.molecule, moved) == pytest.approx(mapped(held.molecule, frames), abs=1e-12)
    assert 0.01 < np.sqrt(np.square(moved - frames).sum(-1).mean()) < 0.1


def test_equilibrium_stays_what_it_is(held, frames):
    """Many times over, so that heat that each draw of velocities added would show."""
    x, rng = frames, np.random.default_rng(2)
    for _ in range(8):
        x, sound = held(x, rng)
        assert sound.all()
    # A degree of freedom too warm by a tenth would add some 8 kJ/mol; the standard error is 3.
    assert energies(x).mean() == pytest.approx(energies(frames).mean(), abs=12)


def test_scattered_atoms_come_to_the_energies_of_the_temperature(held, frames):
    rng, beads = np.random.default_rng(3), mapped(held.molecule, frames)
    scattered = ExactBatch(held.molecule)(frames + rng.normal(scale=0.006, size=frames.shape), beads)
    moved, sound = held(scattered, rng)
    before, after, wanted = (np.median(energies(x)) for x in (scattered, moved, frames))
    assert before - wanted > 80 and abs(after - wanted) < (before - wanted) / 3 and sound.all()


def test_a_molecule_does_not_depend_on_those_beside_it(held, frames):
    one, _ = held(frames[:1], np.random.default_rng(4))
    four, _ = held(frames[:4], np.random.default_rng(4))
    again, _ = held(frames[:4], np.random.default_rng(4))
    assert np.array_equal(one[0], four[0]) and np.array_equal(four, again)
    assert not np.array_equal(*held(frames[[0, 0]], np.random.default_rng(4))[0])


def test_what_dynamics_cannot_start_from_is_told(held, frames):
    broken = frames[:3].copy()
    broken[1, 5] = np.nan
    moved, sound = held(broken, np.random.default_rng(5))
    assert sound.tolist() == [True, False, True] and np.isfinite(moved[[0, 2]]).all()
    assert held.strained(moved).tolist() == [False, True, False]


def test_a_knot_is_told(held, frames):
    """A methyl group pulled through its carbon's bond: forces are finite, and an angle is bent for good."""
    inverted = frames[:2].copy()
    alpha, beta, hydrogen = 8, 10, 9
    assert [held.molecule.atom_names[a] for a in (alpha, beta, hydrogen)] == ["CA", "CB", "HA"]
    assert not held.strained(inverted).any()
    inverted[1, hydrogen] = frames[1, beta] + 0.06 * (frames[1, beta] - frames[1, alpha])
    assert held.strained(inverted).tolist() == [False, True]


def test_many_bonds_and_angles_a_little_strained_are_told(held, frames):
    """No single one need be beyond what one in 10^8 has."""
    thermal, _ = held(frames, np.random.default_rng(6))
    assert not held.strained(thermal).any()
    rng = np.random.default_rng(7)
    shaken = thermal + rng.normal(scale=0.006, size=thermal.shape)
    assert held.strained(shaken).mean() > 0.9


def test_the_solvent_of_the_chemistry_acts():
    from openmm_backmap.refine.held import _system

    target = chignolin()
    beads = target.mapping.toarray().argmax(1)
    vacuum = replace(target, chemistry=replace(target.chemistry, implicit_solvent=None))
    # Forces do not keep their system alive.
    solvated, dry = _system(target, beads), _system(vacuum, beads)
    assert [force.getName() for force in solvated.getForces()].count("GBSAOBCForce") == 1
    assert "GBSAOBCForce" not in [force.getName() for force in dry.getForces()]


def test_beads_of_several_atoms_are_refused():
    octane = build_target(load_chemistry("octane"), [["OCT"]])
    with pytest.raises(InputError, match="octane: its beads are not single atoms"):
        HeldDynamics(octane, 350.0)


def test_a_mirror_image_is_told(held, frames):
    thermal, _ = held(frames[:3], np.random.default_rng(8))
    assert held.strained(thermal * [1, 1, -1]).all() and not held.strained(thermal).any()


def test_a_stereocentre_comes_back_to_its_hand():
    """Alpha carbons alone are held: a side chain may be drawn as that of a D amino acid, sound in itself."""
    target = chignolin()
    held, rng = HeldDynamics(target, 350.0, "CPU"), np.random.default_rng(1)
    sound, _ = held(build_coordinates(target, rng)[None], rng)
    wrong = sound.copy()
    alpha, n, c, _ = target.stereo[1]
    residue = np.array(target.residue_of_atom) == target.residue_of_atom[alpha]
    side = np.flatnonzero(residue & ~np.isin(target.atom_names, ["N", "H", "CA", "C", "O"]))
    normal = np.cross(sound[0, n] - sound[0, alpha], sound[0, c] - sound[0, alpha])
    normal /= np.linalg.norm(normal)
    wrong[0, side] -= 2 * ((sound[0, side] - sound[0, alpha]) @ normal)[:, None] * normal
    assert inverted_centres(target, wrong)[0].tolist() == [False, True] + 9 * [False]
    moved, _ = held(wrong, rng)
    assert not inverted_centres(target, moved).any()


def test_hydrogens_that_are_alike_keep_their_hands(held, frames):
    """Two drawn upon each other part either way, and are named as they came."""
    rng, pair = np.random.default_rng(10), np.flatnonzero(np.isin(held.molecule.atom_names, ["HB2", "HB3"]))
    close = frames.copy()
    close[:, pair] = close[:, pair].mean(1, keepdims=True) + rng.normal(scale=0.002, size=(len(close), 2, 3))
    for way in (with_ordered_hydrogens(held.molecule, close), close):
        moved, sound = held(way, rng)
        assert np.array_equal(with_ordered_hydrogens(held.molecule, moved, like=way), moved) and sound.all()
    ordered = with_ordered_hydrogens(held.molecule, moved)
    assert 0.2 < (ordered != moved).any(axis=(1, 2)).mean() < 0.8
