"""From snapshots to a model file: compile, train with checkpoints, write the model and its card."""

from __future__ import annotations

import hashlib
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
import yaml

from openmm_backmap.chemistry import load_chemistry
from openmm_backmap.errors import InputError, UnknownNameError
from openmm_backmap.generators.base import Progress, pick_device
from openmm_backmap.io.writers import check_output
from openmm_backmap.model_file import save_model
from openmm_backmap.registry import Registry
from openmm_backmap.training.dataset import Dataset, compile_dataset, load_dataset

CHECKPOINT_SECONDS = 60.0
_REPORT_EVERY = 200

#: ``family`` of a settings file -> class of the shape of :class:`Trainer`
TRAINERS = Registry("family to train", {
    "dbm": "openmm_backmap.training.dbm:DBMTrainer",
    "flow": "openmm_backmap.training.flow:FlowTrainer",
    "fragment": "openmm_backmap.training.fragment:FragmentTrainer",
}, group="openmm_backmap.trainers")


class Trainer(Protocol):
    """What a family's trainer offers; constructed as ``Trainer(dataset, validation, settings, device)``.

    ``settings_type`` is a frozen dataclass with ``steps``, ``seed`` and ``from_dict(content, where)``; ``loss_unit`` is
    for messages. ``history`` holds (step, loss, loss on the held-out snapshots).
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
                     chemistry: str = "sps", settings_file: str | Path | None = None, seed: int | None = None,
                     minutes: float | None = None, device: str | None = None, resume: bool = False,
                     progress: Progress | None = None) -> Path:
    """Train a model and write it and its card.

    Parameters
    ----------
    data, validation : paths
        Snapshots, folders of ``.gro`` snapshots, or compiled data sets (``.npz``); the two may not share a file.
    out : path
        The model file (``.pt``); ``out.with_suffix(".md")`` is its card, ``.checkpoint`` keeps the state of the run.
    chemistry : str
        Shipped name or file; a compiled data set brings its own.
    settings_file : path, optional
        YAML with ``family`` (``flow`` by default) and the fields of the settings of its trainer:
        :class:`~openmm_backmap.training.flow.FlowTraining` or
        :class:`~openmm_backmap.training.fragment.FragmentTraining`.
    seed : int, optional
        Overrides the settings'.
    minutes : float, optional
        Stop after this time; run again with ``resume`` to go on. A model of the state so far is written.
    device : str, optional
    resume : bool
        Continue from the checkpoint beside ``out``.
    progress : callable, optional

    Raises
    ------
    InputError
        No snapshots, shared snapshots, unknown settings, a checkpoint of another run.
    UnknownNameError
        No such family.
    """
    out, device = check_output(out, overwrite=True), pick_device(device)
    family, settings = _settings(settings_file, seed)
    train_files, held_files = _expand(data), _expand(validation)
    shared = {f.resolve() for f in train_files} & {f.resolve() for f in held_files}
    if shared:
        raise InputError(f"{next(iter(shared))}: used for training and for validation; give different snapshots")
    dataset, held_out = _load(train_files, chemistry), _load(held_files, chemistry)
    trainer: Trainer = TRAINERS.get(family)(dataset, held_out, settings, device)
    checkpoint = out.with_suffix(".checkpoint")
    if resume and checkpoint.exists():
        _load_checkpoint(trainer, checkpoint)
    elif checkpoint.exists():
        raise InputError(f"{checkpoint} is there: continue it with --resume, or remove it")
    seconds = _run(trainer, checkpoint, minutes, progress)
    provenance = _provenance(trainer, dataset, held_out, train_files, seconds)
    if getattr(trainer, "writes", True):  # of several processes that train together, one
        save_model(trainer.generator().to_model(dataset.chemistry, provenance), out)
        out.with_suffix(".md").write_text(_card(out.stem, family, trainer.loss_unit, provenance))
    return out


def _settings(file: str | Path | None, seed: int | None) -> tuple[str, Any]:
    """The family to train and its settings."""
    content = {}
    if file is not None:
        try:
            content = yaml.safe_load(Path(file).read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"{file}: not a readable settings file ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: settings are 'name: value' lines")
    family = str(content.pop("family", "flow"))
    try:
        settings_type = TRAINERS.get(family).settings_type
    except UnknownNameError as error:
        raise UnknownNameError(f"{file}: {error}") from None
    settings = settings_type.from_dict(content, where=str(file))
    return family, settings if seed is None else replace(settings, seed=seed)


def _expand(paths: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(path.glob("**/frame_*.gro"))
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    if not files:
        raise InputError(f"no snapshots in {', '.join(map(str, paths)) or 'nothing'}; make some with "
                         "'backmap-openmm reference'")
    return files


def _load(files: list[Path], chemistry: str) -> Dataset:
    compiled = [f for f in files if f.suffix == ".npz"]
    if compiled and len(files) > 1:
        raise InputError("give one compiled data set, or snapshots, not both")
    return load_dataset(compiled[0]) if compiled else compile_dataset(files, load_chemistry(chemistry))


def _run(trainer: Trainer, checkpoint: Path, minutes: float | None, progress: Progress | None) -> float:
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
            _save_checkpoint(t, checkpoint)
            saved = time.monotonic()

    try:
        trainer.train(deadline=deadline, report=report, every=_REPORT_EVERY)
    finally:
        _save_checkpoint(trainer, checkpoint)
    return time.monotonic() - start


def _save_checkpoint(trainer: Trainer, checkpoint: Path) -> None:
    state = trainer.state()
    if state is None:
        return
    part = checkpoint.with_name(f".{checkpoint.name}.part")
    torch.save(state, part)
    os.replace(part, checkpoint)


def _load_checkpoint(trainer: Trainer, checkpoint: Path) -> None:
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        trainer.load_state(state, where=str(checkpoint))
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{checkpoint}: not a checkpoint of this training, or damaged ({type(error).__name__}); "
                         "remove it to start afresh") from None


def _provenance(trainer: Trainer, dataset: Dataset, held_out: Dataset, files: list[Path], seconds: float) -> dict:
    digest = hashlib.sha256()
    for system in dataset.systems:
        digest.update(np.ascontiguousarray(system.positions).tobytes())
    return {
        "settings": asdict(trainer.settings), "steps_done": trainer.step, "seconds_of_last_run": round(seconds),
        "device": trainer.device, "machine": platform.machine(), "torch": str(torch.__version__),
        "snapshots": dataset.n_frames, "beads": dataset.n_beads, "held_out_snapshots": held_out.n_frames,
        "files": len(files), "data_sha256": digest.hexdigest(), "chemistry": dataset.chemistry.name,
        "history": [list(row) for row in trainer.history]}


def _card(name: str, family: str, loss_unit: str, provenance: dict) -> str:
    settings = yaml.safe_dump(provenance["settings"], sort_keys=False)
    step, loss, held = provenance["history"][-1]
    return f"""# {name}

Family `{family}`, chemistry `{provenance['chemistry']}`. Trained on {provenance['snapshots']} snapshots
({provenance['beads']} beads; SHA-256 of the positions {provenance['data_sha256'][:16]}),
{provenance['held_out_snapshots']} held out. {step} steps on {provenance['device']} ({provenance['machine']}, torch
{provenance['torch']}); loss {loss:.4f}, held out {held:.4f} ({loss_unit}).

Settings:
```yaml
{settings}```
"""
