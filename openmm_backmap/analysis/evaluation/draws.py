"""Structures that models make of coarse-grained frames: one task a draw, each kept on disk when it is done."""

from __future__ import annotations

import functools
import json
import re
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.evaluation.inputs import HELD_OUT, PAIRED, REFERENCE, Inputs, bead_topology
from openmm_backmap.analysis.kept import load_arrays, save_arrays
from openmm_backmap.chemistry import Chemistry, build_target, load_chemistry
from openmm_backmap.errors import ChemistryError, InputError, RefinementError
from openmm_backmap.refine.report import MODES, RefineSettings

Progress = Callable[[str, int, int], None]
_SEEDS = 2**31 - 2


@dataclass(frozen=True)
class Choice:
    """One model to evaluate.

    Attributes
    ----------
    label : str
        For tables and figures.
    model : str
        Shipped name, family or path.
    chemistry : str or None
        For families, which bring none.
    refine : str
    family, sha256 : str
    """

    label: str
    model: str
    chemistry: str | None
    refine: str
    family: str
    sha256: str


@dataclass(frozen=True)
class Failure:
    """A draw that came to nothing."""

    frame: str
    draw: int
    reason: str


@dataclass(frozen=True)
class Drawn:
    """What became of one model's draws.

    Attributes
    ----------
    ensemble : Ensemble or None
        None where every draw failed.
    failures : tuple of Failure
    seconds : float
        Mean time of a draw.
    """

    ensemble: Ensemble | None
    failures: tuple[Failure, ...]
    seconds: float


@dataclass(frozen=True)
class DrawTask:
    """One draw of one frame; ``file`` is where it is kept. Mode and temperature are not those of ``settings``, but of
    the choice and the task."""

    file: Path
    frames: Path
    choice: Choice
    frame: int
    draw: int
    seed: int
    temperature_K: float | None
    platform: str | None
    device: str | None
    settings: RefineSettings = RefineSettings()


def slug(label: str) -> str:
    """``label`` as the name of a file."""
    return re.sub(r"[^\w.-]+", "_", label).strip("_")


def split_label(word: str | Path) -> tuple[str | None, str]:
    """``LABEL=REST`` in two; a word that names a file, or without ``=``, has no label."""
    label, sign, rest = str(word).partition("=")
    return (label.strip(), rest) if sign and label.strip() and rest and not Path(word).exists() else (None, str(word))


def choose(models: Sequence[str | Path], chemistry: str | Path | None,
           refine: str | None) -> tuple[list[Choice], Chemistry]:
    """The models meant, and the chemistry to judge by: the one that is given, else that of the first model.

    Parameters
    ----------
    models : sequence of str or Path
        Each ``MODEL``, ``LABEL=MODEL``, ``MODEL@REFINE`` or ``LABEL=MODEL@REFINE``.
    chemistry : str or Path, optional
        Needed by families and where there is no model.
    refine : str, optional
        For models that do not say; each one's own default without it.

    Raises
    ------
    InputError
        A label that is taken, a level of refinement that does not exist, or no way to know the chemistry.
    UnknownNameError
        No such model or chemistry.
    """
    from openmm_backmap.generators.base import default_refine, find_model, takes_chemistry, transfers

    judged_by = None if chemistry is None else load_chemistry(chemistry)
    own, choices = None, []
    for word in models:
        label, rest = split_label(word)
        name, level = _split_refine(rest)
        needs = takes_chemistry(name)
        found = find_model(name, chemistry if needs else None)
        if judged_by and transfers(found) and found.chemistry.sha256 != judged_by.sha256:
            needs, found = True, find_model(name, chemistry)
        own = own or found.chemistry
        stem = Path(name).stem if Path(name).is_file() else name
        label = label or (f"{stem} ({level})" if level else stem)
        choices.append(Choice(label, name, str(chemistry) if needs else None, level or refine or default_refine(found),
                              found.family, found.sha256))
    check_labels([choice.label for choice in choices])
    if chemistry is None and own is None:
        raise InputError("give --chemistry: no model says what the molecules are")
    return choices, judged_by or own


def _split_refine(text: str) -> tuple[str, str | None]:
    name, sign, level = text.rpartition("@")
    if not sign or Path(text).exists():
        return text, None
    if level not in MODES:
        raise InputError(f"model {text!r}: {level!r} is no level of refinement; after @ write one of "
                         f"{', '.join(MODES)}")
    return name, level


def check_labels(labels: Sequence[str]) -> None:
    """Refuse labels that are taken, or cannot be told apart as names of files."""
    seen = {slug(name) for name in (REFERENCE, HELD_OUT, PAIRED)}
    for label in labels:
        if slug(label) in seen or not slug(label):
            raise InputError(f"{label!r} is taken or no name: give this one another, as LABEL={label}")
        seen.add(slug(label))


