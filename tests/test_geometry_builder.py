"""Molecules grown from their bond graph: exact bonds, ideal angles, flat rings, the right hands."""

import numpy as np
import pytest

from openmm_backmap.chemistry import build_target, create_system, load_chemistry
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.checks import inverted_centres, pierced_rings, ring_planarity, rings

MOLECULES = {"sps": ["STY"] * 4, "octane": ["OCT"], "cumene": None, "tmbt": None}


def target_of(name):
    chemistry = load_chemistry(name)
    return build_target(chemistry, [MOLECULES[name] or [next(iter(chemistry.monomers))]] * 2)


@pytest.fixture(scope="module", params=sorted(MOLECULES))
def target(request):
    return target_of(request.param)


@pytest.fixture(scope="module")
def positions(target):
    return build_coordinates(target, np.random.default_rng(3))


def angles(target, x):
    """Number of bonds of each middle atom, and the angle there, degrees."""
    neighbours = [[] for _ in range(target.n_atoms)]
    for i, j in target.bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    found = []
    for j, around in enumerate(neighbours):
        for n, i in enumerate(around):
            for k in around[n + 1:]:
                a, b = x[i] - x[j], x[k] - x[j]
                found.append((len(around), np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))))
    return np.array(found)


def test_bonds_have_the_lengths_of_the_force_field(target, positions):
    system = create_system(target, None)
    bonds = [system.getConstraintParameters(k) for k in range(system.getNumConstraints())]
    pairs = np.array([bond[:2] for bond in bonds])
    lengths = np.array([bond[2]._value for bond in bonds])
    found = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    # The bond that closes a ring is the one that the others leave over.
    assert found == pytest.approx(lengths, abs=2e-3)
    assert np.mean(np.abs(found - lengths) < 1e-9) > 0.9


def test_angles_are_ideal(target, positions):
    degree, angle = angles(target, positions).T
    # Two bonds: the nitrogens of triazine.
    assert set(degree) <= {2, 3, 4}
    ideal = np.where(degree == 4, np.degrees(np.arccos(-1 / 3)), 120.0)
    assert angle == pytest.approx(ideal, abs=1.0)


@pytest.mark.parametrize("name", ["sps", "cumene", "tmbt"])
def test_rings_are_flat_and_regular(name):
    target = target_of(name)
    x = build_coordinates(target, np.random.default_rng(4))
    assert len(rings(target)) and ring_planarity(target, x).max() < 1e-9
    for ring in rings(target):
        radius = np.linalg.norm(x[ring] - x[ring].mean(0), axis=1)
        assert radius == pytest.approx(np.full(len(ring), radius[0]), abs=2e-3)


def test_hands_are_right():
    target = target_of("sps")
    for seed in range(6):
        assert not inverted_centres(target, build_coordinates(target, np.random.default_rng(seed))).any()


def test_rings_are_not_pierced():
    target = target_of("sps")
    for seed in range(8):
        x = build_coordinates(target, np.random.default_rng(seed))
        apart = x + target.molecule_of_atom[:, None] * np.array([50.0, 0, 0])
        assert not len(pierced_rings(target, apart, None))


def test_the_seed_decides(target):
    one, two, other = (build_coordinates(target, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, two) and np.isfinite(one).all() and not np.allclose(one, other)
