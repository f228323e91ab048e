"""The torch energy of a System against OpenMM's Reference platform, force by force."""

import numpy as np
import openmm as mm
import pytest
import torch
from openmm import app, unit

from openmm_backmap.chemistry import build_target, create_system, load_chemistry
from openmm_backmap.energy import TorchEnergy, energies_by_force, forces
from openmm_backmap.energy.expressions import harmonic_torsion
from openmm_backmap.energy.neighbours import pairs_within
from openmm_backmap.errors import BackmapError, InputError, UnsupportedForceError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.periodic import minimum_image

TRICLINIC = np.array([[2.3, 0.0, 0.0], [-0.7, 2.2, 0.0], [0.9, -0.8, 2.1]])
RECTANGULAR = np.diag([2.4, 2.6, 2.5])


@pytest.fixture(scope="module")
def melt():
    """Five syndiotactic 3-mers, jittered, on a grid in a triclinic box with the fewest clashes it allows."""
    target = build_target(load_chemistry("sps"), [["STY"] * 3] * 5)
    rng = np.random.default_rng(3)
    x = build_coordinates(target, rng)
    spots = np.array([[0, 0, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0], [0.75, 0.25, 0.25]]) @ TRICLINIC
    for m, spot in enumerate(spots):
        chain = target.molecule_of_atom == m
        x[chain] += spot - x[chain].mean(0)
    system = create_system(target, TRICLINIC)
    return system, _relaxed(system, x, TRICLINIC) + rng.normal(scale=0.003, size=x.shape)


def _relaxed(system, x, box=None):
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    if box is not None:
        context.setPeriodicBoxVectors(*box)
    context.setPositions(x)
    mm.LocalEnergyMinimizer.minimize(context, 10.0, 60)
    return np.array(context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer))


def _agrees(system, x, box=None):
    """Each force and the gradient agree within 1e-4; returns the torch terms."""
    expected = energies_by_force(system, x, box, "Reference")
    energy = TorchEnergy.from_system(system)
    positions = torch.tensor(x, requires_grad=True)
    terms = energy.terms(positions, box)
    found = {name: value.item() for name, value in terms.items() if name not in ("lj", "coulomb")}
    if "lj" in terms:
        found["nonbonded"] = (terms["lj"] + terms["coulomb"]).item()
    assert found == pytest.approx({k: v for k, v in expected.items() if k != "total"}, rel=1e-4, abs=1e-6)
    total = energy.total(positions, box)
    assert total.item() == pytest.approx(expected["total"], rel=1e-4, abs=1e-6)
    (gradient,) = torch.autograd.grad(total, positions)
    reference = forces(system, x, box, "Reference")
    assert np.abs(gradient.numpy() + reference).max() < 1e-4 * np.abs(reference).max()
    return terms


def _nonbonded(system):
    return next(f for f in system.getForces() if isinstance(f, mm.NonbondedForce))


def _with_charges(system, rng, net=0.0):
    """Larger charges than polystyrene has, so that electrostatics are tested, not lost beside Lennard-Jones."""
    force = _nonbonded(system)
    charges = rng.normal(scale=0.3, size=force.getNumParticles())
    charges += net / len(charges) - charges.mean()
    for k, charge in enumerate(charges):
        _, sigma, epsilon = force.getParticleParameters(k)
        force.setParticleParameters(k, charge, sigma, epsilon)
    return force


def _copy(system):
    return mm.XmlSerializer.clone(system)


def test_melt_in_a_triclinic_box(melt):
    terms = _agrees(*melt, TRICLINIC)
    assert {"angle", "torsion", "improper", "lj", "coulomb"} <= set(terms)


def test_melt_in_a_rectangular_box(melt):
    system, x = melt
    _agrees(system, x, RECTANGULAR)


@pytest.mark.parametrize("method, box", [("PME", TRICLINIC), ("Ewald", RECTANGULAR)])
@pytest.mark.parametrize("net", [0.0, 2.0])
def test_ewald_sum_of_strong_charges(melt, method, box, net):
    system = _copy(melt[0])
    force = _with_charges(system, np.random.default_rng(1), net)
    force.setNonbondedMethod(getattr(mm.NonbondedForce, method))
    force.setEwaldErrorTolerance(1e-5)
    _agrees(system, melt[1], box)


def test_ewald_sum_in_pieces_is_the_same(melt, monkeypatch):
    system = _copy(melt[0])
    _with_charges(system, np.random.default_rng(1)).setEwaldErrorTolerance(1e-5)
    monkeypatch.setattr("openmm_backmap.energy.nonbonded._CHUNK", 100_000)
    _agrees(system, melt[1], TRICLINIC)


