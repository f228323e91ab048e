"""Model files come from strangers: whole, or refused without running anything."""

import pickle
from dataclasses import replace

import pytest
import torch

from openmm_backmap.errors import ChemistryError, InputError, UnknownNameError
from openmm_backmap.model_file import FORMAT, load_model, save_model


def test_round_trip(toy_model, tmp_path):
    model = load_model(toy_model)
    save_model(replace(model, weights={"a": torch.arange(3.0)}), tmp_path / "again.pt")
    again = load_model(tmp_path / "again.pt")
    assert again.family == "toy" and again.provenance == model.provenance
    assert again.chemistry.name == "sps" and len(again.sha256) == 64
    torch.testing.assert_close(again.weights["a"], torch.arange(3.0))
    assert [p.name for p in tmp_path.iterdir()] == ["again.pt"]


def test_a_failed_save_leaves_nothing(toy_model, tmp_path):
    with pytest.raises(AttributeError):
        save_model(replace(load_model(toy_model), weights={"a": "no tensor"}), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))],
                         ids=["torch", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path, save):
    save({"format": FORMAT, "weights": Hostile(tmp_path / "ran")}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="refused|not a model file"):
        load_model(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("content", "said"), [
    ([1, 2], "not a model of openmm_backmap"), ({"state_dict": {}}, "not a model of openmm_backmap"),
    ({"format": FORMAT, "version": 99}, "format version 99"), ({"format": FORMAT, "version": 1}, "weights missing")])
def test_other_files_are_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(InputError, match=said):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize("n_bytes", [0, 10, 2000])
def test_damaged_files_are_refused(tmp_path, toy_model, n_bytes):
    (tmp_path / "model.pt").write_bytes(toy_model.read_bytes()[:n_bytes])
    with pytest.raises(InputError, match="model.pt"):
        load_model(tmp_path / "model.pt")


def test_a_force_field_with_a_script_is_refused(toy_model, tmp_path):
    model = load_model(toy_model)
    xml = model.force_field_xml.replace("</ForceField>", "<Script>open('ran', 'w')</Script></ForceField>")
    save_model(replace(model, force_field_xml=xml), tmp_path / "model.pt")
    with pytest.raises(ChemistryError, match="would run code"):
        _ = load_model(tmp_path / "model.pt").chemistry


def test_unknown_model():
    with pytest.raises(UnknownNameError, match="path of a model file"):
        load_model("no_such_model")
