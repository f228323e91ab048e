from pathlib import Path

import numpy as np
import pytest

from openmm_backmap.chemistry import (
    CGTopology,
    build_target,
    load_chemistry,
    match_atoms,
    match_beads,
    parse_aliases,
    whole_beads,
)
from openmm_backmap.errors import ChemistryError, InputError
from openmm_backmap.geometry.periodic import reduce_box

DATA = Path(__file__).parents[1] / "../shared/data"
BOX = reduce_box(np.array([[6.0, 0, 0], [-1.5, 5.0, 0], [0.5, 1.0, 7.0]]))


@pytest.fixture(scope="module")
def sps():
    return load_chemistry("sps")


def zigzag(n_monomers, origin=(0.0, 0.0, 0.0)):
    """Backbone and side beads of one chain, 0.25 nm apart."""
    k = np.arange(n_monomers)
    backbone = np.stack([0.25 * k, 0.1 * (k % 2), 0 * k], axis=1)
    side = backbone + [0.0, 0.0, 0.3]
    return np.stack([backbone, side], axis=1).reshape(-1, 3) + origin


def chain_residues(*lengths, names=("B{}", "S{}"), residue="PS1", start=1):
    """A file in which every residue holds a whole chain; and positions."""
    beads = [name.format(start + k) for n in lengths for k in range(n) for name in names]
    numbers = [c + 1 for c, n in enumerate(lengths) for _ in range(2 * n)]
    cg = CGTopology.from_beads(beads, [residue] * len(beads), numbers, [0] * len(beads))
    return cg, np.concatenate([zigzag(n, (0, 1.0 * c, 0.5)) for c, n in enumerate(lengths)])


def monomer_residues(numbers, chains=None, bonds=None, names=("A", "B"), residue="STY"):
    """A file in which every residue holds one monomer."""
    beads = [name for _ in numbers for name in names]
    twice = lambda values: [v for v in values for _ in names]  # noqa: E731
    chains = twice(chains or [0] * len(numbers))
    return CGTopology.from_beads(beads, [residue] * len(beads), twice(numbers), chains, bonds)


def chains_of(match):
    return [len(chain) for chain in match.target.chains]


def test_whole_chains_in_residues(sps):
    cg, x = chain_residues(3, 5, 12)
    match = match_beads(sps, cg, x, BOX)
    assert chains_of(match) == [3, 5, 12]
    np.testing.assert_array_equal(match.bead_index, np.arange(40))


@pytest.mark.parametrize("names", [("B{}", "S{}"), ("A{}", "B{}"), ("A", "B"), ("B", "S")])
def test_both_namings_with_and_without_numbers(sps, names):
    cg, x = chain_residues(4, names=names)
    assert chains_of(match_beads(sps, cg, x, None)) == [4]


def test_several_chains_that_share_a_residue_number_are_told_apart_by_bead_numbers(sps):
    beads = [f"{name}{k}" for _ in range(3) for k in range(1, 5) for name in "BS"]
    cg = CGTopology.from_beads(beads, ["PS1"] * 24, [1] * 24, [0] * 24)
    x = np.concatenate([zigzag(4, (0, y, 0)) for y in range(3)])
    assert chains_of(match_beads(sps, cg, x, BOX)) == [4, 4, 4]


@pytest.mark.parametrize("drop, message", [
    (["S3"], "PS1 2: found bead B4 where S3"), (["B3"], "found bead S3 where B3"),
    (["B3", "S3"], "found bead B4 where B3"), (["S5"], "PS1 2: bead S5 is missing")])
def test_missing_beads_are_named(sps, drop, message):
    cg, x = chain_residues(5, 5)
    keep = [i for i in range(20) if i < 10 or cg.bead_names[i] not in drop]
    cg = CGTopology.from_beads([cg.bead_names[i] for i in keep], ["PS1"] * len(keep),
                               [1 + (i >= 10) for i in keep], [0] * len(keep))
    with pytest.raises(ChemistryError, match=message):
        match_beads(sps, cg, x[keep], None, where="melt.gro")


def test_a_chain_need_not_start_at_one(sps):
    cg, x = chain_residues(4, start=7)
    assert chains_of(match_beads(sps, cg, x, None)) == [4]


def test_monomer_residues_follow_chain_identifiers_and_restarts(sps):
    x = np.concatenate([zigzag(n, (0, c, 0)) for c, n in enumerate((3, 2, 4))])
    numbers = [1, 2, 3, 4, 5, 1, 2, 3, 4]
    cg = monomer_residues(numbers, chains=[0, 0, 0, 1, 1, 1, 1, 1, 1])
    assert chains_of(match_beads(sps, cg, x, BOX)) == [3, 2, 4]


