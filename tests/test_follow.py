"""Trajectories that a coherent model follows: side by side, in stretches, exact."""

from dataclasses import replace

import numpy as np
import pytest
from small_peptide import peptide, small_trajectories, walk

from openmm_backmap.analysis.kinetics.energies import FrameEnergies
from openmm_backmap.errors import InputError, RefinementError
from openmm_backmap.follow import KeptStretches, follow
from openmm_backmap.generators.coherent.network import CoherentHyperparameters
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.io.frames import CGFrame
from openmm_backmap.job import Job, JobSpec
from openmm_backmap.refine import RefineSettings
from openmm_backmap.refine.batches import ExactBatch
from openmm_backmap.refine.projection import bond_error
from openmm_backmap.training.coherent_flow import CoherentFlowTrainer, CoherentFlowTraining
from openmm_backmap.training.library import LibraryTrainer, LibraryTraining


@pytest.fixture(scope="module")
def model():
    dataset = small_trajectories(2, 6)
    settings = CoherentFlowTraining(network=CoherentHyperparameters(width=16, blocks=1))
    return CoherentFlowTrainer(dataset, dataset, settings).generator().to_model(dataset.chemistry, {})


def cg(n_frames, n_molecules=1, seed=1):
    target = peptide(n_molecules)
    return [CGFrame(x, None, float(k)) for k, x in enumerate(mapped(target, walk(n_frames, n_molecules, seed)))]


def job(model, n_molecules=1, **changes):
    from openmm_backmap.chemistry import CGTopology

    target = peptide(n_molecules)
    names, residues, numbers, chains = [], [], [], []
    for chain, monomers in enumerate(target.chains):
        for k, monomer in enumerate(monomers):
            for bead in target.chemistry.monomers[monomer].beads:
                names.append(bead.name), residues.append(monomer), numbers.append(k + 1), chains.append(chain)
    topology = CGTopology.from_beads(names, residues, numbers, chains)
    settings = {"settings": RefineSettings(mode="none"), "seed": 3, **changes}
    return Job(JobSpec(model, topology, cg(1, n_molecules)[0], "cg.pdb", **settings))


def whole(stretches, trajectory):
    found = [one for item in stretches for one in item if one.trajectory == trajectory]
    return np.concatenate([one.positions for one in found], axis=1)


def test_beads_and_bonds_are_exact(model):
    work = job(model, 2)
    frames = cg(3, 2)
    atoms = whole(list(follow(work, [frames])), 0)[0]
    exact = ExactBatch(work.target)
    assert len(exact.pairs) == 24
    for x, frame in zip(atoms, frames, strict=True):
        assert mapped(work.target, x) == pytest.approx(frame.positions, abs=1e-9)
        assert bond_error(x, exact.pairs, exact.lengths) < 1e-9


@pytest.mark.parametrize("stretch", [1, 2, 5])
def test_stretches_leave_no_trace(model, stretch):
    frames = cg(5)
    one, other = (whole(list(follow(job(model), [frames], 2, stretch=n)), 0) for n in (100, stretch))
    assert one.shape == (2, 5, 22, 3)
    assert np.array_equal(one, other)


def test_trajectories_of_different_lengths_run_side_by_side(model):
    items = list(follow(job(model), [cg(5), cg(2, seed=2), cg(4, seed=3)], stretch=2))
    assert [[one.trajectory for one in item] for item in items] == [[0, 1, 2], [0, 2], [0]]
    for k, n in enumerate((5, 2, 4)):
        assert whole(items, k).shape == (1, n, 22, 3)
        assert [f.time_ps for item in items for one in item if one.trajectory == k for f in one.frames] == list(
            map(float, range(n)))
    wanted = mapped(peptide(), whole(items, 2)[0])
    assert wanted == pytest.approx(np.stack([f.positions for f in cg(4, seed=3)]), abs=1e-9)


def test_samples_and_frames_have_random_numbers_of_their_own(model):
    atoms = whole(list(follow(job(model), [cg(3)], 2)), 0)
    assert not np.allclose(atoms[0], atoms[1], atol=1e-3)
    still = [cg(1)[0]] * 3
    repeated = whole(list(follow(job(model), [still])), 0)[0]
    assert not np.allclose(repeated[1], repeated[2], atol=1e-3)


