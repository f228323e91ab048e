"""The analyses of an evaluation: one task each, kept on disk when it is done."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.evaluation.draws import slug
from openmm_backmap.analysis.evaluation.inputs import HELD_OUT, PAIRED, REFERENCE
from openmm_backmap.analysis.kept import keep, kept, load_arrays, save_arrays
from openmm_backmap.analysis.relaxation import RelaxSettings, relax
from openmm_backmap.chemistry import Target, build_target, parse_chemistry
from openmm_backmap.errors import InputError

Progress = Callable[[str, int, int], None]
# The long ones first, so that none is left alone at the end.
_ORDER = ("relaxation", "landscape", "two_sample", "description", "diversity")


@dataclass(frozen=True)
class NotDone:
    """An analysis that these structures do not allow, and why."""

    reason: str


@dataclass(frozen=True)
class JudgeTask:
    """One analysis.

    Attributes
    ----------
    what : str
        ``description``, ``two_sample``, ``diversity``, ``relaxation`` or ``landscape``.
    labels : tuple of str
        The ensembles; several for ``landscape``.
    out : Path
        Folder of the evaluation.
    relaxation : RelaxSettings or None
    seed : int
    platform : str or None
    """

    what: str
    labels: tuple[str, ...]
    out: Path
    seed: int
    relaxation: RelaxSettings | None = None
    platform: str | None = None

    @property
    def file(self) -> Path:
        """Where the result is kept; what its name does not say is in the settings of the folder."""
        what = f"relaxation_{self.relaxation.length_ps:g}ps" if self.relaxation else self.what
        if self.what == "landscape":
            return self.out / "analysis" / f"{what}_{'+'.join(map(slug, self.labels))}.npz"
        return self.out / "analysis" / slug(self.labels[0]) / f"{what}.npz"


def judge_tasks(labels: Sequence[str], inputs, drawn: dict[str, Ensemble], out: Path, *, seed: int,
                relaxation: RelaxSettings | None, platform: str | None) -> list[JudgeTask]:
    """All analyses of the reference and of ``labels``."""
    tasks = [JudgeTask("description", (label,), out, seed) for label in (REFERENCE, *labels)]
    tasks += [JudgeTask("two_sample", (label,), out, seed) for label in labels]
    tasks += [JudgeTask("diversity", (label,), out, seed) for label in labels
              if np.bincount(drawn[label].frame).max() > 1]
    if labels:
        tasks.append(JudgeTask("landscape", tuple(labels), out, seed))
    if relaxation:
        start = PAIRED if inputs.paired is not None else REFERENCE
        others = [label for label in labels if label != HELD_OUT or start != PAIRED]
        tasks += [JudgeTask("relaxation", (label,), out, seed, relaxation, platform) for label in (start, *others)]
    return sorted(tasks, key=lambda task: _ORDER.index(task.what))


def save_target(target: Target, out: Path) -> None:
    """What :func:`judge` needs to know the atoms."""
    save_arrays(out / "target.npz", chains=np.array(json.dumps(target.chains)),
                chemistry=np.array(target.chemistry.source), force_field=np.array(target.chemistry.force_field_xml))


def save_ensemble(ensemble: Ensemble, label: str, out: Path) -> None:
    arrays = {name: getattr(ensemble, name) for name in ("positions", "boxes", "frame", "beads")
              if getattr(ensemble, name) is not None}
    save_arrays(_ensemble_file(out, label), **arrays)


def _ensemble_file(out: Path, label: str) -> Path:
    return out / "ensembles" / f"{slug(label)}.npz"


def judge(task: JudgeTask, progress: Progress | None = None) -> None:
    """Do one task."""
    try:
        result = _ANALYSES[task.what](task, progress)
    except InputError as error:
        if task.what == "description":
            raise
        result = NotDone(str(error))
    keep(task.file, result)


def result(task: JudgeTask):
    """What :func:`judge` found."""
    return kept(task.file)


def load_ensemble(label: str, out: Path) -> Ensemble | None:
    """What :func:`save_ensemble` wrote; None where there is nothing."""
    file = _ensemble_file(out, label)
    return _loaded(file, label, out, file.stat().st_mtime_ns) if file.exists() else None


def _ensemble(task: JudgeTask, label: str) -> Ensemble | None:
    return load_ensemble(label, task.out)


@functools.lru_cache(maxsize=16)
def _loaded(file: Path, label: str, out: Path, changed: int) -> Ensemble:
    data = load_arrays(file)
    return Ensemble(label, _target(out / "target.npz", (out / "target.npz").stat().st_mtime_ns), data["positions"],
                    data.get("boxes"), data["frame"], data.get("beads"))


@functools.lru_cache(maxsize=2)
def _target(file: Path, changed: int) -> Target:
    data = load_arrays(file)
    chemistry = parse_chemistry(str(data["chemistry"]), str(data["force_field"]), where=str(file))
    return build_target(chemistry, json.loads(str(data["chains"])))


def _description(task: JudgeTask, progress: Progress | None):
    from openmm_backmap.analysis.describe import describe

    return describe(_ensemble(task, task.labels[0]), progress)


def _two_sample(task: JudgeTask, progress: Progress | None):
    from openmm_backmap.analysis.two_sample import two_sample_test

    label = task.labels[0]
    paired = None if label == HELD_OUT else _ensemble(task, PAIRED)  # not against itself
    return two_sample_test(_ensemble(task, REFERENCE), _ensemble(task, label), paired=paired, seed=task.seed,
                           progress=progress)


def _diversity(task: JudgeTask, progress: Progress | None):
    from openmm_backmap.analysis.diversity import diversity

    return diversity(_ensemble(task, task.labels[0]), _ensemble(task, PAIRED), progress=progress)


def _landscape(task: JudgeTask, progress: Progress | None):
    from openmm_backmap.analysis.landscape import landscape

    judged = [_ensemble(task, label) for label in task.labels]
    return landscape(_ensemble(task, REFERENCE), judged, paired=_ensemble(task, PAIRED), seed=task.seed,
                     progress=progress)


def _relaxation(task: JudgeTask, progress: Progress | None):
    return relax(_ensemble(task, task.labels[0]), task.relaxation, task.platform, progress,
                 folder=task.file.with_suffix(""))


_ANALYSES = {"description": _description, "two_sample": _two_sample, "diversity": _diversity,
             "landscape": _landscape, "relaxation": _relaxation}