def check_model(choice: Choice, inputs: Inputs) -> None:
    """Refuse, before any work, a model that places other atoms, or for other beads, than the reference has."""
    from openmm_backmap.generators.base import find_model

    theirs = find_model(choice.model, choice.chemistry).chemistry
    ours = inputs.target
    distinct = list(dict.fromkeys(ours.chains))
    wanted, found = build_target(ours.chemistry, distinct), build_target(theirs, distinct)
    if found.atom_names != wanted.atom_names or found.elements != wanted.elements:
        raise ChemistryError(f"model {choice.label}: its chemistry {theirs.name} has other atoms, or another order of "
                             f"them, than {ours.chemistry.name}, by which the reference was read")
    if found.mapping.shape != wanted.mapping.shape or abs(found.mapping - wanted.mapping).max() > 1e-6:
        raise ChemistryError(f"model {choice.label}: its chemistry {theirs.name} maps atoms onto other beads than "
                             f"{ours.chemistry.name}, by which the reference was read")


def draw_tasks(choices: Sequence[Choice], inputs: Inputs, folder: Path, frames: Path, *, n_samples: int, seed: int,
               temperature_K: float | None, platform: str | None, device: str | None,
               settings: RefineSettings = RefineSettings()) -> list[DrawTask]:
    """All draws, frame by frame; each has a seed of its own that depends on nothing but its label and place."""
    tasks = []
    for draw in range(n_samples):
        for frame in range(len(inputs.frames)):
            for choice in choices:
                key = (zlib.crc32(choice.label.encode()), frame, draw)
                own = int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0] % _SEEDS)
                file = folder / slug(choice.label) / f"frame_{frame + 1:04d}_draw_{draw + 1:03d}.npz"
                tasks.append(DrawTask(file, frames, choice, frame, draw, own, temperature_K, platform, device,
                                      settings))
    return tasks


def save_frames(inputs: Inputs, path: Path) -> None:
    """What the tasks read: beads, boxes and chains."""
    arrays = {"beads": inputs.frames.beads, "chains": np.array(json.dumps(inputs.target.chains))}
    if inputs.frames.boxes is not None:
        arrays["boxes"] = inputs.frames.boxes
    save_arrays(path, **arrays)


def draw(task: DrawTask, progress: Progress | None = None) -> None:
    """Do one task; what refinement refuses is kept as a failure."""
    chains, beads, box = _frame(task.frames, task.frame)
    choice = task.choice
    backmapper = _backmapper(choice.model, choice.chemistry, task.platform, task.device)
    topology = bead_topology(backmapper.model.chemistry, chains)
    began = time.perf_counter()
    try:
        result = backmapper.backmap(topology, beads, box, seed=task.seed,
                                    refine=replace(task.settings, mode=choice.refine),
                                    temperature=task.temperature_K, progress=progress)
    except RefinementError as error:
        save_arrays(task.file, error=str(error), seconds=time.perf_counter() - began)
        return
    reports = json.dumps([asdict(report) for report in result.diagnostics])
    save_arrays(task.file, positions=result.positions[0].astype(np.float32), error="", report=reports,
                seconds=time.perf_counter() - began)


@functools.lru_cache(maxsize=4)
def _backmapper(model: str, chemistry: str | None, platform: str | None, device: str | None):
    from openmm_backmap.backmapper import Backmapper

    return Backmapper(model, chemistry=chemistry, platform=platform, device=device)


def _frame(path: Path, k: int) -> tuple[list[list[str]], np.ndarray, np.ndarray | None]:
    data = load_arrays(path)
    return json.loads(str(data["chains"])), data["beads"][k], data["boxes"][k] if "boxes" in data else None


def collect(choice: Choice, tasks: Sequence[DrawTask], inputs: Inputs) -> Drawn:
    """The structures that this model's tasks left."""
    positions, frames, failures, seconds = [], [], [], []
    for task in sorted((t for t in tasks if t.choice == choice), key=lambda t: (t.frame, t.draw)):
        data = load_arrays(task.file)
        seconds.append(float(data["seconds"]))
        if str(data["error"]):
            failures.append(Failure(inputs.frames.names[task.frame], task.draw + 1, str(data["error"])))
        else:
            frames.append(task.frame)
            positions.append(data["positions"])
    if not frames:
        return Drawn(None, tuple(failures), float(np.mean(seconds)))
    frame = np.array(frames)
    boxes = None if inputs.frames.boxes is None else inputs.frames.boxes[frame]
    ensemble = Ensemble(choice.label, inputs.target, np.array(positions, dtype=float), boxes, frame,
                        inputs.frames.beads[frame])
    return Drawn(ensemble, tuple(failures), float(np.mean(seconds)))
