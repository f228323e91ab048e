"""From snapshots to a model file, by function and by command."""

import csv
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from small_systems import BOX, small_positions, small_target, write_snapshots
from test_training_dataset import write_molecules

from openmm_backmap.backmapper import Backmapper
from openmm_backmap.chemistry import CGTopology, load_chemistry
from openmm_backmap.cli.app import app
from openmm_backmap.errors import InputError
from openmm_backmap.generators.base import load_generator
from openmm_backmap.model_file import load_model
from openmm_backmap.training.dataset import compile_dataset, save_dataset
from openmm_backmap.training.train import train_from_files

SETTINGS = {"steps": 4, "beads": 8, "times": 2, "warmup": 2, "seed": 5,
            "network": {"width": 16, "heads": 2, "layers": 1, "context_atoms": 8, "context_beads": 4}}

DBM = {"family": "dbm", "steps": 3, "warm_steps": 1, "warmup": 1, "beads": 8, "n_critic": 1, "ramp_start": -1,
       "ramp_end": 0, "prior": "min", "validation": 1, "network": {"stem": 4, "width": 8, "blocks": 1, "noise": 4},
       "sampling": {"n_ensemble": 1}}
BOTH = ("octane", "cumene")
#: runs the command as if the packages were not installed that a machine with torch and numpy lacks
BARE = """import sys
sys.modules.update(dict.fromkeys(("openmm", "mdtraj", "parmed", "scipy", "networkx", "yaml", "matplotlib", "sklearn")))
from openmm_backmap.cli import main
main(sys.argv[1:])"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_snapshots(tmp_path_factory.mktemp("runs") / "train", 2)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    return write_snapshots(tmp_path_factory.mktemp("runs") / "held", 1, first_seed=7)


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    return path


def train(tmp_path, data, held, settings, **options):
    return train_from_files([data], [held], tmp_path / "mine.pt", settings_file=settings, device="cpu", **options)


def test_snapshots_become_a_model(tmp_path, data, held, settings):
    told = []
    path = train(tmp_path, data, held, settings, progress=lambda *words: told.append(words))
    model = load_model(path)
    provenance = model.provenance
    assert model.family == "flow" and model.chemistry.name == "sps"
    assert (provenance["steps_done"], provenance["snapshots"], provenance["held_out_snapshots"]) == (4, 2, 1)
    assert provenance["settings"]["seed"] == 5 and len(provenance["data_sha256"]) == 64
    card = (tmp_path / "mine.md").read_text()
    assert card.startswith("# mine\n") and provenance["data_sha256"][:16] in card and "width: 16" in card
    assert told[-1][1:] == (4, 4)
    assert {p.name for p in tmp_path.iterdir()} == {"mine.pt", "mine.md", "mine.csv", "mine.png", "mine.checkpoint",
                                                     "settings.yaml"}
    target = small_target(1, 3)
    atoms = load_generator(model, "cpu").generate(
        target, target.mapping @ small_positions(target), None, rng=np.random.default_rng(0))
    assert np.isfinite(atoms).all()


def test_a_compiled_data_set_trains_the_same_model(tmp_path, data, held, settings):
    one = load_model(train(tmp_path, data, held, settings))
    (tmp_path / "again").mkdir()
    compiled = tmp_path / "again" / "data.npz"
    save_dataset(compile_dataset(sorted(data.iterdir()), load_chemistry("sps")), compiled)
    two = load_model(train(tmp_path / "again", compiled, held, settings))
    assert one.provenance["data_sha256"] == two.provenance["data_sha256"]
    assert all(bool((one.weights[k] == two.weights[k]).all()) for k in one.weights)


def test_a_checkpoint_is_continued_only_when_asked(tmp_path, data, held, settings):
    train(tmp_path, data, held, settings, minutes=1e-9)
    assert load_model(tmp_path / "mine.pt").provenance["steps_done"] == 1
    with pytest.raises(InputError, match="mine.checkpoint is there: continue it with --resume"):
        train(tmp_path, data, held, settings)
    train(tmp_path, data, held, settings, resume=True)
    assert load_model(tmp_path / "mine.pt").provenance["steps_done"] == 4
    with pytest.raises(InputError, match="mine.checkpoint: was written with other settings"):
        train(tmp_path, data, held, settings, resume=True, seed=6)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_named(tmp_path, data, held, settings, content):
    checkpoint = tmp_path / "mine.checkpoint"
    checkpoint.write_bytes(content) if content is not None else torch.save({"x": 1}, checkpoint)
    with pytest.raises(InputError, match="mine.checkpoint: not a checkpoint"):
        train(tmp_path, data, held, settings, resume=True)


@pytest.mark.parametrize("content", [SETTINGS, DBM], ids=["flow", "dbm"])
def test_a_run_begins_with_the_weights_of_a_model(tmp_path, data, held, content):
    settings = tmp_path / "start.json"
    settings.write_text(json.dumps(content))
    first = train_from_files([data], [held], tmp_path / "first.pt", settings_file=settings, device="cpu")
    # A learning rate of nothing leaves weights where they began.
    still = dict.fromkeys(("learning_rate",) if content is SETTINGS else
                          ("warm_rate", "generator_rate", "critic_rate"), 0.0)
    settings.write_text(json.dumps({**content, **still, "seed": 9}))
    second = train_from_files([data], [held], tmp_path / "second.pt", settings_file=settings, device="cpu", start=first)
    one, two = load_model(first), load_model(second)
    assert all(torch.allclose(one.weights[name], two.weights[name], atol=1e-6) for name in one.weights)
    assert two.provenance["start_sha256"] == one.sha256
    assert one.sha256[:16] in second.with_suffix(".md").read_text()
    with pytest.raises(InputError, match="another model"):
        train_from_files([data], [held], second, settings_file=settings, device="cpu", start=second, resume=True)


def test_models_that_a_run_cannot_begin_with_are_refused(tmp_path, data, held, settings):
    with pytest.raises(InputError, match="of the family dbm, and the settings are of flow"):
        train(tmp_path, data, held, settings, start="dbm-sps")
    with pytest.raises(InputError, match="sps: its network, or the atoms it knows"):
        train(tmp_path, data, held, settings, start="sps")
    settings.write_text("family: fragment\n")
    with pytest.raises(InputError, match="no weights to begin with"):
        train(tmp_path, data, held, settings, start="fragment-sps")


def test_training_and_validation_may_not_share_snapshots(tmp_path, data, settings):
    with pytest.raises(InputError, match="frame_0001.gro: used for training and for validation"):
        train(tmp_path, data, data / "frame_0001.gro", settings)
    assert not (tmp_path / "mine.pt").exists()


def test_folders_without_snapshots_and_missing_files(tmp_path, held, settings):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no snapshots in .*empty"):
        train(tmp_path, tmp_path / "empty", held, settings)
    with pytest.raises(InputError, match="none: no such file"):
        train(tmp_path, tmp_path / "none", held, settings)


def test_a_place_that_cannot_be_written_is_said_before_training(tmp_path, data, held, settings):
    with pytest.raises(InputError, match="the folder .*none does not exist"):
        train(tmp_path / "none", data, held, settings)


@pytest.mark.parametrize("text", ["step: 3", "steps: [", "- 3", "steps: many"])
def test_odd_settings_files_are_named(tmp_path, data, held, settings, text):
    settings.write_text(text)
    with pytest.raises(InputError, match="settings.yaml"):
        train(tmp_path, data, held, settings)


def test_settings_as_json(tmp_path, data, held, settings):
    settings = settings.with_suffix(".json")
    for text, message in (('{"steps": ', "settings.json: not a readable"), ('["a"]', "settings.json: settings are")):
        settings.write_text(text)
        with pytest.raises(InputError, match=message):
            train(tmp_path, data, held, settings)


def test_the_command_trains_too(tmp_path, data, held, settings):
    out = tmp_path / "mine.pt"
    words = ["train", data, "--validation", held, "--out", out, "--settings", settings, "--seed", 3, "--device", "cpu"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert load_model(out).provenance["settings"]["seed"] == 3
    again = CliRunner().invoke(app, list(map(str, words)))
    assert again.exit_code != 0 and isinstance(again.exception, InputError)


# --- several chemistries, compiled data, several processes ------------------------------------------------------------

@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Folders ``train`` and ``held`` with snapshots of octane and cumene; ``dbm.json``; ``train.npz``, ``held.npz``."""
    folder = tmp_path_factory.mktemp("mixed")
    for k, part in enumerate(("train", "held")):
        for name, monomer in zip(BOTH, ("OCT", "CUM")):
            write_molecules(folder / part / name, name, monomer, first_seed=1 + 5 * k)
        words = ["compile", folder / part, "--chemistry", "octane", "--chemistry", "cumene", "-q", "-o",
                 f"{folder / part}.npz"]
        result = CliRunner().invoke(app, list(map(str, words + ["--energies"] * (part == "train"))))
        assert result.exit_code == 0, result.output
    (folder / "dbm.json").write_text(json.dumps(DBM))
    return folder


