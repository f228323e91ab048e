"""Models compared with an atomistic reference: backmap, judge, write down; resumable at every step."""

from __future__ import annotations

import json
import os
import platform as machine
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from openmm_backmap import __version__
from openmm_backmap.analysis.describe import Description
from openmm_backmap.analysis.divergence import Comparison, compare
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.evaluation import draws, judging
from openmm_backmap.analysis.evaluation.inputs import Inputs, file_hashes, read_inputs, read_structures
from openmm_backmap.analysis.evaluation.processes import run_tasks
from openmm_backmap.analysis.evaluation.results import Evaluation, Judged
from openmm_backmap.analysis.relaxation import Relaxation, RelaxSettings, band
from openmm_backmap.chemistry import Chemistry, parse_aliases
from openmm_backmap.errors import InputError
from openmm_backmap.io.atomistic import find_files
from openmm_backmap.io.writers import replacing
from openmm_backmap.units import to_kelvin

Progress = Callable[[str, int, int], None]
_LIBRARIES = ("openmm", "torch", "numpy", "scipy", "scikit-learn", "dscribe")


def evaluate(reference: Sequence[str | Path], models: Sequence[str | Path] = (), *, out: str | Path,
             held_out: Sequence[str | Path] = (), cg: Sequence[str | Path] = (),
             structures: Mapping[str, Sequence[str | Path]] | None = None, chemistry: str | Path | None = None,
             n_samples: int = 1, n_frames: int | None = None, refine: str | None = None, seed: int = 1,
             temperature=None, relax_ps: float | None = None,
             topology: str | Path | None = None, cg_topology: str | Path | None = None,
             aliases: Sequence[str] = (), workers: int = 1, platform: str | None = None,
             device: str | None = None, progress: Progress | None = None) -> Evaluation:
    """Backmap with one or several models, and compare what comes out with an atomistic reference.

    Everything is kept in ``out``: when the same call is made again after an interruption, it goes on; models and
    structures may be added. ``scores.json``, ``scores.csv``, ``figures/`` and ``report.html`` are written at the end.

    Parameters
    ----------
    reference : paths
        Atomistic structures (files, folders, patterns): the distributions to compare with.
    models : sequence of str or Path
        Shipped name, path or family, as ``MODEL``, ``LABEL=MODEL`` or ``MODEL@REFINE``.
    out : path
        Folder of the evaluation.
    held_out : paths, optional
        Atomistic structures that are no part of the reference. Their beads are what is backmapped, and they are
        judged like a model: what a right model would score.
    cg : paths, optional
        Coarse-grained frames to backmap instead.
    structures : dict of str to paths, optional
        Structures made elsewhere, in the order of the frames, by label.
    chemistry : str or Path, optional
        Shipped name or file; that of the first model by default. Families need it.
    n_samples : int
        Draws for each frame.
    n_frames : int, optional
        At most so many frames are backmapped, spread evenly.
    refine : {"none", "minimize", "equilibrate"}, optional
        Each model's own default without it.
    seed : int
        Every draw has a seed of its own that follows from this one, whatever the number of workers.
    temperature : float or Quantity, K, optional
        Of refinement and dynamics; that of the chemistry without it.
    relax_ps : float, optional
        Also run dynamics for so long from the first structure of each.
    topology, cg_topology : path, optional
        Structures that name the atoms and beads of trajectories.
    aliases : sequence of str, optional
        ``OLD=NEW`` names in files.
    workers : int
        Processes. Several load the calling script anew, which then needs ``if __name__ == "__main__":``.
    platform, device : str, optional
        OpenMM platform, torch device.
    progress : callable, optional
        ``progress(stage, done, total)``.

    Returns
    -------
    Evaluation
        ``failures`` tells of draws that refinement refused; they do not stop the rest.

    Raises
    ------
    InputError, ChemistryError, UnknownNameError
        Files or models that cannot be used or do not fit each other, or a folder of an evaluation with other settings.
    """
    if not models and not structures and not held_out:
        raise InputError("nothing to judge: give a model, structures or held-out structures")
    choices, known = draws.choose(models, chemistry, refine)
    draws.check_labels([*(choice.label for choice in choices), *(structures or {})])
    names = parse_aliases(aliases)
    inputs = read_inputs(known, reference, held_out, cg, topology=topology, cg_topology=cg_topology, n_frames=n_frames,
                         aliases=names)
    given = {label: read_structures(label, paths, inputs, topology=topology, aliases=names)
             for label, paths in (structures or {}).items()}
    for choice in choices:
        draws.check_model(choice, inputs)
    kelvin = None if temperature is None else to_kelvin(temperature)
    relaxation = RelaxSettings(length_ps=relax_ps, seed=seed, temperature_K=kelvin) if relax_ps else None
    job = _Job(Path(out), inputs, choices, given, seed, n_samples, relaxation, kelvin, workers, platform, device,
               progress)
    settings = _settings(job, known, structures or {})
    claim(job.out, settings)
    return job.run(settings)