@pytest.mark.parametrize("tail", [True, False])
def test_reaction_field_with_switching(melt, tail):
    system = _copy(melt[0])
    force = _with_charges(system, np.random.default_rng(2))
    force.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.8)
    force.setUseDispersionCorrection(tail)
    _agrees(system, melt[1], TRICLINIC)


def test_nonperiodic_chain():
    target = build_target(load_chemistry("sps"), [["STY"] * 4])
    x = build_coordinates(target, np.random.default_rng(5))
    _agrees(create_system(target, None), x)


def test_nonperiodic_cutoff(melt):
    system = _copy(melt[0])
    force = _with_charges(system, np.random.default_rng(2))
    force.setNonbondedMethod(mm.NonbondedForce.CutoffNonPeriodic)
    force.setCutoffDistance(0.7)
    force.setReactionFieldDielectric(20.0)
    _agrees(system, melt[1])


DIPEPTIDE = {   # bonds by residue
    "ACE": "CH3-HH31 CH3-HH32 CH3-HH33 CH3-C C-O",
    "ALA": "N-H N-CA CA-HA CA-CB CB-HB1 CB-HB2 CB-HB3 CA-C C-O",
    "NME": "N-H N-CH3 CH3-HH31 CH3-HH32 CH3-HH33"}


@pytest.fixture(scope="module")
def peptide():
    """Alanine dipeptide in Amber's force field: 1-4 pairs are scaled, torsions have many terms."""
    topology = app.Topology()
    chain = topology.addChain()
    atoms = {}
    for name, bonds in DIPEPTIDE.items():
        residue = topology.addResidue(name, chain)
        for bond in bonds.split():
            for atom in bond.split("-"):
                if (name, atom) not in atoms:
                    atoms[name, atom] = topology.addAtom(atom, app.Element.getBySymbol(atom[0]), residue)
            topology.addBond(*(atoms[name, atom] for atom in bond.split("-")))
    topology.addBond(atoms["ACE", "C"], atoms["ALA", "N"])
    topology.addBond(atoms["ALA", "C"], atoms["NME", "N"])
    system = app.ForceField("amber14-all.xml").createSystem(topology, nonbondedMethod=app.NoCutoff)
    start = np.random.default_rng(11).normal(scale=0.3, size=(topology.getNumAtoms(), 3))
    return system, _relaxed(system, start)


def test_scaled_pairs(peptide):
    terms = _agrees(*peptide)
    assert set(terms) == {"bond", "angle", "torsion", "lj", "coulomb"}


def test_ryckaert_bellemans_and_periodic_bonded_terms():
    """Butane's torsion, harmonic impropers and bonds that reach through the box, in a System written by hand."""
    rng = np.random.default_rng(4)
    system = mm.System()
    x = np.cumsum(np.abs(rng.normal(scale=0.1, size=(12, 3))) + 0.02, axis=0) + [1.8, 0, 0]
    for _ in x:
        system.addParticle(14.0)
    bond, rb, improper = mm.HarmonicBondForce(), mm.RBTorsionForce(), mm.CustomTorsionForce(
        "0.5*strength*min(dtheta, 2*pi-dtheta)^2; dtheta = abs(theta-angle); pi = 3.1415926535")
    improper.addPerTorsionParameter("angle")
    improper.addPerTorsionParameter("strength")
    for k in range(len(x) - 3):
        bond.addBond(k, k + 1, 0.15, 2000.0)
        rb.addTorsion(k, k + 1, k + 2, k + 3, 9.28, 12.16, -13.12, -3.06, 26.24, -31.5)
        improper.addTorsion(k, k + 1, k + 2, k + 3, [-3.0 + 0.4 * k, 100.0 + k])
    for force in (bond, rb, improper):
        force.setUsesPeriodicBoundaryConditions(True)
        system.addForce(force)
    for force in (mm.CMMotionRemover(), mm.MonteCarloBarostat(1.0, 300.0), mm.AndersenThermostat(300.0, 1.0)):
        system.addForce(force)
    broken = x - np.floor(x[:, :1] / TRICLINIC[0, 0]) * TRICLINIC[0]
    assert np.abs(broken - x).max() > 0
    assert set(_agrees(system, broken, TRICLINIC)) == {"bond", "rb_torsion", "improper"}


def test_exceptions_that_reach_through_the_box(melt):
    system, x = _copy(melt[0]), melt[1].copy()
    force = _with_charges(system, np.random.default_rng(6))
    force.setExceptionsUsePeriodicBoundaryConditions(True)
    force.setEwaldErrorTolerance(1e-5)
    for f in system.getForces():
        if f is not force and hasattr(f, "setUsesPeriodicBoundaryConditions"):
            f.setUsesPeriodicBoundaryConditions(True)
    x[::3] += TRICLINIC[0]
    _agrees(system, x, TRICLINIC)