def spawn(words, cwd, **environment):
    here = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment}
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=cwd, env=here, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def finish(process):
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output[-2000:]


def weights(path):
    return load_model(path).weights


def test_two_chemistries_from_files_make_a_model_that_serves_a_third(mixed, tmp_path):
    path = train_from_files([mixed / "train"], [mixed / "held"], tmp_path / "both.pt", chemistry=BOTH,
                            settings_file=mixed / "dbm.json", device="cpu")
    model = load_model(path)
    assert (model.family, model.chemistry.name) == ("dbm", "octane")
    assert model.provenance["chemistries"] == ["octane", "cumene"]
    assert "chemistries `octane`, `cumene`" in (tmp_path / "both.md").read_text()
    target = small_target(1, 2)
    beads = target.mapping @ small_positions(target)
    topology = CGTopology.from_beads(["B1", "S1", "B2", "S2"], ["PS1"] * 4, [1] * 4, [0] * 4)
    drawn = Backmapper(path, chemistry="sps", device="cpu").backmap(topology, beads, BOX, seed=1, refine="none")
    assert drawn.positions.shape == (1, target.n_atoms, 3) and np.isfinite(drawn.positions).all()
    assert target.mapping @ drawn.positions[0] == pytest.approx(beads, abs=1e-5)