def _settings(job: _Job, chemistry: Chemistry, structures: Mapping[str, Sequence]) -> dict[str, Any]:
    """What results depend on; of models and structures more may come later."""
    return {
        "openmm_backmap": __version__, "chemistry": chemistry.name, "chemistry_sha256": chemistry.sha256,
        "files": job.inputs.hashes, "frames": list(job.inputs.frames.names), "n_samples": job.n_samples,
        "seed": job.seed, "temperature_K": job.temperature_K,
        "models": {c.label: {key: value for key, value in asdict(c).items() if key != "label"} for c in job.choices},
        "structures": {label: file_hashes(find_files(paths)) for label, paths in structures.items()}}


def claim(out: Path, settings: dict[str, Any], growing: Sequence[str] = ("models", "structures")) -> None:
    """Make ``out`` the folder of an evaluation with these settings, or add to one, to what ``growing`` names.

    Raises
    ------
    InputError
        The folder belongs to an evaluation with other settings, or holds something else.
    """
    record = out / "settings.json"
    merged = settings
    if record.exists():
        try:
            found = json.loads(record.read_text())
            other = [key for key in settings if key not in growing and found.get(key) != settings[key]]
            for key in growing:
                other += [f"{key}: {label}" for label, value in settings[key].items()
                          if found[key].get(label, value) != value]
                merged = {**merged, key: {**found[key], **settings[key]}}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{record}: not the settings of an evaluation; use another --out") from None
        if other:
            raise InputError(f"{record} belongs to an evaluation with other settings ({', '.join(other)}); use another "
                             "--out, or the same settings")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there and is not the folder of an evaluation; use another --out")
    out.mkdir(parents=True, exist_ok=True)
    with replacing(record, overwrite=True) as part:
        part.write_text(json.dumps(merged, indent=1) + "\n")


