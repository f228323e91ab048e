"""A melt from nothing, as small as can be: the stages, what they leave behind, and going on."""

import json
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from click.testing import CliRunner

from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.chemistry.match import match_atoms
from openmm_backmap.cli.app import app
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.periodic import make_whole
from openmm_backmap.io.readers import open_cg
from openmm_backmap.reference import melt
from openmm_backmap.reference.melt import MeltSettings, recipe, run_melt
from openmm_backmap.reference.stages import local_system


@pytest.fixture(scope="module")
def chemistry(tmp_path_factory):
    """Polystyrene with a short cutoff, so that a small box will do."""
    folder = tmp_path_factory.mktemp("chemistry")
    source = resources.files("openmm_backmap.chemistry")
    text = (source / "sps.yaml").read_text()
    assert "cutoff_nm: 1.0" in text
    (folder / "short.yaml").write_text(text.replace("cutoff_nm: 1.0", "cutoff_nm: 0.5"))
    (folder / "sps.xml").write_text((source / "sps.xml").read_text())
    return folder / "short.yaml"


@pytest.fixture(scope="module")
def finished(chemistry, tmp_path_factory):
    """A folder with a melt made by the command, and the settings that say the same."""
    out = tmp_path_factory.mktemp("runs")
    words = ["reference", chemistry, "--out", out, "--chains", 4, "--length", 3, "--equilibrate", 0.2, "--interval",
             0.2, "--snapshots", 2, "--platform", "CPU", "-q"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(melt, "_RELAX_PS", 0.4)
        patch.setattr(melt, "_SCALE", 0.93)
        result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    settings = MeltSettings(chemistry=str(chemistry), n_chains=4, n_monomers=3, equilibrate_ps=0.2, interval_ps=0.2,
                            n_snapshots=2)
    return out / "melt_1", settings


def read(file, chemistry):
    source = open_cg(file)
    return match_atoms(load_chemistry(chemistry), source.topology), next(source.frames())


def test_the_command_leaves_snapshots_and_stages(finished, chemistry):
    out, settings = finished
    assert {p.name for p in out.iterdir()} == {
        "settings.json", "relaxed.npz", "packed.npz", "equilibrated.npz", "sampling.npz", "frame_0001.gro",
        "frame_0002.gro"}
    assert json.loads((out / "settings.json").read_text())["n_chains"] == 4
    target, frame = read(out / "frame_0002.gro", chemistry)
    assert [len(chain) for chain in target.chains] == [3] * 4
    whole = make_whole(frame.positions, frame.box, target.bonds)
    lengths = np.linalg.norm(whole[target.bonds[:, 0]] - whole[target.bonds[:, 1]], axis=1)
    assert 0.09 < lengths.min() and lengths.max() < 0.16
    density = target.masses.sum() / 602.214 / np.linalg.det(frame.box)
    assert 0.6 < density < 1.2


def test_more_snapshots_are_added_and_the_first_left_alone(finished, chemistry):
    out, settings = finished
    first = (out / "frame_0001.gro").read_bytes(), (out / "frame_0002.gro").read_bytes()
    told = []
    run_melt(replace(settings, n_snapshots=3), out, "CPU", lambda *words: told.append(words))
    assert ((out / "frame_0001.gro").read_bytes(), (out / "frame_0002.gro").read_bytes()) == first
    assert told == [("snapshots", 2, 3), ("snapshots", 3, 3)]
    positions = [read(out / f"frame_000{k}.gro", chemistry)[1].positions for k in (2, 3)]
    assert not np.allclose(*positions)


def test_a_stage_that_is_missing_is_made_again_from_the_one_before(finished, tmp_path):
    out, settings = finished
    again = tmp_path / "again"
    again.mkdir()
    for name in ("settings.json", "relaxed.npz", "packed.npz"):
        (again / name).write_bytes((out / name).read_bytes())
    stages = []
    run_melt(replace(settings, n_snapshots=1), again, "CPU", lambda stage, *_: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["equilibrating, ps", "snapshots"]
    assert (again / "packed.npz").read_bytes() == (out / "packed.npz").read_bytes()
    assert [p.name for p in sorted(again.glob("*.gro"))] == ["frame_0001.gro"]


@pytest.mark.parametrize("change", [{"seed": 2}, {"n_chains": 5}, {"equilibrate_ps": 0.3}])
def test_other_settings_in_the_same_folder_are_refused(finished, change):
    out, settings = finished
    with pytest.raises(InputError, match="settings.json belongs to a run with other settings"):
        run_melt(replace(settings, **change), out)


def test_no_equilibration_is_possible(finished, tmp_path):
    out, settings = finished
    settings = replace(settings, equilibrate_ps=0.0, n_snapshots=1)
    (tmp_path / "packed.npz").write_bytes((out / "packed.npz").read_bytes())
    (tmp_path / "relaxed.npz").write_bytes((out / "relaxed.npz").read_bytes())
    run_melt(settings, tmp_path, "CPU")
    assert (tmp_path / "frame_0001.gro").exists()


def test_chains_do_not_pass_through_themselves(chemistry):
    """Atoms far apart along a chain repel each other while it relaxes by itself, but do not attract."""
    from openmm import Context, VerletIntegrator, unit

    target = build_target(load_chemistry(chemistry), [["STY"] * 6])
    system = local_system(target)
    for force in system.getForces():
        force.setForceGroup(0 if force.getName() == "CustomNonbondedForce" else 1)
    context = Context(system, VerletIntegrator(0.001))
    x = build_coordinates(target, np.random.default_rng(1)) * 10  # far apart
    first, last = 0, target.n_atoms - 1

    def energy(distance):
        x[last] = x[first] + [0.0, 0.0, distance]
        context.setPositions(x)
        return context.getState(energy=True, groups={0}).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)

    assert energy(0.15) > 1.0
    assert energy(0.34) == 0.0


@pytest.mark.parametrize("name, molecules", [("octane", 80), ("cumene", 80), ("sps", 12), ("tmbt", 64)])
def test_each_shipped_chemistry_has_a_recipe(name, molecules):
    settings = recipe(name)
    assert settings.chemistry == name and settings.n_chains == molecules
    assert recipe(name, n_chains=3, seed=None) == replace(settings, n_chains=3)
