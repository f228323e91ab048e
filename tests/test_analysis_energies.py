"""Energies by molecule: their sums against OpenMM, their pairs against plain formulas."""

import warnings

import numpy as np
import pytest

from openmm_backmap.analysis.energies import ENERGIES, _named, molecule_energies
from openmm_backmap.analysis.radial import pair_blocks
from openmm_backmap.chemistry import build_target, create_system, load_chemistry
from openmm_backmap.energy import TorchEnergy, energies_by_force
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.periodic import minimum_image
from tests.small_systems import BOX, TRICLINIC, small_positions, small_target


def energies(target, x, box):
    field = molecule_energies(target)
    total = field.within(x)
    for i, j, r in pair_blocks(x, box, field.cutoff_nm):
        total += field.between(i, j, r)
    return dict(zip(ENERGIES, total, strict=True))


@pytest.fixture(scope="module")
def target():
    return small_target(3, 3)


def test_bonded_energies_add_up_to_those_of_openmm(target):
    x = small_positions(target)
    ours = energies(target, x, BOX)
    theirs = energies_by_force(create_system(target, BOX), x, BOX, "Reference")
    assert ours["angle"].sum() == pytest.approx(theirs["angle"], rel=1e-5)
    assert ours["dihedral"].sum() == pytest.approx(theirs["torsion"], rel=1e-5)
    assert ours["improper"].sum() == pytest.approx(theirs["improper"], rel=1e-5)
    # Constrained in the System, so by the force constants of the force field.
    assert (ours["bond"] > 0).all()
    stretched = x.copy()
    h1 = target.atom_names.index("H1")
    bond = stretched[h1] - stretched[1]
    length = np.linalg.norm(bond)
    stretched[h1] += bond * (0.13 - length) / length
    gain = 0.5 * 280000 * ((0.13 - 0.11) ** 2 - (length - 0.11) ** 2)
    assert (energies(target, stretched, BOX)["bond"] - ours["bond"])[0] == pytest.approx(gain)


@pytest.mark.parametrize("box", [None, BOX, TRICLINIC], ids=["none", "rectangular", "triclinic"])
def test_pairs_are_shared_by_their_molecules(target, box):
    """All pairs, with the parameters and exceptions of the System, in numpy."""
    from openmm import unit

    x = small_positions(target)
    system = create_system(target, None)   # its forces live no longer than it does
    force = next(f for f in system.getForces() if type(f).__name__ == "NonbondedForce")
    plain = lambda row: [q.value_in_unit_system(unit.md_unit_system) for q in row]  # noqa: E731
    q, sigma, epsilon = np.array([plain(force.getParticleParameters(k)) for k in range(target.n_atoms)]).T
    i, j = np.triu_indices(target.n_atoms, 1)
    r = np.linalg.norm(minimum_image(x[i] - x[j], box), axis=1)
    s6 = ((sigma[i] + sigma[j]) / 2 / r) ** 6
    lj = 4 * np.sqrt(epsilon[i] * epsilon[j]) * (s6 ** 2 - s6) * (r < 1)
    coulomb = 138.93545764438198 * q[i] * q[j] * (1 / r + r ** 2 / 2 - 1.5) * (r < 1)
    at = {pair: k for k, pair in enumerate(zip(i.tolist(), j.tolist()))}
    for k in range(force.getNumExceptions()):
        a, b, *values = force.getExceptionParameters(k)
        product, s, e = plain(values)
        k = at[min(a, b), max(a, b)]
        lj[k] = 4 * e * ((s / r[k]) ** 12 - (s / r[k]) ** 6)
        coulomb[k] = 138.93545764438198 * product / r[k]
    ours = energies(target, x, box)
    for name, pairs in (("lennard-jones", lj), ("coulomb", coulomb)):
        wanted = sum(np.bincount(target.molecule_of_atom[end], pairs / 2) for end in (i, j))
        assert ours[name] == pytest.approx(wanted)
        assert np.abs(wanted).min() > 1e-3


def test_a_molecule_far_from_others_has_its_own_energy_alone(target):
    x = small_positions(target)
    alone = energies(small_target(1, 3), x[target.molecule_of_atom == 1], None)
    x = x + target.molecule_of_atom[:, None] * [20.0, 0, 0]
    together = energies(target, x, None)
    for name in ENERGIES:
        assert together[name][1] == pytest.approx(alone[name][0], abs=1e-9)


def test_overlapping_atoms_have_huge_energies_and_no_warnings(target):
    x = small_positions(target)
    x[target.molecule_of_atom == 1] = x[target.molecule_of_atom == 0]
    x[target.molecule_of_atom == 2] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = energies(target, x, BOX)
    assert not any(np.isnan(values).any() for values in found.values())
    assert (found["lennard-jones"] > 1e10).all()


def test_torsions_around_a_centre_are_impropers():
    target = build_target(load_chemistry("cumene"), [["CUM"]])
    terms = TorchEnergy.from_system(create_system(target, None)).bonded
    torsion = next(part for part in terms if part.kind == "torsion")
    assert [name for name, _ in _named(torsion, target)] == ["dihedral"]
    around = type(torsion)("torsion", torsion.atoms[:, [1, 0, 2, 3]], torsion.parameters, False)
    assert [name for name, _ in _named(around, target)] == ["improper"]


@pytest.mark.parametrize("name, monomer", [("octane", "OCT"), ("cumene", "CUM")])
def test_other_force_fields_with_their_own_14_pairs(name, monomer):
    target = build_target(load_chemistry(name), [[monomer]])
    x = build_coordinates(target, np.random.default_rng(0))
    x += np.random.default_rng(1).normal(scale=0.003, size=x.shape)
    ours = energies(target, x, None)
    theirs = energies_by_force(create_system(target, None), x, None, "Reference")
    # Smaller than the cutoff: all pairs count; the reaction field is no part of what OpenMM computes without a box.
    lj = float(TorchEnergy.from_system(create_system(target, None)).terms(_tensor(x))["lj"])
    assert ours["lennard-jones"].sum() == pytest.approx(lj)
    assert ours["angle"].sum() == pytest.approx(theirs["angle"], rel=1e-5)
    assert (ours["dihedral"] + ours["improper"]).sum() == pytest.approx(
        theirs.get("torsion", 0) + theirs.get("improper", 0), rel=1e-5)


def _tensor(x):
    import torch

    return torch.as_tensor(x)
