"""One file is a whole model: weights, hyperparameters, chemistry, force field and provenance.

Files come from strangers: they are read as tensors and plain containers only (``weights_only=True``), never as
pickled objects, and the force field in them may not hold scripts.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from openmm_backmap.chemistry import Chemistry, parse_chemistry
from openmm_backmap.errors import InputError
from openmm_backmap.registry import unknown_name

FORMAT = "openmm_backmap model"
VERSION = 1
_KEYS = {"format", "version", "family", "hyperparameters", "weights", "chemistry", "force_field", "provenance"}
_MAX_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class ModelFile:
    """The content of a model file.

    Attributes
    ----------
    family : str
        Generator family that understands the rest.
    hyperparameters : mapping of str to plain values
    weights : mapping of str to torch.Tensor
    chemistry_source, force_field_xml : str
        The texts of the chemistry.
    provenance : mapping
        Recipe, data, versions, scores: what a card needs.
    name : str
        Shipped name or file path; for messages.
    sha256 : str
        Hash of the file as read; empty for a model not yet saved.
    """

    family: str
    hyperparameters: Mapping[str, Any]
    weights: Mapping[str, Any] = field(repr=False)
    chemistry_source: str = field(repr=False)
    force_field_xml: str = field(repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    name: str = "model"
    sha256: str = ""

    @cached_property
    def chemistry(self) -> Chemistry:
        return parse_chemistry(self.chemistry_source, self.force_field_xml, where=f"{self.name}: chemistry")


def shipped_models() -> dict[str, Path]:
    """Names and files of the models that come with the package."""
    folder = Path(str(resources.files("openmm_backmap") / "models"))
    return {file.stem: file for file in sorted(folder.glob("*.pt"))}


def save_model(model: ModelFile, path: str | Path) -> None:
    """Write a model file; it appears whole or not at all."""
    import torch

    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    content = {
        "format": FORMAT, "version": VERSION, "family": model.family, "hyperparameters": dict(model.hyperparameters),
        "weights": {k: v.detach().cpu() for k, v in model.weights.items()}, "chemistry": model.chemistry_source,
        "force_field": model.force_field_xml, "provenance": dict(model.provenance)}
    try:
        torch.save(content, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_model(name_or_path: str | Path) -> ModelFile:
    """Read a shipped model by name or any model file by path.

    Raises
    ------
    UnknownNameError
        Neither a shipped name nor an existing file.
    InputError
        Not one of our files, damaged, or written by a newer format version.
    """
    path = shipped_models().get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise unknown_name("model", str(name_or_path), shipped_models(), hint="or the path of a model file (.pt)")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: larger than {_MAX_BYTES // 1024**3} GiB; not a model of this package")
    content = _read(path)
    return ModelFile(
        family=content["family"], hyperparameters=content["hyperparameters"], weights=content["weights"],
        chemistry_source=content["chemistry"], force_field_xml=content["force_field"],
        provenance=content["provenance"], name=str(name_or_path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _read(path: Path) -> dict[str, Any]:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch remarks about odd files; they are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path}: not a model file, or one that holds more than tensors and plain values: that could "
                         "run code, and is refused") from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, zipfile.BadZipFile):
        raise InputError(f"{path}: not a model file, or damaged; models are made by 'backmap-openmm train'") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a model of openmm_backmap; models are made by 'backmap-openmm train'")
    if content.get("version") != VERSION:
        raise InputError(f"{path}: format version {content.get('version')}, this package reads {VERSION}; "
                         "upgrade openmm_backmap or train the model again")
    missing = sorted(_KEYS - set(content))
    if missing:
        raise InputError(f"{path}: damaged model file: {', '.join(missing)} missing")
    return content
