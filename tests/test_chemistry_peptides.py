"""Alanine dipeptide and chignolin: beads, ends of chains, names in files."""

import numpy as np
import pytest

from openmm_backmap.chemistry import CGTopology, build_target, create_system, load_chemistry, match_atoms
from openmm_backmap.chemistry.match import match_beads
from openmm_backmap.errors import ChemistryError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.io.readers import open_cg
from openmm_backmap.io.writers import write_structure

SEQUENCES = {"adp": "ACE ALA NME".split(), "chignolin": "TYR TYR ASP PRO GLU THR GLY THR TRP TYR".split()}


def beads_of(name, residues, numbers=None):
    """A CG topology of these residues, and beads that lie near each other."""
    chemistry = load_chemistry(name)
    rows = [(bead.name, residue, k + 1 if numbers is None else numbers[k])
            for k, residue in enumerate(residues) for bead in chemistry.monomers[residue].beads]
    cg = CGTopology.from_beads(*map(list, zip(*rows)), [0] * len(rows))
    return chemistry, cg, 0.06 * np.arange(len(rows))[:, None] * np.ones(3)


def matched(name, residues, numbers=None):
    chemistry, cg, x = beads_of(name, residues, numbers)
    return match_beads(chemistry, cg, x, None).target


@pytest.mark.parametrize("name, atoms, beads, centres", [("adp", 22, 6, 1), ("chignolin", 166, 10, 11)])
def test_beads_become_molecules(name, atoms, beads, centres):
    target = matched(name, SEQUENCES[name])
    assert (target.n_atoms, target.n_beads, len(target.stereo)) == (atoms, beads, centres)
    assert (target.bead_of_atom >= 0).all() and not target.swaps and (target.stereo_sign == 1).all()
    # Every bead is one atom.
    assert target.mapping.toarray() == pytest.approx((target.mapping.toarray() > 0).astype(float))
    assert len(target.bonds) == atoms - 1 + {"adp": 0, "chignolin": 6}[name]
    system = create_system(target, None)
    charges = next(force for force in system.getForces() if force.getName() == "NonbondedForce")
    total = sum(charges.getParticleParameters(i)[0]._value for i in range(atoms))
    assert total == pytest.approx({"adp": 0, "chignolin": -2}[name], abs=1e-3)


def test_beads_of_alanine_dipeptide_differ():
    target = matched("adp", SEQUENCES["adp"])
    kinds = [target.chemistry.bead_types[k] for k in target.bead_type]
    assert kinds == ["ACE-C", "ALA-N", "ALA-CA", "ALA-CB", "ALA-C", "NME-N"]
    atoms = [target.atom_names[i] for i in target.mapping.toarray().argmax(axis=1)]
    assert atoms == ["C", "N", "CA", "CB", "C", "N"]
    assert target.bead_bonds.tolist() == [[0, 1], [1, 2], [2, 3], [2, 4], [4, 5]]
    assert (target.bead_frame >= 0).all()


def test_ends_have_templates_of_their_own_and_the_name_of_all():
    target = matched("chignolin", SEQUENCES["chignolin"])
    assert target.residue_names[0] == "NTYR" and target.residue_names[-1] == "CTYR"
    assert [residue.name for residue in target.topology.residues()] == SEQUENCES["chignolin"]
    names = [set(np.array(target.atom_names)[target.residue_of_atom == k]) for k in (0, 1, 9)]
    assert names[0] - names[1] == {"H1", "H2", "H3"} and names[1] - names[0] == {"H"}
    assert names[2] - names[1] == {"OXT"}


@pytest.mark.parametrize("suffix", [".pdb", ".gro", ".cif"])
def test_files_are_read_back(suffix, tmp_path):
    target = matched("chignolin", SEQUENCES["chignolin"])
    x = build_coordinates(target, np.random.default_rng(3))
    file = tmp_path / f"a{suffix}"
    write_structure(file, target.topology, x, None)
    found = match_atoms(target.chemistry, open_cg(file).topology)
    assert found.residue_names == target.residue_names and found.chains == target.chains


def test_molecules_one_after_the_other_are_told_apart():
    target = matched("adp", SEQUENCES["adp"] * 2, [1, 2, 3, 1, 2, 3])
    assert target.chains == (("ACE", "ALA", "NME"),) * 2


@pytest.mark.parametrize("residues, message", [
    (["NME", "ALA", "ACE"], "NME has its place .residues: last.; it cannot be number 1 of a chain of 3"),
    (["ACE", "ACE"], "ACE has its place"),
    (["ALA"], "ALA 1 is a chain of one monomer"),
    (["NME"], "NME 1 is a chain of one monomer")])
def test_residues_out_of_place_are_refused(residues, message):
    with pytest.raises(ChemistryError, match=message):
        matched("adp", residues)


@pytest.mark.parametrize("residues", [["ALA", "NME"], ["ACE", "ALA"]])
def test_a_chain_that_lacks_an_end_is_refused_by_its_force_field(residues):
    with pytest.raises(ChemistryError, match="adp does not fit these molecules, which may lack an end"):
        create_system(build_target(load_chemistry("adp"), [residues]), None)
