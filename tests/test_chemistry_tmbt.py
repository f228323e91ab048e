"""Tris-meta-biphenyl-triazine: a branched molecule of rings, its force field and the generators on it."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from small_systems import tiny_training

from openmm_backmap.chemistry import build_target, create_system, load_chemistry
from openmm_backmap.energy import TorchEnergy, energies_by_force, forces
from openmm_backmap.environments.local import N_OFFSETS, BeadSurroundings, TargetTables, Vocabulary
from openmm_backmap.environments.voxel_channels import default_channels
from openmm_backmap.environments.voxel_sequences import atom_sequences
from openmm_backmap.environments.voxels import VoxelTables
from openmm_backmap.generators.base import find_model
from openmm_backmap.generators.baselines.fragment import FragmentGenerator
from openmm_backmap.generators.baselines.geometric import GeometricGenerator
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.checks import mapped, mapping_rmsd, pierced_rings, ring_planarity
from openmm_backmap.geometry.internal import dihedral_angles
from openmm_backmap.training.dataset import Dataset, Frames, with_settled_labels
from openmm_backmap.training.flow import FlowTrainer
from openmm_backmap.training.fragment import FragmentTrainer, FragmentTraining

BOX = 3.0 * np.eye(3)
ARMS = (1, 2, 3)


def of(n_molecules):
    return build_target(load_chemistry("tmbt"), [["TMB"]] * n_molecules)


@pytest.fixture(scope="module")
def target():
    return of(2)


@pytest.fixture(scope="module")
def settled(target):
    """Two molecules, each in a minimum of its own energy, one beside the other."""
    x = build_coordinates(target, np.random.default_rng(2))
    # As built, the rings lie in one plane, where no force turns them out of it.
    x += np.random.default_rng(3).normal(scale=0.01, size=x.shape)
    x[target.molecule_of_atom == 1] += [0.0, 0.0, 1.2]
    context = openmm.Context(create_system(target, None), openmm.VerletIntegrator(0.001),
                             openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    openmm.LocalEnergyMinimizer.minimize(context, 0.5, 1500)
    return context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)


def dataset_of(target, positions, n_frames=3):
    rng = np.random.default_rng(4)
    frames = np.stack([positions + rng.normal(scale=0.004, size=positions.shape) for _ in range(n_frames)])
    return Dataset(target.chemistry, (Frames(target, frames.astype(np.float32), np.stack([BOX] * n_frames)),))


def twists(target, x, names):
    """|Dihedral| of the first molecule's three arms, degrees, folded to 0..90: a ring has two sides."""
    rows = np.array([[target.atom_names.index(name.format(a)) for name in names] for a in ARMS])
    angle = np.abs(dihedral_angles(x[rows]))
    return np.minimum(angle, 180 - angle)


def test_beads_are_the_centres_of_rings(target):
    assert (target.n_atoms, target.n_beads) == (2 * 69, 2 * 7)
    assert np.bincount(target.bead_of_atom)[:7].tolist() == [6, 10, 11, 10, 11, 10, 11]
    assert target.mapping.sum(axis=1) == pytest.approx(1.0)
    assert np.bincount(target.bead_bonds[:6].ravel()).tolist() == [3, 2, 1, 2, 1, 2, 1]


def test_what_is_said_to_be_of_cgenff_is(target):
    """Every parameter is that of charmm36.xml, where that has one; the link of triazine and phenyl it has not."""
    published = ElementTree.parse(Path(app.__file__).parent / "data" / "charmm36.xml").getroot()
    ours = ElementTree.fromstring(target.chemistry.force_field_xml)
    missing = []
    for part, tag in (("HarmonicBondForce", "Bond"), ("HarmonicAngleForce", "Angle"),
                      ("PeriodicTorsionForce", "Proper"), ("AmoebaUreyBradleyForce", "UreyBradley"),
                      ("NonbondedForce", "Atom")):
        source = "LennardJonesForce" if part == "NonbondedForce" else part
        known = {types(row): numbers(row) for row in published.findall(f"./{source}/{tag}")}
        for row in ours.findall(f"./{part}/{tag}"):
            found = known.get(types(row), known.get(types(row)[::-1]))
            if found is None:
                missing.append("-".join(types(row)))
            else:
                assert numbers(row) == pytest.approx(found), types(row)
    assert sorted(missing) == sorted([
        "CG2R64-CG2R67", "CG2R67-CG2R61-CG2R67", "CG2R61-CG2R67-CG2R64", "CG2R67-CG2R64-NG2R62",
        "CG2R67-CG2R61-CG2R67-CG2R61", "CG2R67-CG2R61-CG2R67-CG2R67", "CG2R67-CG2R61-CG2R67-CG2R64",
        "CG2R61-CG2R61-CG2R67-CG2R64", "HGR61-CG2R61-CG2R67-CG2R64", "CG2R67-CG2R64-NG2R62-CG2R64",
        "CG2R61-CG2R67-CG2R64-NG2R62"])