@pytest.mark.parametrize("expression, factor, k, theta0, wrapped", [
    ("0.5*k*min(dtheta, 2*pi-dtheta)^2; dtheta=abs(theta-theta0); pi=3.1415926535", 0.5, "k", "theta0", True),
    ("0.5*k*(thetap-theta0)^2; thetap = step(-(theta-theta0+pi))*2*pi+theta+step(theta-theta0-pi)*(-2*pi);"
     " pi = 3.14159", 0.5, "k", "theta0", True),
    ("fc*(theta-eq)^2", 1.0, "fc", "eq", False),
    ("0.5 * K0 * (theta - centre) ^ 2", 0.5, "K0", "centre", False),
    ("k*d*d; d = theta-floor((theta-shift+pi)/(2*pi))*2*pi-shift; pi=3.141593", 1.0, "k", "shift", True),
    ("20.0*theta^2", 20.0, None, None, True),
])
def test_harmonic_torsions_in_any_spelling(expression, factor, k, theta0, wrapped):
    names = tuple(name for name in (k, theta0) if name)
    form = harmonic_torsion(expression, names, {})
    assert (form.factor, form.k, form.theta0, form.wrapped) == (pytest.approx(factor), k, theta0, wrapped)


@pytest.mark.parametrize("expression", ["k*(1+cos(3*theta-theta0))", "k*(theta-theta0)^4", "k*(theta-theta0)^2+theta",
                                        "k*erf(theta-theta0)", "k*(theta-a)^2; a=b; b=a"])
def test_other_torsions_are_refused_by_name(expression):
    assert harmonic_torsion(expression, ("k", "theta0"), {}) is None
    system = mm.System()
    force = mm.CustomTorsionForce(expression)
    force.addPerTorsionParameter("k")
    force.addPerTorsionParameter("theta0")
    system.addForce(force)
    with pytest.raises(UnsupportedForceError, match="CustomTorsionForce.*theta"):
        TorchEnergy.from_system(system)


def test_restraints_are_refused_by_name():
    system = mm.System()
    system.addForce(mm.CustomCentroidBondForce(1, "10*x1^2"))
    with pytest.raises(UnsupportedForceError, match=r"CustomCentroidBondForce with energy '10\*x1\^2'"):
        TorchEnergy.from_system(system)


def test_samples_are_independent(melt):
    system, x = melt
    energy = TorchEnergy.from_system(system)
    rng = np.random.default_rng(9)
    batch = torch.tensor(x + rng.normal(scale=0.01, size=(2, 2, *x.shape)))
    terms = energy.terms(batch, TRICLINIC)
    for index in np.ndindex(2, 2):
        single = energy.terms(batch[index], TRICLINIC)
        assert {n: e[index].item() for n, e in terms.items()} == pytest.approx({n: e.item() for n, e in single.items()})


def test_single_precision_is_close(melt):
    system, x = melt
    energy = TorchEnergy.from_system(system)
    double = energy.terms(torch.tensor(x), TRICLINIC)
    single = energy.to(dtype=torch.float32).terms(torch.tensor(x, dtype=torch.float32), TRICLINIC)
    assert all(e.dtype == torch.float32 for e in single.values())
    assert {n: e.item() for n, e in single.items()} == pytest.approx({n: e.item() for n, e in double.items()}, rel=1e-3)


def test_coinciding_atoms_have_a_finite_energy(melt):
    system, x = melt
    x = torch.tensor(x, dtype=torch.float32)
    x[40] = x[100]
    x.requires_grad_()
    total = TorchEnergy.from_system(system).to(dtype=torch.float32).total(x, TRICLINIC)
    (gradient,) = torch.autograd.grad(total, x)
    assert torch.isfinite(total) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("box", [None, TRICLINIC, np.diag([2.0, 2.5, 2.1])])
def test_pairs_are_those_of_a_search_over_all(box):
    x = np.random.default_rng(0).uniform(-3, 3, size=(150, 3))
    i, j = np.triu_indices(len(x), 1)
    near = np.linalg.norm(minimum_image(x[i] - x[j], box), axis=1) <= 1.0
    expected = set(zip(i[near].tolist(), j[near].tolist(), strict=True))
    found = pairs_within(x, box, 1.0)
    assert len(found) == len(expected) and set(map(tuple, found.tolist())) == expected