def test_frames_are_equilibrated_with_beads_and_bonds_exact():
    dataset = small_trajectories(2, 40)
    model = LibraryTrainer(dataset, dataset, LibraryTraining()).generator().to_model(dataset.chemistry, {})
    work = job(model, 2, settings=RefineSettings(mode="equilibrate"))
    trajectories = [cg(4, 2), cg(2, 2, seed=2)]
    items = list(follow(work, trajectories, 2, stretch=3))
    exact, energies = ExactBatch(peptide()), FrameEnergies(peptide())
    warm = np.median(energies(walk(40)[20:]))
    for k, frames in enumerate(trajectories):
        atoms = whole(items, k)
        assert mapped(work.target, atoms) == pytest.approx(np.stack([[f.positions for f in frames]] * 2), abs=1e-9)
        molecules = atoms.reshape(-1, 22, 3)
        assert max(bond_error(x, exact.pairs, exact.lengths) for x in molecules) < 1e-9
        # Those that the model is given come from a minimum, and are colder.
        assert np.median(energies(molecules)) == pytest.approx(warm, abs=20)
    again = list(follow(job(model, 2, settings=RefineSettings(mode="equilibrate")), trajectories, 2, stretch=2))
    assert np.array_equal(whole(items, 0), whole(again, 0))


def test_frames_that_no_draw_makes_sound_are_an_error(model, monkeypatch):
    work = job(model, settings=RefineSettings(mode="equilibrate"))
    calls = []

    def overlapping(target, beads, box, *, n_samples, **_):
        calls.append(n_samples)
        return np.full((n_samples, target.n_atoms, 3), np.nan)
    monkeypatch.setattr(work.generator, "generate", overlapping)
    with pytest.raises(RefinementError, match=r"cg.pdb: frame 0 \(from 0\) .* no atoms that dynamics can start"):
        list(follow(work, [cg(2)]))
    assert len(calls) == 10


def test_frames_that_stay_strained_are_counted(model, tmp_path):
    """Beads that are bonded atoms, too far apart."""
    stretched = [replace(frame, positions=1.2 * frame.positions) for frame in cg(3)]

    def walked():
        work = job(model, settings=RefineSettings(mode="equilibrate"))
        kept = KeptStretches(tmp_path / "kept")
        kept.claim(work.spec)
        return [[one.n_strained for one in item] for item in follow(work, [stretched, cg(2)], 2, stretch=2, kept=kept)]
    counts = walked()
    assert [item[0] for item in counts] == [4, 2] and counts[0][1] < 4
    assert walked() == counts
    assert all(one.n_strained == 0 for item in follow(job(model), [stretched]) for one in item)


def test_bonds_that_end_in_beads_are_made_exact_one_by_one():
    """Hydrogens that a bead counts cannot be moved alone."""
    from openmm_backmap.chemistry import build_target, load_chemistry
    from openmm_backmap.geometry.builder import build_coordinates

    octane = build_target(load_chemistry("octane"), [["OCT"]])
    target = replace(octane, chemistry=replace(octane.chemistry, constraints="all-bonds"))
    rng = np.random.default_rng(1)
    x = np.stack([build_coordinates(target, rng) for _ in range(2)])
    beads = mapped(target, x)
    exact = ExactBatch(target)
    found = exact(x + rng.normal(scale=0.003, size=x.shape), beads)
    assert mapped(target, found) == pytest.approx(beads, abs=1e-5)
    assert max(bond_error(one, exact.pairs, exact.lengths) for one in found) < 1e-5


def test_what_cannot_be_followed_is_said(model):
    from openmm_backmap.generators.base import find_model

    with pytest.raises(InputError, match="are not minimised.*: use refine equilibrate or none"):
        list(follow(job(model, settings=RefineSettings(mode="minimize")), [cg(2)]))
    other = find_model("random", "adp")
    with pytest.raises(InputError, match="random draws every frame by itself"):
        list(follow(job(other), [cg(2)]))