def test_residue_numbers_that_overflow_do_not_end_a_chain(sps):
    cg = monomer_residues([99998, 99999, 0, 1])
    assert chains_of(match_beads(sps, cg, zigzag(4), None)) == [4]


def chain_bonds(*lengths):
    bonds, start = [], 0
    for n in lengths:
        bonds += [(start + 2 * k, start + 2 * k + 1) for k in range(n)]
        bonds += [(start + 2 * k + 1, start + 2 * k + 2) for k in range(n - 1)]
        start += 2 * n
    return np.array(bonds)


def test_bonds_tell_chains_apart(sps):
    x = np.concatenate([zigzag(3), zigzag(2, (0, 1, 0))])
    cg = monomer_residues([1, 2, 3, 4, 5], bonds=chain_bonds(3, 2))
    assert chains_of(match_beads(sps, cg, x, None)) == [3, 2]


def test_interleaved_chains_are_sorted_by_their_bonds(sps):
    order = [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    place = np.argsort(order)
    x = np.concatenate([zigzag(3), zigzag(3, (0, 1, 0))])[order]
    cg = monomer_residues([1, 1, 2, 2, 3, 3], chains=[0, 1, 0, 1, 0, 1], bonds=place[chain_bonds(3, 3)])
    match = match_beads(sps, cg, x, None)
    assert chains_of(match) == [3, 3]
    np.testing.assert_array_equal(match.bead_index, place)


@pytest.mark.parametrize("bonds", [None, "given"])
def test_a_missing_residue_is_a_gap(sps, bonds):
    kept = np.r_[0:6, 8:12]
    all_bonds = chain_bonds(6)
    new = {old: k for k, old in enumerate(kept.tolist())}
    if bonds is not None:
        bonds = np.array([(new[a], new[b]) for a, b in all_bonds.tolist() if a in new and b in new])
    with pytest.raises(ChemistryError, match="between residues STY 3 and STY 5"):
        match_beads(sps, monomer_residues([1, 2, 3, 5, 6], bonds=bonds), zigzag(6)[kept], None)


def test_branched_molecules_are_refused(sps):
    bonds = np.array([(0, 1), (2, 3), (4, 5), (1, 2), (1, 4)])
    with pytest.raises(ChemistryError, match="STY 2 and STY 3.*linear"):
        match_beads(sps, monomer_residues([1, 2, 3], bonds=bonds), zigzag(3), None)


def test_far_beads_are_a_gap_that_names_both_residues(sps):
    x = zigzag(6)
    x[6:] += [0.0, 2.0, 0.0]
    with pytest.raises(ChemistryError, match=r"x\.gro: gap of 2\.\d+ nm .*STY 3 and bead A of residue STY 4.*box"):
        match_beads(sps, monomer_residues([1, 2, 3, 4, 5, 6]), x, None, where="x.gro")


def test_chains_broken_over_a_triclinic_box_match_and_become_whole(sps):
    cg, x = chain_residues(6, 6)
    broken = x + np.random.default_rng(1).integers(-2, 3, x.shape) @ BOX
    match = match_beads(sps, cg, broken, BOX)
    whole = whole_beads(match.target, broken[match.bead_index], BOX)
    for chain in (slice(0, 12), slice(12, 24)):
        np.testing.assert_allclose(whole[chain] - whole[chain][0], x[chain] - x[chain][0], atol=1e-9)


@pytest.mark.parametrize("box", [None, BOX])
def test_two_beads_in_one_place(sps, box):
    cg, x = chain_residues(4)
    x[5] = x[0] + 5e-5 + (0 if box is None else box[0] - box[2])
    with pytest.raises(InputError, match="bead B1 .* and bead S3 .* in one place"):
        match_beads(sps, cg, x, box)


def test_all_beads_in_one_place_is_found_fast(sps):
    cg, x = chain_residues(400, 400)
    with pytest.raises(InputError, match="in one place .1599 such pairs"):
        match_beads(sps, cg, np.zeros_like(x), BOX)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite(sps, value):
    cg, x = chain_residues(4)
    x[3, 1] = value
    with pytest.raises(InputError, match="bead S2 of residue PS1 1 .*not finite"):
        match_beads(sps, cg, x, None)


def test_wrong_number_of_positions(sps):
    cg, x = chain_residues(4)
    with pytest.raises(InputError, match="8 beads"):
        match_beads(sps, cg, x[:-1], None)


@pytest.mark.parametrize("cg", [chain_residues(1)[0], monomer_residues([7])])
def test_one_monomer_is_no_chain(sps, cg):
    with pytest.raises(ChemistryError, match="at least 2"):
        match_beads(sps, cg, zigzag(1), None)


def test_foreign_residues_are_listed_with_counts_and_the_remedy(sps):
    cg, x = chain_residues(3)
    beads = [*cg.bead_names, "W", "W", "NA+"]
    mixed = CGTopology.from_beads(beads, ["PS1"] * 6 + ["W", "W", "ION"], [1] * 6 + [2, 3, 4], [0] * 9)
    with pytest.raises(ChemistryError, match=r"W \(2\), ION \(1\).*PS1.*remove them.*--alias"):
        match_beads(sps, mixed, np.concatenate([x, x[:3] + 1]), None)


def test_unknown_bead_names(sps):
    cg, x = chain_residues(3, names=("P{}", "Q{}"))
    with pytest.raises(ChemistryError, match="P1, Q1.*B#, S# or A#, B#.*--alias"):
        match_beads(sps, cg, x, None)


def test_aliases_for_residues_and_beads(sps):
    cg, x = chain_residues(3, names=("P{}", "Q{}"), residue="POLY")
    match = match_beads(sps, cg, x, None, aliases=parse_aliases(["POLY=PS1", "P#=B#", "Q#=S#"]))
    assert chains_of(match) == [3]


def test_alias_files(tmp_path):
    file = tmp_path / "names"
    file.write_text("# residues\nPOLY = PS1   # the polymer\n\nP#=B#\n")
    assert parse_aliases([str(file), "X=Y"]) == {"POLY": "PS1", "P#": "B#", "X": "Y"}
    file.write_text("A=B\nC D\n")
    with pytest.raises(InputError, match=r"names, line 2: 'C D'.*OLD=NEW"):
        parse_aliases([str(file)])


@pytest.mark.parametrize("item", ["=B", "A=", "A=B=C", "no such file", "A=B#", "A B=C"])
def test_bad_aliases(item):
    with pytest.raises(InputError, match="alias"):
        parse_aliases([item])


def test_one_name_cannot_become_two():
    with pytest.raises(InputError, match="already"):
        parse_aliases(["A=B", "A=C"])


def test_openmm_and_mdtraj_topologies(sps):
    import mdtraj
    from openmm import app

    topology = app.Topology()
    for _ in range(2):
        residue = topology.addResidue("PS1", topology.addChain(), "9")
        for k in range(3):
            for name in "BS":
                topology.addAtom(f"{name}{k + 1}", None, residue)
    x = np.concatenate([zigzag(3), zigzag(3, (0, 1, 0))])
    assert chains_of(match_beads(sps, topology, x, None)) == [3, 3]
    assert chains_of(match_beads(sps, mdtraj.Topology.from_openmm(topology), x, None)) == [3, 3]
    with pytest.raises(InputError, match="str is no topology"):
        match_beads(sps, "melt.gro", x, None)


def test_match_atoms_reads_back_its_own_topology(sps):
    target = build_target(sps, [["STY"] * 4, ["STY"] * 2, ["STY"] * 3])
    assert match_atoms(sps, target.topology).chains == target.chains


def test_match_atoms_refuses_other_orders_and_names(sps):
    target = build_target(sps, [["STY"] * 3])
    cg = CGTopology.from_openmm(target.topology)
    names = list(cg.bead_names)
    names[17], names[18] = names[18], names[17]
    swapped = CGTopology(tuple(names), cg.residue_names, cg.residue_numbers, cg.residue_of_bead, cg.chain_of_residue)
    with pytest.raises(ChemistryError, match="residue SPM 2 holds the atoms .* in this order"):
        match_atoms(sps, swapped)
    foreign = CGTopology(cg.bead_names, ("SPH", "ALA", "SPT", "SPE"), cg.residue_numbers, cg.residue_of_bead,
                         cg.chain_of_residue)
    with pytest.raises(ChemistryError, match="ALA 2 is no template"):
        match_atoms(sps, foreign)
    short = CGTopology(cg.bead_names[:32], cg.residue_names[:2], cg.residue_numbers[:2], cg.residue_of_bead[:32],
                       cg.chain_of_residue[:2])
    with pytest.raises(ChemistryError, match="found SPM 2 where .* expects SPT"):
        match_atoms(sps, short)


def test_reference_snapshot(sps):
    file = DATA / "sps568/cg/90.gro"
    if not file.is_file():
        pytest.skip(f"no {file}")
    from openmm_backmap.io.readers import open_cg

    source = open_cg(file)
    frame = next(source.frames())
    match = match_beads(sps, source.topology, frame.positions, frame.box)
    assert chains_of(match) == [10] * 36 and match.target.n_atoms == 5832