def test_wrong_input_is_named(melt):
    system, x = melt
    energy, x = TorchEnergy.from_system(system), torch.tensor(x)
    with pytest.raises(InputError, match="give the box"):
        energy.terms(x)
    with pytest.raises(InputError, match="expected"):
        energy.terms(x[:-1], TRICLINIC)
    with pytest.raises(InputError, match="cutoff"):
        energy.terms(x, np.eye(3) * 1.9)
    x[7, 1] = float("nan")
    with pytest.raises(InputError, match="atom 7"):
        energy.terms(x, TRICLINIC)
    with pytest.raises(InputError, match="different atom numbers"):
        energy.local([0, 0])


def _candidates(x, atoms, n=4, scale=0.02):
    rng = np.random.default_rng(8)
    return torch.tensor(x[atoms] + rng.normal(scale=scale, size=(n, len(atoms), 3)))


def _whole(x, atoms, candidates):
    batch = torch.tensor(x).repeat(len(candidates), 1, 1)
    batch[:, atoms] = candidates
    return batch


def _same_differences(energy, x, atoms, candidates, box=None):
    local = energy.local_terms(candidates, atoms, torch.tensor(x), box)
    total = energy.terms(_whole(x, atoms, candidates), box)
    for name, values in total.items():
        expected = (values - values[0]).numpy()
        assert (local[name] - local[name][0]).numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("atoms", [[0], [16, 17, 18, 19, 20], [30, 5, 12]])
def test_local_differences_are_those_of_the_total_without_cutoff(atoms):
    target = build_target(load_chemistry("sps"), [["STY"] * 3])
    x = build_coordinates(target, np.random.default_rng(5))
    _same_differences(TorchEnergy.from_system(create_system(target, None)), x, atoms, _candidates(x, atoms))


def test_local_differences_of_scaled_pairs(peptide):
    system, x = peptide
    _same_differences(TorchEnergy.from_system(system), x, [6, 8, 9], _candidates(x, [6, 8, 9]))


@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_local_differences_in_a_box(melt, scale):
    """With a cutoff the pairs are chosen around the atoms; the box is crossed, and candidates may lie far apart."""
    system = _copy(melt[0])
    force = _with_charges(system, np.random.default_rng(2))
    force.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.8)
    atoms = np.arange(20, 27)
    candidates = _candidates(melt[1], atoms, scale=scale) + torch.tensor(TRICLINIC[0])
    system = _without_bonded(system)
    _same_differences(TorchEnergy.from_system(system), melt[1], atoms, candidates, TRICLINIC)


def _without_bonded(system):
    for k in reversed(range(system.getNumForces())):
        if not isinstance(system.getForce(k), mm.NonbondedForce):
            system.removeForce(k)
    _nonbonded(system).setExceptionsUsePeriodicBoundaryConditions(True)
    return system


def test_local_energy_ignores_the_old_places_and_has_gradients(melt):
    system, x = melt
    local = TorchEnergy.from_system(system).local([20, 21, 22])
    surroundings, candidates = torch.tensor(x), _candidates(x, [20, 21, 22]).requires_grad_()
    energy = local.total(candidates, surroundings, TRICLINIC)
    moved = surroundings.clone()
    moved[20:23] += 0.3
    assert torch.equal(energy, local.total(candidates, moved, TRICLINIC))
    (gradient,) = torch.autograd.grad(energy[1], candidates)
    assert gradient[1].abs().max() > 0 and gradient[0].abs().max() == 0
    step = torch.zeros_like(candidates)
    step[1, 0, 0] = 1e-5
    with torch.no_grad():
        slope = (local.total(candidates + step, surroundings, TRICLINIC)
                 - local.total(candidates - step, surroundings, TRICLINIC))[1] / 2e-5
    assert gradient[1, 0, 0].item() == pytest.approx(slope.item(), rel=1e-4)


def test_openmm_energies_leave_the_system_as_it_is(melt):
    system, x = melt
    before = mm.XmlSerializer.serialize(system)
    energies = energies_by_force(system, x, TRICLINIC, "Reference")
    assert energies.pop("total") == pytest.approx(sum(energies.values()))
    assert mm.XmlSerializer.serialize(system) == before


def test_openmm_energies_name_other_forces_as_they_name_themselves():
    system = mm.System()
    system.addParticle(1.0)
    force = mm.CustomExternalForce("10*x^2")
    force.addParticle(0)
    force.setName("restraint")
    system.addForce(force)
    assert energies_by_force(system, np.array([[0.5, 0, 0]]), None, "Reference") == {"restraint": 2.5, "total": 2.5}
    assert forces(system, np.array([[0.5, 0, 0]]), None, "Reference")[0] == pytest.approx([-10.0, 0, 0])
    with pytest.raises(BackmapError, match="unknown platform"):
        forces(system, np.zeros((1, 3)), None, "Abacus")
