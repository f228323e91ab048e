"""From snapshots to a model file: compile, train with checkpoints, write the model and its card."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import platform
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from openmm_backmap.errors import InputError, UnknownNameError
from openmm_backmap.generators.base import FAMILIES, Progress, pick_device
from openmm_backmap.io.writers import check_output
from openmm_backmap.model_file import ModelFile, load_model, save_model
from openmm_backmap.registry import Registry
from openmm_backmap.training.curve import curve, plot_curve, write_curve
from openmm_backmap.training.dataset import Dataset
from openmm_backmap.training.sources import check_all_used, find_snapshots, read_snapshots

CHECKPOINT_SECONDS = 60.0
_REPORT_EVERY = 200
_DATA_HASH = "data_and_validation_sha256"

#: ``family`` of a settings file -> class of the shape of :class:`Trainer`
TRAINERS = Registry("family to train", {
    "coherent-beads": "openmm_backmap.training.coherent_beads:CoherentBeadsTrainer",
    "coherent-flow": "openmm_backmap.training.coherent_flow:CoherentFlowTrainer",
    "cvae": "openmm_backmap.training.cvae:CVAETrainer",
    "dbm": "openmm_backmap.training.dbm:DBMTrainer",
    "flow": "openmm_backmap.training.flow:FlowTrainer",
    "fragment": "openmm_backmap.training.fragment:FragmentTrainer",
    "library": "openmm_backmap.training.library:LibraryTrainer",
}, group="openmm_backmap.trainers")


class Trainer(Protocol):
    """What a family's trainer offers; constructed as ``Trainer(dataset, validation, settings, device)``.

    ``settings_type`` is a frozen dataclass with ``steps``, ``seed`` and ``from_dict(content, where)``; ``loss_unit`` is
    for messages. ``history`` holds (step, loss, loss on the held-out snapshots). A trainer may have ``records``, of
    (step, values by name), for the training curve; and ``writes``, if several processes may train together: it is True
    in the one that writes files; and ``starts = True``, if it takes ``start=model_file`` to begin with.
    """

    settings_type: type
    loss_unit: str
    settings: Any
    device: str
    step: int
    history: list[tuple[int, float, float]]

    def train(self, until=None, deadline: float | None = None, report=None, every: int = 500) -> None: ...

    def generator(self):
        """The generator as trained so far; it has ``to_model(chemistry, provenance)``."""

    def state(self) -> dict | None:
        """What a continued run needs, as tensors and plain values; None where there is nothing to continue."""

    def load_state(self, state: dict, where: str = "checkpoint") -> None: ...


def train_from_files(data: Sequence[str | Path], validation: Sequence[str | Path], out: str | Path, *,
                     chemistry: str | Sequence[str] = "sps", settings_file: str | Path | None = None,
                     seed: int | None = None, minutes: float | None = None, device: str | None = None,
                     resume: bool = False, start: str | Path | None = None,
                     progress: Progress | None = None) -> Path:
    """Train a model and write it, its card and its training curve.

    Parameters
    ----------
    data, validation : paths
        Snapshots, folders of ``.gro`` snapshots, or compiled data sets (``.npz``); the two may not share a file.
    out : path
        The model file (``.pt``); ``out.with_suffix(".md")`` is its card, ``.csv`` and ``.png`` its training curve (no
        figure without matplotlib), ``.checkpoint`` keeps the state of the run.
    chemistry : str or sequence of str
        Shipped names or files; a compiled data set brings its own. Several for a family whose models transfer.
    settings_file : path, optional
        YAML, or JSON (``.json``), with ``family`` (``flow`` by default) and the fields of the settings of its trainer:
        :class:`~openmm_backmap.training.flow.FlowTraining`,
        :class:`~openmm_backmap.training.dbm_settings.DBMTraining` or
        :class:`~openmm_backmap.training.fragment.FragmentTraining`.
    seed : int, optional
        Overrides the settings'.
    minutes : float, optional
        Stop after this time; run again with ``resume`` to go on. A model of the state so far is written.
    device : str, optional
    resume : bool
        Continue from the checkpoint beside ``out``.
    start : str or path, optional
        Shipped name or file of a model of the same family and network, whose weights to begin with.
    progress : callable, optional

    Raises
    ------
    InputError
        No snapshots, shared snapshots, several chemistries for a family that takes one, unknown settings, a checkpoint
        of another run or of other data, a model to start from that does not fit.
    UnknownNameError
        No such family.
    """
    out, device = check_output(out, overwrite=True), pick_device(device)
    family, settings = _settings(settings_file, seed)
    names = [chemistry] if isinstance(chemistry, str) else list(chemistry)
    train_files, held_files = find_snapshots(data), find_snapshots(validation)
    shared = {f.resolve() for f in train_files} & {f.resolve() for f in held_files}
    if shared:
        raise InputError(f"{next(iter(shared))}: used for training and for validation; give different snapshots")
    dataset, held_out = read_snapshots(train_files, names, progress), read_snapshots(held_files, names, progress)
    check_all_used(dataset, names, train_files)
    _check_family(family, dataset)
    started = {} if start is None else {"start": _model_to_start(family, start)}
    trainer: Trainer = TRAINERS.get(family)(dataset, held_out, settings, device, **started)
    start_hash = started["start"].sha256 if started else ""
    data_hash = _hash(dataset, held_out) + start_hash
    checkpoint = out.with_suffix(".checkpoint")
    if resume and checkpoint.exists():
        _load_checkpoint(trainer, checkpoint, data_hash)
    elif checkpoint.exists():
        raise InputError(f"{checkpoint} is there: continue it with --resume, or remove it")
    seconds = _run(trainer, checkpoint, data_hash, minutes, progress)
    provenance = {**_provenance(trainer, dataset, held_out, train_files, seconds), "start_sha256": start_hash}
    if getattr(trainer, "writes", True):  # of several processes that train together, one
        save_model(trainer.generator().to_model(dataset.chemistry, provenance), out)
        out.with_suffix(".md").write_text(_card(out.stem, family, trainer.loss_unit, provenance))
        if trainer.settings.steps > 1:
            rows = curve(trainer.history, getattr(trainer, "records", ()))
            write_curve(rows, out.with_suffix(".csv"))
            plot_curve(rows, trainer.loss_unit, out.with_suffix(".png"))
    return out


def _settings(file: str | Path | None, seed: int | None) -> tuple[str, Any]:
    """The family to train and its settings."""
    content = {} if file is None else _read_settings(Path(file))
    if not isinstance(content, dict):
        raise InputError(f"{file}: settings are 'name: value' lines")
    family = str(content.pop("family", "flow"))
    try:
        settings_type = TRAINERS.get(family).settings_type
    except UnknownNameError as error:
        raise UnknownNameError(f"{file}: {error}") from None
    settings = settings_type.from_dict(content, where=str(file))
    return family, settings if seed is None else replace(settings, seed=seed)


def _read_settings(file: Path) -> Any:
    """The content of a settings file: JSON needs no package, where there is only torch and numpy."""
    if file.suffix == ".json":
        parse, wrong = json.loads, ValueError
    else:
        try:
            import yaml
        except ImportError:
            raise InputError(f"{file}: pyyaml, which reads YAML, is not installed; give the settings as JSON "
                             "(.json)") from None
        parse, wrong = yaml.safe_load, yaml.YAMLError
    try:
        return parse(file.read_text()) or {}
    except (OSError, ValueError, wrong) as error:
        raise InputError(f"{file}: not a readable settings file ({' '.join(str(error).split())})") from None


def _check_family(family: str, dataset: Dataset) -> None:
    """Only models that transfer can be of several chemistries; only some families train in several processes."""
    names = [chemistry.name for chemistry in dataset.chemistries]
    if len(names) > 1 and not getattr(FAMILIES.get(family), "transfers", False):
        raise InputError(f"a model of the family {family} is of one chemistry, and the snapshots are of "
                         f"{', '.join(names)}: train one model for each, or a family that transfers (family: dbm)")
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if n_processes > 1 and not hasattr(TRAINERS.get(family), "writes"):
        raise InputError(f"the family {family} is trained by one process, and torchrun started {n_processes}: leave "
                         "torchrun out")


def _model_to_start(family: str, start: str | Path) -> ModelFile:
    model = load_model(start)
    if model.family != family:
        raise InputError(f"{start}: a model of the family {model.family}, and the settings are of {family}")
    if not getattr(TRAINERS.get(family), "starts", False):
        raise InputError(f"the family {family} has no weights to begin with: leave --start {start} out")
    return model


def _hash(*datasets: Dataset) -> str:
    digest = hashlib.sha256()
    for system in (system for dataset in datasets for system in dataset.systems):
        digest.update(np.ascontiguousarray(system.positions).tobytes())
    return digest.hexdigest()


def _run(trainer: Trainer, checkpoint: Path, data_hash: str, minutes: float | None,
         progress: Progress | None) -> float:
    """Train until done, out of time, or interrupted; the checkpoint is always up to date. Returns seconds spent."""
    start = time.monotonic()
    deadline = start + 60 * minutes if minutes is not None else None
    saved = start

    def report(t: Trainer) -> None:
        nonlocal saved
        if progress:
            step, loss, held = t.history[-1]
            progress(f"training (loss {loss:.4f}, held out {held:.4f})", step, t.settings.steps)
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            _save_checkpoint(t, checkpoint, data_hash)
            saved = time.monotonic()

    try:
        trainer.train(deadline=deadline, report=report, every=_REPORT_EVERY)
    finally:
        _save_checkpoint(trainer, checkpoint, data_hash)
    return time.monotonic() - start


def _save_checkpoint(trainer: Trainer, checkpoint: Path, data_hash: str) -> None:
    state = trainer.state()
    if state is None:
        return
    part = checkpoint.with_name(f".{checkpoint.name}.part")
    torch.save({**state, _DATA_HASH: data_hash}, part)
    os.replace(part, checkpoint)


def _load_checkpoint(trainer: Trainer, checkpoint: Path, data_hash: str) -> None:
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        # A checkpoint of an earlier version does not say.
        found = state.pop(_DATA_HASH, data_hash)
        trainer.load_state(state, where=str(checkpoint))
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError,
            zipfile.BadZipFile) as error:
        raise InputError(f"{checkpoint}: not a checkpoint of this training, or damaged ({type(error).__name__}); "
                         "remove it to start afresh") from None
    if found != data_hash:
        raise InputError(f"{checkpoint}: was written with other snapshots, of training or of validation, or begun with "
                         "another model; use another output or the same ones")


def _provenance(trainer: Trainer, dataset: Dataset, held_out: Dataset, files: list[Path], seconds: float) -> dict:
    return {
        "settings": asdict(trainer.settings), "steps_done": trainer.step, "seconds_of_last_run": round(seconds),
        "device": trainer.device, "machine": platform.machine(), "torch": str(torch.__version__),
        "snapshots": dataset.n_frames, "beads": dataset.n_beads, "held_out_snapshots": held_out.n_frames,
        "files": len(files), "data_sha256": _hash(dataset),
        "chemistry": dataset.chemistry.name, "chemistries": [c.name for c in dataset.chemistries],
        "history": [list(row) for row in trainer.history]}


def _card(name: str, family: str, loss_unit: str, provenance: dict) -> str:
    settings = "\n".join(_yaml_lines(provenance["settings"]))
    chemistries = ", ".join(f"`{chemistry}`" for chemistry in provenance["chemistries"])
    word = "chemistry" if len(provenance["chemistries"]) == 1 else "chemistries"
    step, loss, held = provenance["history"][-1]
    started = provenance["start_sha256"]
    started = f"\nBegun with the weights of a model whose file has the SHA-256 {started[:16]}." if started else ""
    return f"""# {name}

Family `{family}`, {word} {chemistries}. Trained on {provenance['snapshots']} snapshots
({provenance['beads']} beads; SHA-256 of the positions {provenance['data_sha256'][:16]}),
{provenance['held_out_snapshots']} held out. {step} steps on {provenance['device']} ({provenance['machine']}, torch
{provenance['torch']}); loss {loss:.4f}, held out {held:.4f} ({loss_unit}).{started}

Settings:
```yaml
{settings}
```
"""


def _yaml_lines(settings: dict, indent: str = "") -> list[str]:
    """Plain values, and mappings of them, as YAML: without the package, which a machine that trains may lack."""
    lines = []
    for name, value in settings.items():
        nested = _yaml_lines(value, indent + "  ") if isinstance(value, dict) and value else None
        lines += [f"{indent}{name}:", *nested] if nested else [f"{indent}{name}: {json.dumps(value)}"]
    return lines
