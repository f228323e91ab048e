"""Near pairs in blocks and radial distribution functions, against all pairs and the ideal gas."""

import numpy as np
import pytest

from openmm_backmap.analysis.radial import (
    histogram_range,
    pair_blocks,
    pair_types,
    radial_distribution,
    range_edges,
    volume,
)
from openmm_backmap.geometry.periodic import minimum_image
from tests.small_systems import BOX, TRICLINIC, small_positions, small_target

BOXES = {"none": None, "rectangular": BOX, "triclinic": TRICLINIC}


def all_pairs(x, box, radius):
    i, j = np.triu_indices(len(x), 1)
    r = np.linalg.norm(minimum_image(x[i] - x[j], box), axis=1)
    return {(a, b): d for a, b, d in zip(i.tolist(), j.tolist(), r.tolist()) if d <= radius}


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("size", [5, 60, 1000])
def test_blocks_hold_every_pair_once(name, size):
    x = np.random.default_rng(1).uniform(-2, 4, (150, 3))
    found = [pair for i, j, r in pair_blocks(x, BOXES[name], 0.8, size) for pair in zip(i, j, r)]
    wanted = all_pairs(x, BOXES[name], 0.8)
    assert len(found) == len(wanted) > 50
    assert {(int(i), int(j)): float(r) for i, j, r in found} == pytest.approx(wanted)


def test_blocks_stay_small():
    x = np.random.default_rng(2).uniform(0, 12, (4000, 3))
    sizes = [len(i) for i, _, _ in pair_blocks(x, np.eye(3) * 12, 1.0, 200)]
    assert len(sizes) == 27 and max(sizes) < 200 * 50


def test_all_atoms_at_one_place_are_pairs_too():
    (i, j, r), = pair_blocks(np.ones((6, 3)), BOX, 1.0)
    assert len(i) == 15 and not r.any()


def counts_of(target, x, box, n_groups=1):
    group = np.arange(len(target.chains)) % n_groups
    pairs, edges = pair_types(target), range_edges(1.0)
    counts = sum(pairs.counts(i, j, r, edges, group, n_groups) for i, j, r in pair_blocks(x, box, 1.0))
    return pairs, counts, pairs.ends(group, n_groups)


def test_counts_of_each_pair_of_types():
    """By plain loops: two carbons of different molecules, two of one molecule beyond three bonds."""
    target = small_target(3, 2)
    x, graph = small_positions(target), small_target(3, 2).graph_distances(3).toarray()
    pairs, counts, ends = counts_of(target, x, TRICLINIC)
    carbon = [k for k in range(target.n_atoms) if target.chemistry.type_classes[target.atom_type[k]] == "C"]
    wanted = {"C-C intra": np.zeros(100), "C-C inter": np.zeros(100)}
    for (i, j), r in all_pairs(x, TRICLINIC, 1.0).items():
        same = target.molecule_of_atom[i] == target.molecule_of_atom[j]
        if i in carbon and j in carbon and not graph[i, j]:
            wanted["C-C intra" if same else "C-C inter"][min(int(r / 0.01), 99)] += 2
    for name, histogram in wanted.items():
        np.testing.assert_array_equal(counts[0, pairs.names.index(name)], histogram)
    assert ends[0, pairs.names.index("C-C inter")] == len(carbon) * (len(carbon) - 1)
    assert ends[0, pairs.names.index("C-H intra")] == 2 * len(carbon) * (np.array(target.atom_type) ==
                                                                       target.chemistry.type_classes.index("H")).sum()


def test_heavy_pairs_are_the_sum_of_their_types_and_groups_add_up():
    target = small_target(3, 2)
    x = small_positions(target)
    pairs, whole, ends = counts_of(target, x, BOX)
    _, parts, part_ends = counts_of(target, x, BOX, 3)
    for side in ("intra", "inter"):
        terms = [f"{name} {side}" for name in ("C-C", "C-C_AR", "C_AR-C_AR")]
        row = lambda name, table: table[0, pairs.names.index(name)]  # noqa: E731
        np.testing.assert_array_equal(row(f"heavy {side}", whole), sum(row(name, whole) for name in terms))
        assert row(f"heavy {side}", ends) == sum(row(name, ends) for name in terms) == 48 * 47
    np.testing.assert_array_equal(parts.sum(axis=0), whole[0])
    np.testing.assert_allclose(part_ends.sum(axis=0), ends[0])
    assert (parts.sum(axis=(1, 2)) > 0).all()


def test_an_ideal_gas_is_flat():
    target, rng = small_target(12, 4), np.random.default_rng(3)
    tables = [counts_of(target, rng.random((target.n_atoms, 3)) @ TRICLINIC, TRICLINIC) for _ in range(16)]
    k = tables[0][0].names.index("heavy inter")
    counts, density = (np.array([t[n][0, k] for t in tables]) for n in (1, 2))
    g = radial_distribution(counts, density / volume(TRICLINIC, 1.0), range_edges(1.0))
    share = 11 * 32 / (12 * 32 - 1)   # of the pairs of carbons, those between molecules
    assert np.average(g, weights=np.diff(range_edges(1.0) ** 3)) == pytest.approx(share, abs=0.01)
    assert g[30:50].mean() == pytest.approx(g[80:].mean(), abs=0.05)


def test_range_is_a_nanometre_or_half_the_narrowest_box():
    assert histogram_range(None) == histogram_range(np.stack([BOX, TRICLINIC])) == pytest.approx(1.0)
    assert histogram_range(np.stack([BOX, np.diag([1.5, 1.3, 1.478])])) == pytest.approx(0.65)
    assert len(range_edges(0.73)) == 74


def test_no_pairs_no_ideal_gas():
    assert not radial_distribution(np.zeros((1, 5)), np.zeros(1), range_edges(0.05)).any()
