"""From snapshots to a model file, by function and by command."""

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from small_systems import small_positions, small_target, write_snapshots

from openmm_backmap.chemistry import load_chemistry
from openmm_backmap.cli.app import app
from openmm_backmap.errors import InputError
from openmm_backmap.generators.base import load_generator
from openmm_backmap.model_file import load_model
from openmm_backmap.training.dataset import compile_dataset, save_dataset
from openmm_backmap.training.train import train_from_files

SETTINGS = {"steps": 4, "beads": 8, "times": 2, "warmup": 2, "seed": 5,
            "network": {"width": 16, "heads": 2, "layers": 1, "context_atoms": 8, "context_beads": 4}}


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
    assert {p.name for p in tmp_path.iterdir()} == {"mine.pt", "mine.md", "mine.checkpoint", "settings.yaml"}
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
    import torch

    checkpoint = tmp_path / "mine.checkpoint"
    checkpoint.write_bytes(content) if content is not None else torch.save({"x": 1}, checkpoint)
    with pytest.raises(InputError, match="mine.checkpoint: not a checkpoint"):
        train(tmp_path, data, held, settings, resume=True)


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


def test_the_command_trains_too(tmp_path, data, held, settings):
    out = tmp_path / "mine.pt"
    words = ["train", data, "--validation", held, "--out", out, "--settings", settings, "--seed", 3, "--device", "cpu"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert load_model(out).provenance["settings"]["seed"] == 3
    again = CliRunner().invoke(app, list(map(str, words)))
    assert again.exit_code != 0 and isinstance(again.exception, InputError)