def test_families_that_do_not_transfer_take_one_chemistry(mixed, settings, tmp_path):
    with pytest.raises(InputError, match="family flow is of one chemistry, and the snapshots are of octane, cumene"):
        train_from_files([mixed / "train.npz"], [mixed / "held.npz"], tmp_path / "no.pt", settings_file=settings)


def test_a_chemistry_without_snapshots_is_said(mixed, tmp_path):
    with pytest.raises(InputError, match="octane, cumene were asked for, and the snapshots are all of octane"):
        train_from_files([mixed / "train" / "octane"], [mixed / "held"], tmp_path / "no.pt", chemistry=BOTH,
                         settings_file=mixed / "dbm.json")


def test_compile_writes_data_sets_only_and_replaces_nothing_unasked(mixed, tmp_path):
    for out, message in (("data.gro", "data.gro: a data set ends in .npz"), (mixed / "train.npz", "exists")):
        result = CliRunner().invoke(app, ["compile", str(mixed / "train"), "-o", str(tmp_path / out)])
        assert isinstance(result.exception, InputError) and message in str(result.exception)


@pytest.mark.parametrize("family", ["flow", "dbm"])
def test_compiled_data_train_with_torch_and_numpy_alone(family, mixed, data, held, tmp_path):
    files = [mixed / "train.npz", mixed / "held.npz"]
    if family == "flow":
        files = [tmp_path / "train.npz", tmp_path / "held.npz"]
        for folder, file in zip((data, held), files):
            save_dataset(compile_dataset(sorted(folder.iterdir()), load_chemistry("sps")), file)
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS if family == "flow" else DBM))
    finish(spawn(["-c", BARE, "train", files[0], "--validation", files[1], "-o", "bare.pt", "-q", "--device", "cpu",
                  "--settings", "settings.json"], tmp_path))
    model = load_model(tmp_path / "bare.pt")
    assert model.family == family and load_generator(model, "cpu") is not None
    assert (tmp_path / "bare.csv").exists() and not (tmp_path / "bare.png").exists()
    full = weights(train_from_files(files[:1], files[1:], tmp_path / "full.pt", device="cpu",
                                    settings_file=tmp_path / "settings.json"))
    assert all(torch.allclose(full[k], v, atol=1e-5) for k, v in model.weights.items())


def test_two_processes_train_one_model_and_one_of_them_writes(mixed, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["-m", "openmm_backmap.cli", "train", mixed / "train.npz", "--validation", mixed / "held.npz", "-q",
             "--settings", mixed / "dbm.json", "--device", "cpu", "-o"]
    # Each process has a folder of its own here, so that what it writes is seen.
    places = [tmp_path / f"process_{rank}" for rank in range(2)]
    processes = []
    for rank, place in enumerate(places):
        place.mkdir()
        processes.append(spawn([*words, place / "mine.pt"], place, MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
                               WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank)))
    for process in processes:
        finish(process)
    assert {p.name for p in places[0].iterdir()} == {f"mine.{end}" for end in ("pt", "md", "csv", "png", "checkpoint")}
    assert not list(places[1].iterdir())
    assert load_model(places[0] / "mine.pt").provenance["steps_done"] == 3


def test_families_of_one_process_refuse_to_be_several(tmp_path, data, held, settings, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="family flow is trained by one process, and torchrun started 2"):
        train(tmp_path, data, held, settings)


def test_a_run_is_not_continued_with_other_snapshots(tmp_path, data, held, settings):
    train(tmp_path, data, held, settings, minutes=1e-9)
    for snapshots in ((data / "frame_0001.gro", held), (held, data)):
        with pytest.raises(InputError, match="mine.checkpoint: was written with other snapshots"):
            train(tmp_path, *snapshots, settings, resume=True)
    train(tmp_path, data, held, settings, resume=True)
    assert load_model(tmp_path / "mine.pt").provenance["steps_done"] == 4


def test_the_training_curve_is_a_table_and_a_figure(mixed, tmp_path):
    path = train_from_files([mixed / "train.npz"], [mixed / "held.npz"], tmp_path / "mine.pt", device="cpu",
                            settings_file=mixed / "dbm.json", minutes=1e-9)
    train_from_files([mixed / "train.npz"], [mixed / "held.npz"], path, settings_file=mixed / "dbm.json", device="cpu",
                     resume=True)
    with (tmp_path / "mine.csv").open() as file:
        rows = list(csv.DictReader(file))
    history = load_model(path).provenance["history"]
    assert [int(row["step"]) for row in rows] == [step for step, _, _ in history] == [1, 3]
    assert [float(row["held_out"]) for row in rows] == [held for _, _, held in history]
    assert rows[0]["critic"] == "" and float(rows[1]["angle"]) > 0
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
