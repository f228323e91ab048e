"""Refinement of small structures: what it promises, and what it says where it cannot."""

from dataclasses import replace

import numpy as np
import pytest

from openmm_backmap.chemistry import build_target, create_system, load_chemistry
from openmm_backmap.energy.restraints import move_bead_restraints
from openmm_backmap.errors import InputError, RefinementError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.checks import inverted_centres, mapped, rings
from openmm_backmap.refine import Refiner, RefineSettings, add_bead_restraints, refine
from openmm_backmap.refine.pipeline import LARGEST_FORCE, where
from openmm_backmap.refine.systems import refinement_system

BOX = np.array([[3.2, 0, 0], [-0.9, 3.1, 0], [0.7, -0.8, 3.0]])
QUICK = dict(platform="CPU")


@pytest.fixture(scope="module")
def target():
    return build_target(load_chemistry("sps"), [["STY"] * 3, ["STY"] * 3])


@pytest.fixture(scope="module")
def positions(target):
    """Two chains side by side, at rest."""
    import openmm as mm

    x = build_coordinates(target, np.random.default_rng(1)) + target.molecule_of_atom[:, None] * [0.0, 0.0, 1.2]
    context = mm.Context(create_system(target, None), mm.VerletIntegrator(0.001),
                         mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    mm.LocalEnergyMinimizer.minimize(context, 10.0)
    return np.array(context.getState(positions=True).getPositions(asNumpy=True)._value)


@pytest.fixture(scope="module")
def noisy(positions):
    return positions + np.random.default_rng(7).normal(scale=0.02, size=positions.shape)


@pytest.fixture(scope="module")
def minimizer(target):
    return Refiner(target, BOX, RefineSettings("minimize", reproducible=True), **QUICK)


def restraint_energy(target, x, beads, box, k=1000.0, moved=None):
    import openmm as mm

    system = create_system(target, box)
    force = add_bead_restraints(system, target, beads, box, k)
    force.setForceGroup(7)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    if moved is not None:
        move_bead_restraints(context, force, moved, box)
    state = context.getState(energy=True, forces=True, groups={7})
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


@pytest.mark.parametrize("box", [None, BOX], ids=["free", "triclinic"])
def test_restraints_are_harmonic_in_the_nearest_image(target, positions, box):
    offset = np.random.default_rng(0).normal(scale=0.05, size=(target.n_beads, 3))
    beads = mapped(target, positions) + offset
    expected = 0.5 * 1000.0 * (offset**2).sum()
    energy, forces = restraint_energy(target, positions, beads, box)
    assert energy == pytest.approx(expected, rel=1e-5)
    assert forces == pytest.approx(target.mapping.T @ (1000.0 * offset), abs=1e-2)
    assert restraint_energy(target, positions, beads + 1.0, box, moved=beads)[0] == pytest.approx(expected, rel=1e-5)
    if box is not None:
        elsewhere = positions + np.array([[0, 0, 0], box[2] - 2 * box[1]])[target.molecule_of_atom]
        assert restraint_energy(target, elsewhere, beads, box)[0] == pytest.approx(expected, rel=1e-5)


def test_restraints_on_the_spot_are_finite(target, positions):
    energy, forces = restraint_energy(target, positions, mapped(target, positions), BOX)
    assert energy == pytest.approx(0.0, abs=1e-6) and np.isfinite(forces).all()


@pytest.mark.parametrize("box", [None, BOX], ids=["free", "triclinic"])
def test_mode_none_makes_beads_and_bonds_exact_and_judges_nothing(target, positions, noisy, box):
    refined = refine(target, noisy, mapped(target, positions), box, RefineSettings("none"), **QUICK)
    report = refined.report
    assert report.bead_rmsd < 1e-6 < report.bead_rmsd_given
    assert report.bond_error < 1e-6
    assert report.energies_before and report.energies_before == report.energies_after
    assert report.largest_force_before == report.largest_force_after > 0
    assert refined.velocities is None
    assert set(report.seconds) == {"prepare", "project", "check"}


def test_minimizing_noise_ends_at_rest_with_exact_beads_and_bonds(target, positions, noisy, minimizer):
    seen = []
    refined = minimizer.refine(noisy, mapped(target, positions), BOX, lambda *args: seen.append(args))
    report = refined.report
    assert report.bead_rmsd < 1e-6 and report.bond_error < 1e-6
    assert report.largest_force_after < min(LARGEST_FORCE, report.largest_force_before)
    assert sum(report.energies_after.values()) < sum(report.energies_before.values())
    assert report.inverted_centres[1] == report.pierced_rings[1] == report.close_contacts[1] == 0
    assert {stage for stage, _, _ in seen} >= {"project", "soften", "minimize"}


def test_atoms_on_top_of_each_other_come_apart(target, positions, minimizer):
    """Forces beyond 1e10 kJ/mol/nm, at which a plain minimiser stops without a step."""
    second = target.molecule_of_atom == 1
    middle = np.isin(target.residue_of_atom, [1, 5])
    tips, roots = (np.flatnonzero(middle & (np.array(target.atom_names) == name)) for name in ("HZ", "CG"))
    out = positions[tips] - positions[roots]
    turn = rotation_between(out[1], -out[0])
    x = positions.copy()
    x[second] = (positions[second] - positions[tips[1]]) @ turn.T + positions[tips[0]] + 0.02 * out[0]
    refined = minimizer.refine(x, mapped(target, x), BOX)
    assert refined.report.largest_force_before > 1e10
    assert refined.report.largest_force_after < LARGEST_FORCE


def test_equilibration_reaches_the_temperature_and_keeps_beads(target, positions, noisy):
    settings = RefineSettings(equilibrate_ps=0.4, seed=3)
    refined = refine(target, noisy, mapped(target, positions), BOX, settings, **QUICK)
    minimum = refine(target, noisy, mapped(target, positions), BOX, RefineSettings("minimize"), **QUICK)
    n_free = 3 * target.n_atoms - create_system(target, BOX).getNumConstraints()
    kinetic = 0.5 * (target.masses[:, None] * refined.velocities**2).sum()
    assert 2 * kinetic / n_free / 8.314462e-3 == pytest.approx(568, rel=0.25)
    assert sum(refined.report.energies_after.values()) > sum(minimum.report.energies_after.values()) + 100
    assert 0.001 < refined.report.bead_rmsd < 0.02
    assert refined.report.bond_error < 1e-5
    assert not inverted_centres(target, refined.positions).any()


def test_springs_as_stiff_as_steps_allow_hold_beads(target, positions, noisy):
    """Also the lightest, of one carbon atom."""
    settings = RefineSettings(restraint_k=None, equilibrate_ps=0.3, seed=3)
    refined = refine(target, noisy, mapped(target, positions), BOX, settings, **QUICK)
    assert 1e-4 < refined.report.bead_rmsd < 0.003
    n_free = 3 * target.n_atoms - create_system(target, BOX).getNumConstraints()
    kinetic = 0.5 * (target.masses[:, None] * refined.velocities**2).sum()
    assert 2 * kinetic / n_free / 8.314462e-3 == pytest.approx(568, rel=0.25)
    assert refined.report.faults == ()


def test_stiff_springs_swing_as_fast_as_steps_allow(target, positions):
    system, force = refinement_system(target, BOX, mapped(target, positions), None, 0.001)
    k = force.getGlobalParameterDefaultValue(0)
    masses = np.array([system.getParticleMass(i)._value for i in range(target.n_atoms)])
    mapping = target.mapping.toarray()
    fastest = np.sqrt(np.linalg.eigvalsh(k * mapping / masses @ mapping.T).max())
    assert 0.5 < fastest * 0.001 < 1.0
    assert refinement_system(target, BOX, mapped(target, positions), 7.0, 0.001)[1].getGlobalParameterDefaultValue(
        0) == 7.0


def test_same_seed_same_atoms(target, positions, noisy):
    runs = [refine(target, noisy, mapped(target, positions), BOX,
                   RefineSettings(equilibrate_ps=0.02, seed=seed), platform="Reference").positions
            for seed in (0, 0, 1)]
    assert (runs[0] == runs[1]).all()
    assert np.abs(runs[0] - runs[2]).max() > 1e-4


def test_one_refiner_serves_frames_in_boxes_of_their_own(target, positions, noisy, minimizer):
    larger = BOX * 1.02
    alone = refine(target, noisy, mapped(target, positions), larger, RefineSettings("minimize"), **QUICK)
    minimizer.refine(positions, mapped(target, positions), BOX)
    again = minimizer.refine(noisy, mapped(target, positions), larger)
    assert again.box is larger
    assert sum(again.report.energies_after.values()) == pytest.approx(sum(alone.report.energies_after.values()), abs=2)


def test_an_inverted_centre_is_turned_back(target, positions, minimizer):
    centre, *neighbours = target.stereo[0]
    a, b, c = positions[neighbours]
    normal = np.cross(b - a, c - a) / np.linalg.norm(np.cross(b - a, c - a))
    wrong = positions.copy()
    bonded = target.bonds[(target.bonds == centre).any(axis=1)].ravel()
    hydrogen = next(n for n in bonded if target.elements[n] == "H")
    depth = (positions[centre] - a) @ normal
    wrong[centre] -= 2 * depth * normal
    wrong[hydrogen] = wrong[centre] - 0.11 * np.sign(depth) * normal
    assert inverted_centres(target, wrong)[0]
    refined = minimizer.refine(wrong, mapped(target, positions), BOX)
    assert refined.report.inverted_centres == (1, 0)


def test_a_pierced_ring_is_reported_with_its_residue(target, positions, minimizer):
    x = positions.copy()
    ring = x[rings(target)[1]]
    second = target.molecule_of_atom == 1
    bond = next(k for k, (i, j) in enumerate(target.bonds.tolist()) if second[i]
                and {target.atom_names[i], target.atom_names[j]} == {"CA", "CB"})
    along = x[target.bonds[bond, 1]] - x[target.bonds[bond, 0]]
    normal = np.cross(ring[1] - ring[0], ring[2] - ring[0])
    turn = rotation_between(along, normal)
    x[second] = (x[second] - x[target.bonds[bond]].mean(0)) @ turn.T + ring.mean(0)
    ring_of = r"ring of atom \w+ of residue 2 \(SPM\) of chain 1 by the bond"
    with pytest.raises(RefinementError, match=f"pierced.*already so.*{ring_of}"):
        minimizer.refine(x, mapped(target, x), BOX)


def test_what_is_refused_may_be_asked_for(target, positions):
    """Atoms as far as they came, with the reasons; nothing of it where settings are strict."""
    both = positions.copy()
    second = target.molecule_of_atom == 1
    both[second] = both[~second] + [0.02, 0.0, 0.0]
    for mode in ("minimize", "equilibrate"):
        settings = RefineSettings(mode, restraint_k=None, equilibrate_ps=0.05, strict=False)
        refined = refine(target, both, mapped(target, both), BOX, settings, **QUICK)
        assert refined.report.faults and np.isfinite(refined.positions).all()
        assert any("force" in why or "pierced" in why for why in refined.report.faults)
        with pytest.raises(RefinementError):
            refine(target, both, mapped(target, both), BOX, replace(settings, strict=True), **QUICK)
    same = positions.copy()
    same[second] = same[~second]
    refined = refine(target, same, mapped(target, same), BOX, replace(settings, equilibrate_ps=0.05), **QUICK)
    assert refined.velocities is None and "minimisation failed" in " ".join(refined.report.faults)
    assert refined.positions == pytest.approx(same, abs=1e-3) and refined.report.bead_rmsd < 1e-6


def rotation_between(a, b):
    from scipy.spatial.transform import Rotation

    return Rotation.align_vectors(b[None] / np.linalg.norm(b), a[None] / np.linalg.norm(a))[0].as_matrix()


def test_input_that_cannot_be_used_is_refused(target, positions, minimizer):
    beads = mapped(target, positions)
    with pytest.raises(InputError, match="shape"):
        minimizer.refine(positions[:-1], beads, BOX)
    with pytest.raises(InputError, match="non-periodic"):
        minimizer.refine(positions, beads, None)
    lost = positions.copy()
    lost[5] = np.nan
    with pytest.raises(InputError, match=where(target, 5).replace("(", r"\(").replace(")", r"\)")):
        minimizer.refine(lost, beads, BOX)
    same = positions.copy()
    same[target.molecule_of_atom == 1] = same[target.molecule_of_atom == 0]
    with pytest.raises(RefinementError, match="another seed"):
        minimizer.refine(same, mapped(target, same), BOX)


@pytest.mark.parametrize("wrong", [dict(mode="quick"), dict(timestep_ps=0), dict(restraint_k=-1.0),
                                   dict(temperature_K=-5.0), dict(equilibrate_ps=float("nan"))])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        RefineSettings(**wrong)


def test_an_implicit_solvent_acts_where_there_is_no_box():
    from small_peptide import peptide, walk

    dipeptide, x = peptide(), walk(1)[0]
    beads, solvated = mapped(dipeptide, x), RefineSettings("minimize", reproducible=True)
    wet = refine(dipeptide, x, beads, None, solvated, **QUICK)
    assert wet.report.energies_after["GBSAOBCForce"] < -30
    dry = replace(dipeptide, chemistry=replace(dipeptide.chemistry, implicit_solvent=None))
    assert "GBSAOBCForce" not in refine(dry, x, beads, None, solvated, **QUICK).report.energies_after
    assert "GBSAOBCForce" not in refine(dipeptide, x, beads, BOX, solvated, **QUICK).report.energies_after
    # Positions at rest in one are not in the other.
    assert np.abs(wet.positions - refine(dry, x, beads, None, solvated, **QUICK).positions).max() > 1e-3
