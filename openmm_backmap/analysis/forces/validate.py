"""Coarse-grained models validated: backmap their frames, compare forces on beads, write down; resumable at every step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from openmm_backmap import __version__
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.evaluate import claim, provenance
from openmm_backmap.analysis.evaluation import draws, judging
from openmm_backmap.analysis.evaluation.inputs import HELD_OUT, REFERENCE
from openmm_backmap.analysis.evaluation.processes import run_tasks
from openmm_backmap.analysis.forces.bead_forces import BeadForces, bead_forces
from openmm_backmap.analysis.forces.coarse import predicted
from openmm_backmap.analysis.forces.distributions import compare_forces, frame_scores
from openmm_backmap.analysis.forces.matching import chi_squared, chi_squared_bm, mean_forces
from openmm_backmap.analysis.forces.projection import projection
from openmm_backmap.analysis.forces.results import Judged, Validation
from openmm_backmap.analysis.forces.sets import IN_DISTRIBUTION, FrameSet, read_sets
from openmm_backmap.analysis.forces.worst import find_worst
from openmm_backmap.analysis.kept import keep, kept, load_arrays
from openmm_backmap.chemistry import Chemistry, parse_aliases
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.refine.report import RefineSettings
from openmm_backmap.units import to_kelvin

Progress = Callable[[str, int, int], None]
_MINIMISED = "minimize"
# Beads do not give way, so that what is wrong with them stays and shows; and atoms that MD cannot start from tell most.
# Atoms among beads that do not move settle in less than 1 ps.
HELD = RefineSettings(restraint_k=None, equilibrate_ps=1.0, strict=False)


def validate(reference: Sequence[str | Path], model: str | Path, cg: Mapping[str, Sequence[str | Path]] | None = None,
             *, out: str | Path, held_out: Sequence[str | Path] = (),
             cg_systems: Mapping[str, str | Path] | None = None, chemistry: str | Path | None = None,
             n_samples: int = 1, n_frames: int | None = None, refine: str | None = None, also_minimised: bool = False,
             seed: int = 1, temperature=None, topology: str | Path | None = None,
             cg_topology: str | Path | None = None, aliases: Sequence[str] = (), workers: int = 1,
             platform: str | None = None, device: str | None = None, progress: Progress | None = None) -> Validation:
    """Judge coarse-grained models by the atomistic forces on what their frames are backmapped to.

    Everything is kept in ``out``: when the same call is made again after an interruption, it goes on; trajectories may
    be added. ``scores.json``, ``scores.csv``, ``figures/``, ``worst/``, ``forces/`` and ``report.html`` are written at
    the end. Beads are held (:data:`HELD`), and structures that refinement would refuse are judged like the others.

    Parameters
    ----------
    reference : paths
        Atomistic structures (files, folders, patterns). Without ``held_out``, every other one is mapped and backmapped
        (the in-distribution set), and the others are what is compared with.
    model : str or Path
        What backmaps: shipped name, path or family; also ``MODEL@REFINE``.
    cg : dict of str to paths
        Coarse-grained frames by label.
    out : path
        Folder of the results.
    held_out : paths, optional
        Atomistic structures of the in-distribution set.
    cg_systems : dict of str to path, optional
        By labels of ``cg``, the coarse-grained force field (an ``openmm.System`` as XML, of the beads as they are in
        the trajectory), for chi^2_BM.
    chemistry : str or Path, optional
        Shipped name or file, for families.
    n_samples, n_frames : int
        Draws for each frame; at most so many frames of each set.
    refine : {"none", "minimize", "equilibrate"}, optional
        The model's own default without it.
    also_minimised : bool
        Also backmap all sets with ``"minimize"``.
    seed : int
    temperature : float or Quantity, K, optional
        Of refinement; that of the chemistry without it.
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

    Raises
    ------
    InputError, ChemistryError, UnknownNameError
        Files or models that cannot be used or do not fit each other, or a folder that belongs to other settings.
    """
    strangers = sorted(set(cg_systems or {}) - set(cg or {}))
    if strangers:
        raise InputError(f"a coarse-grained force field is given for {strangers[0]!r}, which is the label of no "
                         "trajectory")
    (choice,), known = draws.choose([model], chemistry, refine)
    sets = read_sets(known, reference, cg or {}, held_out, systems=cg_systems, topology=topology,
                     cg_topology=cg_topology, n_frames=n_frames, aliases=parse_aliases(aliases))
    draws.check_model(choice, sets[0].inputs)
    arms = _arms(sets, choice, also_minimised)
    job = _Job(Path(out), arms, seed, n_samples, None if temperature is None else to_kelvin(temperature), workers,
               platform, device, progress)
    settings = _settings(job, known, choice)
    claim(job.out, settings, ("cg",))
    return job.run(settings)


@dataclass(frozen=True)
class _Arm:
    """A set of frames and how it is backmapped."""

    frames: FrameSet
    choice: draws.Choice


def _arms(sets: list[FrameSet], choice: draws.Choice, also_minimised: bool) -> list[_Arm]:
    arms = [_Arm(own, replace(choice, label=own.label)) for own in sets]
    if also_minimised:
        if choice.refine == _MINIMISED:
            raise InputError("all is minimised already: give another --refine, or leave --also-minimised out")
        arms += [_Arm(own, replace(choice, label=f"{own.label}, minimised", refine=_MINIMISED)) for own in sets]
    draws.check_labels([arm.choice.label for arm in arms])
    return arms


def _settings(job: _Job, chemistry: Chemistry, choice: draws.Choice) -> dict[str, Any]:
    """What results depend on; of trajectories more may come later."""
    first = job.arms[0].frames.inputs
    described = {key: value for key, value in asdict(choice).items() if key not in ("label", "refine")}
    return {
        "openmm_backmap": __version__, "chemistry": chemistry.name, "chemistry_sha256": chemistry.sha256,
        "files": first.hashes, "model": described, "n_samples": job.n_samples, "seed": job.seed,
        "temperature_K": job.temperature_K, "restraint_k": HELD.restraint_k, "equilibrate_ps": HELD.equilibrate_ps,
        "strict": HELD.strict,
        "cg": {arm.choice.label: {"files": arm.frames.hashes, "frames": list(arm.frames.inputs.frames.names),
                                  "refine": arm.choice.refine} for arm in job.arms}}


@dataclass(frozen=True)
class _ForceTask:
    """The forces of one set of structures."""

    label: str
    out: Path
    platform: str | None

    @property
    def file(self) -> Path:
        return self.out / "analysis" / draws.slug(self.label) / "forces.npz"


def _evaluate_forces(task: _ForceTask, progress: Progress | None = None) -> None:
    keep(task.file, bead_forces(judging.load_ensemble(task.label, task.out), task.platform, progress))


@dataclass(frozen=True)
class _Job:
    """The work: draws, then analyses, then files."""

    out: Path
    arms: list[_Arm]
    seed: int
    n_samples: int
    temperature_K: float | None
    workers: int
    platform: str | None
    device: str | None
    progress: Progress | None

    def run(self, settings: dict[str, Any]) -> Validation:
        from openmm_backmap.analysis.forces.page import write_page
        from openmm_backmap.analysis.forces.scores import write_forces, write_scores

        inputs = self.arms[0].frames.inputs
        tasks, drawn = self._drawn()
        ensembles = {REFERENCE: inputs.reference, HELD_OUT: inputs.held_out}
        ensembles |= {label: found.ensemble for label, found in drawn.items() if found.ensemble is not None}
        descriptions, forces = self._analysed(ensembles)
        judged = [self._of_atoms(inputs.held_out, descriptions, forces)]
        judged += [self._of_arm(arm, drawn[arm.choice.label], tasks[arm.choice.label], descriptions, forces)
                   for arm in self.arms]
        found = Validation(inputs, descriptions[REFERENCE], forces[REFERENCE],
                           projection(inputs.target).masses is not None, tuple(judged), settings, provenance())
        write_forces(found, self.out)
        write_scores(found, self.out)
        write_page(found, self.out, self.progress)
        return found

    def _drawn(self) -> tuple[dict[str, list[draws.DrawTask]], dict[str, draws.Drawn]]:
        tasks: dict[str, list[draws.DrawTask]] = {}
        for arm in self.arms:
            inputs, label = arm.frames.inputs, arm.choice.label
            file = self.out / "frames" / f"{draws.slug(arm.frames.label)}.npz"
            draws.save_frames(inputs, file)
            tasks[label] = draws.draw_tasks([arm.choice], inputs, self.out / "draws", file, n_samples=self.n_samples,
                                            seed=self.seed, temperature_K=self.temperature_K, platform=self.platform,
                                            device=self.device, settings=HELD)
        undone = [task for own in tasks.values() for task in own if not task.file.exists()]
        run_tasks(draws.draw, undone, self.workers, "backmapping", self.progress)
        return tasks, {arm.choice.label: draws.collect(arm.choice, tasks[arm.choice.label], arm.frames.inputs)
                       for arm in self.arms}

    def _analysed(self, ensembles: dict[str, Ensemble]):
        judging.save_target(self.arms[0].frames.inputs.target, self.out)
        for label, ensemble in ensembles.items():
            judging.save_ensemble(ensemble, label, self.out)
        forces = [_ForceTask(label, self.out, self.platform) for label in ensembles]
        described = [judging.JudgeTask("description", (label,), self.out, self.seed) for label in ensembles]
        for function, tasks, stage in ((_evaluate_forces, forces, "forces"), (judging.judge, described, "describing")):
            run_tasks(function, [task for task in tasks if not task.file.exists()], self.workers, stage, self.progress)
        return ({task.labels[0]: judging.result(task) for task in described},
                {task.label: kept(task.file) for task in forces})

    def _of_atoms(self, held_out: Ensemble, descriptions, forces) -> Judged:
        names = tuple(f"structure {k + 1}" for k in range(len(held_out)))
        return Judged(HELD_OUT, "held out", None, held_out, names, description=descriptions[HELD_OUT],
                      forces=forces[HELD_OUT], **self._compared(forces, HELD_OUT))

    def _of_arm(self, arm: _Arm, drawn: draws.Drawn, tasks, descriptions, forces) -> Judged:
        label, frames = arm.choice.label, arm.frames.inputs.frames
        kind = "in-distribution" if arm.frames.label == IN_DISTRIBUTION else "cg"
        if drawn.ensemble is None:
            return Judged(label, kind, arm.choice, None, frames.names, drawn.failures)
        drawn_rmsd, unsound = _reported(tasks, frames.names)
        chi2, chi2_bm = self._matched(arm, drawn.ensemble, forces)
        return Judged(label, kind, arm.choice, drawn.ensemble, frames.names, drawn.failures, unsound, drawn_rmsd,
                      descriptions[label], forces[label], **self._compared(forces, label), chi2=chi2, chi2_bm=chi2_bm,
                      worst=tuple(find_worst(drawn.ensemble, forces[label], frames.names)))

    def _compared(self, forces: dict[str, BeadForces], label: str) -> dict[str, Any]:
        rng = np.random.default_rng(self.seed)
        return {"rows": compare_forces(forces[REFERENCE], forces[label], rng),
                "frame_scores": frame_scores(forces[REFERENCE], forces[label])}

    def _matched(self, arm: _Arm, ensemble: Ensemble, forces: dict[str, BeadForces]) -> tuple[float, float]:
        """chi^2 and chi^2_BM of the set's force field; NaN without one."""
        own = arm.frames
        if own.system is None:
            return float("nan"), float("nan")
        inputs, frames = own.inputs, np.unique(ensemble.frame)
        boxes = None if inputs.frames.boxes is None else inputs.frames.boxes[frames]
        theirs = predicted(own.system, inputs.frames.beads[frames], boxes, own.order, self.platform)
        reference = inputs.reference
        at_atoms = predicted(own.system, mapped(inputs.target, reference.positions), reference.boxes, own.order,
                             self.platform)
        projected = forces[REFERENCE].forces
        return (float(chi_squared(at_atoms, projected)),
                float(chi_squared_bm(at_atoms, projected, theirs, mean_forces(forces[arm.choice.label]))))


def _reported(tasks: Sequence[draws.DrawTask], names: Sequence[str]) -> tuple[float, tuple[draws.Failure, ...]]:
    """Root mean square distance (nm) of the beads that generators drew from those given, NaN where none is known; and
    the draws that MD cannot start from, with the first reason."""
    distances, unsound = [], []
    for task in tasks:
        data = load_arrays(task.file)
        for report in [] if str(data["error"]) else json.loads(str(data["report"])):
            distances.append(report["bead_rmsd_given"])
            unsound += [draws.Failure(names[task.frame], task.draw + 1, why) for why in report["faults"][:1]]
    return float(np.sqrt(np.mean(np.square(distances)))) if distances else float("nan"), tuple(unsound)
