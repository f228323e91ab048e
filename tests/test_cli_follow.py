"""Trajectories backmapped by a coherent model, as users run it."""

import mdtraj
import numpy as np
import pytest
from click.testing import CliRunner
from small_peptide import peptide, small_trajectories, walk

from openmm_backmap import Backmapper
from openmm_backmap.cli.app import app
from openmm_backmap.errors import InputError
from openmm_backmap.generators.coherent.network import CoherentHyperparameters
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.io.readers import open_cg
from openmm_backmap.io.writers import TrajectoryWriter, write_structure
from openmm_backmap.model_file import save_model
from openmm_backmap.training.coherent_flow import CoherentFlowTrainer, CoherentFlowTraining


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, beads of three trajectories and what names them."""
    from openmm import app as openmm_app

    folder = tmp_path_factory.mktemp("follow")
    dataset = small_trajectories(2, 6)
    settings = CoherentFlowTraining(network=CoherentHyperparameters(width=16, blocks=1))
    save_model(CoherentFlowTrainer(dataset, dataset, settings).generator().to_model(dataset.chemistry, {}),
               folder / "tiny.pt")
    target = peptide()
    topology, beads = openmm_app.Topology(), target.mapping.toarray().argmax(1)
    chain = topology.addChain()
    residues = [topology.addResidue(name, chain) for name in target.residue_names]
    for atom in beads:
        topology.addAtom(target.atom_names[atom], openmm_app.Element.getBySymbol(target.elements[atom]),
                         residues[target.residue_of_atom[atom]])
    for name, n, seed in (("a", 5, 1), ("b", 3, 2)):
        with TrajectoryWriter(folder / f"{name}.xtc", topology) as writer:
            for k, x in enumerate(mapped(target, walk(n, 1, seed))):
                writer.write(x, None, 2.0 * k)
    write_structure(folder / "cg.pdb", topology, mapped(target, walk(1))[:1], None)
    return folder


def run(folder, *arguments):
    return CliRunner().invoke(app, [*map(str, arguments), "--model", str(folder / "tiny.pt")])


def test_trajectories_side_by_side(folder, tmp_path):
    out = tmp_path / "aa.xtc"
    result = run(folder, folder / "a.xtc", folder / "b.xtc", "--topology", folder / "cg.pdb", "-o", out, "--seed", 1,
                 "--top", tmp_path / "aa.top")
    assert result.exit_code == 0, result.output
    assert "8 frames" in result.output and (tmp_path / "aa.top").exists()
    for name, file, n in (("a", "aa_1.xtc", 5), ("b", "aa_2.xtc", 3)):
        found = mdtraj.load(str(tmp_path / file), top=mdtraj.Topology.from_openmm(peptide().topology))
        beads = mdtraj.load(str(folder / f"{name}.xtc"), top=str(folder / "cg.pdb"))
        assert found.n_frames == n and found.time.tolist() == beads.time.tolist()
        assert mapped(peptide(), found.xyz) == pytest.approx(beads.xyz, abs=1.1e-3)
    assert not list(tmp_path.glob(".*"))


def test_samples_of_one_trajectory_and_the_api_agree(folder, tmp_path):
    result = run(folder, folder / "b.xtc", "--topology", folder / "cg.pdb", "-o", tmp_path / "aa.dcd", "--seed", 4,
                 "--samples", 2, "--last", 1)
    assert result.exit_code == 0, result.output
    backmapper = Backmapper(folder / "tiny.pt")
    frames = list(backmapper.frames(folder / "b.xtc", folder / "cg.pdb", last=1, n_samples=2, seed=4))
    assert len(frames) == 2 and frames[0].positions.shape == (2, 22, 3)
    for k in (0, 1):
        found = mdtraj.load(str(tmp_path / f"aa_{k + 1}.dcd"), top=mdtraj.Topology.from_openmm(peptide().topology))
        assert found.xyz == pytest.approx(np.stack([frame.positions[k] for frame in frames]), abs=1e-5)


def test_an_interrupted_run_goes_on(folder, tmp_path, monkeypatch):
    import openmm_backmap.follow as module

    monkeypatch.setattr(module, "STRETCH", 2)
    source = {"trajectories": [folder / "a.xtc", folder / "b.xtc"], "topology": folder / "cg.pdb", "seed": 5,
              "keep": tmp_path / "kept"}
    backmapper = Backmapper(folder / "tiny.pt")
    whole = [[part.positions for part in parts] for parts in backmapper.follow(**{**source, "keep": None})]
    begun = backmapper.follow(**source)
    next(begun), begun.close()
    monkeypatch.setattr(backmapper.generator, "step", _once(backmapper.generator.step, limit=3))
    rest = [[part.positions for part in parts] for parts in backmapper.follow(**source)]
    assert [[x.shape for x in parts] for parts in rest] == [[x.shape for x in parts] for parts in whole]
    assert all(np.array_equal(a, b) for one, other in zip(rest, whole) for a, b in zip(one, other))
    with pytest.raises(InputError, match="the input has changed since"):
        list(backmapper.follow(**source, n_samples=2))


def _once(step, limit):
    """Fails when more than ``limit`` frames are drawn: the others must come from where they are kept."""
    left = iter(range(limit))

    def counted(*arguments):
        next(left)
        return step(*arguments)
    return counted


@pytest.mark.parametrize(("more", "said"), [
    (["--dask", "local:2"], "--dask is for models that draw every frame by itself"),
    (["--temperature", "310"], "temperature is for models that draw every frame by itself: leave it out"),
    (["--refine", "minimize"], "are not minimised, since minima follow each other in jumps"),
])
def test_what_does_not_go_together_is_said(folder, tmp_path, more, said):
    result = run(folder, folder / "a.xtc", "--topology", folder / "cg.pdb", "-o", tmp_path / "aa.xtc", *more)
    assert result.exit_code != 0 and said in f"{result.output} {result.exception}"
    assert not list(tmp_path.iterdir())


def test_a_trajectory_has_no_temperature_to_choose(folder, tmp_path):
    backmapper, keep = Backmapper(folder / "tiny.pt"), tmp_path / "kept"
    with pytest.raises(InputError, match="temperature is for models that draw every frame by itself: leave it out"):
        next(backmapper.frames(folder / "a.xtc", folder / "cg.pdb", temperature=310, keep=keep))
    assert not keep.exists()
    atoms = next(backmapper.frames(folder / "a.xtc", folder / "cg.pdb", last=0, temperature=310, seed=1))
    assert atoms.provenance["temperature_K"] == 310


def test_several_inputs_need_a_model_that_follows(folder, tmp_path):
    inputs = [str(folder / "a.xtc"), str(folder / "b.xtc"), "--topology", str(folder / "cg.pdb")]
    model = ["--model", "random", "--chemistry", "adp"]
    result = CliRunner().invoke(app, [*inputs, "-o", str(tmp_path / "aa.xtc"), *model])
    assert result.exit_code == 2 and "random draws every frame by itself: give one INPUT" in result.output


def test_trajectories_of_other_molecules_are_refused(folder, tmp_path):
    target = peptide()
    write_structure(tmp_path / "aa.pdb", target.topology, walk(1), None)
    with pytest.raises(InputError, match="aa.pdb holds other beads than .*a.xtc"):
        list(Backmapper(folder / "tiny.pt").follow([open_cg(folder / "a.xtc", folder / "cg.pdb"),
                                                    tmp_path / "aa.pdb"]))