def types(row):
    return tuple(row.get(key) for key in ("type", "type1", "type2", "type3", "type4") if row.get(key))


def numbers(row):
    return {key: float(value) for key, value in row.items() if not key.startswith(("type", "class"))}


def test_rings_are_flat_biphenyls_twisted_and_triazine_coplanar(target, settled):
    assert ring_planarity(target, settled).max() < 0.004
    assert np.abs(twists(target, settled, ("C{}2", "C{}3", "C{}1P", "C{}2P")) - 40).max() < 8
    assert twists(target, settled, ("N{}", "C{}", "C{}1", "C{}2")).max() < 12


@pytest.mark.parametrize("box", [None, BOX], ids=["vacuum", "periodic"])
def test_the_torch_energy_is_that_of_openmm(target, settled, box):
    system = create_system(target, box)
    x = settled + np.random.default_rng(5).normal(scale=0.003, size=settled.shape)
    expected = energies_by_force(system, x, box, "Reference")
    energy, positions = TorchEnergy.from_system(system), torch.tensor(x, requires_grad=True)
    terms = {name: value.item() for name, value in energy.terms(positions, box).items()}
    terms["nonbonded"] = terms.pop("lj") + terms.pop("coulomb")
    assert terms == pytest.approx({k: v for k, v in expected.items() if k != "total"}, rel=1e-4)
    (gradient,) = torch.autograd.grad(energy.total(positions, box), positions)
    reference = forces(system, x, box, "Reference")
    assert np.abs(gradient.numpy() + reference).max() < 1e-4 * np.abs(reference).max()


def test_built_molecules_are_no_knots():
    many = of(10)
    for seed in range(4):
        x = build_coordinates(many, np.random.default_rng(seed))
        x += many.molecule_of_atom[:, None] * np.array([5.0, 0.0, 0.0])
        assert not len(pierced_rings(many, x, None))


def test_outer_rings_point_one_way_under_settled_labels(target, settled):
    """Half of the outer rings turned by half a turn: the labels bring them back."""
    turned = settled.copy()
    for k, (a, b) in enumerate(target.swaps):
        if k % 2:
            turned[a], turned[b] = settled[b], settled[a]
    one, two = (with_settled_labels(dataset_of(target, x, 1)).systems[0].positions for x in (settled, turned))
    assert one == pytest.approx(two, abs=0.05) and len(target.swaps) == 6


def test_placed_by_geometry_it_is_sound(target, settled):
    beads = mapped(target, settled)
    x = GeometricGenerator(find_model("geometric", "tmbt"), "CPU").generate(
        target, beads, None, n_samples=1, rng=np.random.default_rng(1))[0]
    assert ring_planarity(target, x).max() < 0.005 and not len(pierced_rings(target, x, None))
    assert mapping_rmsd(target, x, beads, None) < 0.03


def test_fragments_fit(target, settled):
    trainer = FragmentTrainer(*[dataset_of(target, settled)] * 2, FragmentTraining())
    trainer.train()
    generator = FragmentGenerator.from_model(trainer.generator().to_model(target.chemistry, {}))
    beads = mapped(target, settled)
    x = generator.generate(target, beads, None, n_samples=1, rng=np.random.default_rng(1))[0]
    assert mapping_rmsd(target, x, beads, None) < 0.02 and np.isfinite(x).all()


def test_beads_of_a_branched_molecule_have_places_of_their_own(target, settled):
    """No two beads of the molecule are at the same offset from a third, and none of them is taken for another's."""
    tables = TargetTables(target, Vocabulary.of(target))
    around = BeadSurroundings(tables, mapped(target, settled), None, 40, 13)
    env = around.environment(torch.arange(14), torch.as_tensor(settled, dtype=torch.float32),
                             torch.ones(around.index.shape, dtype=torch.bool))
    for offset, there in zip(env.bead_offset, env.bead_present):
        own = offset[there][offset[there] < N_OFFSETS - 1]
        assert len(own) == len(own.unique()) >= 3


def test_the_flow_learns_it_and_the_network_of_voxels_has_channels_and_orders(target, settled):
    data = dataset_of(target, settled)
    trainer = FlowTrainer(data, data, tiny_training(steps=150, learning_rate=1e-2, average=0.9))
    before = trainer.validation_loss(16)
    trainer.train()
    assert trainer.validation_loss(16) < 0.75 * before
    sequences = atom_sequences(VoxelTables(target, default_channels([target])), "depth-first", np.random.default_rng(0))
    assert sequences.heavy_length.tolist() == [6] * 7 * 2 and sequences.light_length.tolist()[:3] == [0, 4, 5]