@dataclass(frozen=True)
class _Job:
    """The work: draws, then analyses, then files."""

    out: Path
    inputs: Inputs
    choices: list[draws.Choice]
    given: dict[str, Ensemble]
    seed: int
    n_samples: int
    relax_settings: RelaxSettings | None
    temperature_K: float | None
    workers: int
    platform: str | None
    device: str | None
    progress: Progress | None

    def run(self, settings: dict[str, Any]) -> Evaluation:
        from openmm_backmap.analysis.evaluation.page import write_page
        from openmm_backmap.analysis.evaluation.scores import write_scores

        drawn = self._drawn()
        ensembles = {judging.HELD_OUT: self.inputs.held_out} if self.inputs.held_out is not None else {}
        ensembles |= {label: d.ensemble for label, d in drawn.items() if d.ensemble is not None} | self.given
        tasks = self._judged(ensembles)
        evaluation = self._assembled(drawn, ensembles, tasks, settings)
        write_scores(evaluation, self.out)
        write_page(evaluation, self.out, self.progress)
        return evaluation

    def _drawn(self) -> dict[str, draws.Drawn]:
        frames = self.out / "frames.npz"
        draws.save_frames(self.inputs, frames)
        tasks = draws.draw_tasks(self.choices, self.inputs, self.out / "draws", frames, n_samples=self.n_samples,
                                 seed=self.seed, temperature_K=self.temperature_K, platform=self.platform,
                                 device=self.device)
        run_tasks(draws.draw, [task for task in tasks if not task.file.exists()], self.workers, "backmapping",
                  self.progress)
        return {choice.label: draws.collect(choice, tasks, self.inputs) for choice in self.choices}

    def _judged(self, ensembles: dict[str, Ensemble]) -> list[judging.JudgeTask]:
        judging.save_target(self.inputs.target, self.out)
        for label, ensemble in ((judging.REFERENCE, self.inputs.reference), (judging.PAIRED, self.inputs.paired),
                                *ensembles.items()):
            if ensemble is not None:
                judging.save_ensemble(ensemble, label, self.out)
        tasks = judging.judge_tasks(list(ensembles), self.inputs, ensembles, self.out, seed=self.seed,
                                    relaxation=self.relax_settings, platform=self.platform)
        run_tasks(judging.judge, [task for task in tasks if not task.file.exists()], self.workers, "judging",
                  self.progress)
        return tasks

    def _assembled(self, drawn: dict[str, draws.Drawn], ensembles: dict[str, Ensemble],
                   tasks: list[judging.JudgeTask], settings: dict[str, Any]) -> Evaluation:
        found = {(task.what, task.labels[0]): judging.result(task) for task in tasks if task.what != "landscape"}
        maps = [judging.result(task) for task in tasks if task.what == "landscape"]
        reference = found["description", judging.REFERENCE]
        start = found.get(("relaxation", judging.PAIRED), found.get(("relaxation", judging.REFERENCE)))
        labels = list(dict.fromkeys([*(label for label in ensembles if label == judging.HELD_OUT), *drawn,
                                     *self.given]))
        choices = {choice.label: choice for choice in self.choices}
        judged = []
        for label in labels:
            description = found.get(("description", label))
            comparison = None if description is None else _compared(reference, description, ensembles[label].frame,
                                                                    self.seed)
            of_draws = drawn.get(label, draws.Drawn(ensembles.get(label), (), float("nan")))
            judged.append(Judged(
                label, "model" if label in choices else "held out" if label == judging.HELD_OUT else "structures",
                ensembles.get(label), choices.get(label), of_draws.failures, of_draws.seconds, description, comparison,
                *(found.get((what, label)) for what in ("two_sample", "diversity", "relaxation"))))
        return Evaluation(
            self.inputs, reference, tuple(judged), maps[0] if maps else None, start,
            band(start) if isinstance(start, Relaxation) and not all(start.failures) else None, self.relax_settings,
            settings, provenance())


def _compared(reference: Description, judged: Description, frame: np.ndarray, seed: int) -> Comparison:
    """The comparison; its floor is that of as many structures as there are frames, since draws for one frame are no
    independent microstates."""
    whole = compare(reference, judged, rng=np.random.default_rng(seed))
    first = np.unique(frame, return_index=True)[1]
    if len(first) == len(frame):
        return whole
    part = compare(reference, judged.take(first), rng=np.random.default_rng(seed))
    floors = lambda ours, theirs: tuple(replace(a, floor=b.floor, floor_sd=b.floor_sd)  # noqa: E731
                                        for a, b in zip(ours, theirs, strict=True))
    return replace(whole, rows=floors(whole.rows, part.rows), radial=floors(whole.radial, part.radial),
                   psi_floor=part.psi_floor, psi_floor_sd=part.psi_floor_sd)


def provenance() -> dict[str, Any]:
    """When, where and with what: date, machine, versions."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "machine": {"system": machine.platform(), "processor": machine.machine(), "cores": os.cpu_count()},
            "python": machine.python_version(), "openmm_backmap": __version__, "versions": versions}
