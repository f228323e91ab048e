"""A coarse-grained model run to a trajectory file; a run that was interrupted goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from openmm_backmap.analysis.evaluation.inputs import file_hashes
from openmm_backmap.analysis.kept import load_arrays, save_arrays
from openmm_backmap.chemistry import Target, match_beads, whole_beads
from openmm_backmap.coarse.dynamics import Dynamics, State
from openmm_backmap.coarse.graph import bead_app_topology, bonded_terms
from openmm_backmap.coarse.model import CGModel
from openmm_backmap.coarse.model_text import model_text
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.internal import bond_lengths
from openmm_backmap.geometry.periodic import molecules_into_box
from openmm_backmap.io.readers import TRAJECTORIES, open_cg
from openmm_backmap.io.writers import TrajectoryWriter, check_output, replacing, write_structure, write_system

# Frames of a block: what an interruption may cost. Each block has noise of its own, so that a run that was interrupted
# has the same frames as one that was not.
_BLOCK = 50
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunSettings:
    """One run.

    Parameters
    ----------
    ps, every_ps : float
        Length, and time between frames.
    temperature_K : float or None
        None takes the model's.
    seed : int
    """

    ps: float = 100.0
    every_ps: float = 1.0
    temperature_K: float | None = None
    seed: int = 1

    @property
    def n_frames(self) -> int:
        return round(self.ps / self.every_ps)


def run_model(model: CGModel, cg: str | Path, out: str | Path, settings: RunSettings = RunSettings(), *,
              system: str | Path | None = None, platform: str | None = None, overwrite: bool = False,
              progress: Progress | None = None) -> list[Path]:
    """Run ``model`` from the first frame of ``cg``, and write its trajectory and, beside it, a .gro of its beads.

    Parameters
    ----------
    model : CGModel
    cg : path
        Beads of any molecules of the model's chemistry (.gro, .pdb, .cif), in a periodic box.
    out : path
        The trajectory (.xtc, .trr, .dcd); the .gro has its name and tells the beads, in the trajectory's order.
    settings : RunSettings
    system : path, optional
        Where to write the ``openmm.System`` as XML.
    platform : str, optional
        OpenMM platform.
    overwrite : bool
    progress : callable, optional
        ``progress(stage, done, total)``.

    Returns
    -------
    list of Path
        What was written.
    """
    out = Path(out)
    if out.suffix.lower() not in TRAJECTORIES:
        raise InputError(f"{out}: unknown ending {out.suffix!r} of a trajectory; known: {', '.join(TRAJECTORIES)}")
    if settings.n_frames < 1:
        raise InputError(f"{settings.ps:g} ps with a frame every {settings.every_ps:g} ps hold no frame")
    files = [out, out.with_suffix(".gro"), *([Path(system)] if system else [])]
    for file in files:
        check_output(file, overwrite)
    target, start = read_beads(model, cg)
    dynamics = Dynamics(model, target, start.box, every_ps=settings.every_ps, temperature_K=settings.temperature_K,
                        platform=platform)
    parts = out.with_name(f".{out.name}.parts")
    _claim(parts, {**asdict(settings), "model": hashlib.sha256(model_text(model).encode()).hexdigest(),
                   "cg": file_hashes([Path(cg)])[0]})
    _run(dynamics, start, settings, parts, progress or (lambda *_: None))
    _write(files, target, dynamics, settings, parts, overwrite)
    shutil.rmtree(parts)
    return files


def read_beads(model: CGModel, cg: str | Path) -> tuple[Target, State]:
    """The molecules of the first frame of ``cg``, and its beads in their order, whole."""
    source = open_cg(cg)
    frame = next(source.frames())
    if frame.box is None:
        raise InputError(f"{cg}: no periodic box; a CG model runs in one")
    match = match_beads(model.chemistry, source.topology, frame.positions, frame.box, where=str(cg))
    beads = whole_beads(match.target, frame.positions[match.bead_index], frame.box)
    for name, members in bonded_terms(match.target).items():
        term = next((t for t in model.of_kind("bond") if t.name == name), None)
        longest = bond_lengths(beads[members]).max() if term else 0.0
        if term and longest > term.x[-1]:
            raise InputError(f"{cg}: a {name} is {longest:.3f} nm long; the model's table ends at {term.x[-1]:.3f} nm")
    return match.target, State(beads, frame.box)


def _claim(parts: Path, wanted: dict) -> None:
    record = parts / "settings.json"
    if record.exists() and json.loads(record.read_text()) != wanted:
        raise InputError(f"{parts} belongs to an interrupted run of another model, start or settings; give the same "
                         "command to go on with it, or remove that folder")
    parts.mkdir(exist_ok=True)
    with replacing(record, overwrite=True) as part:
        part.write_text(json.dumps(wanted, indent=1))


def _blocks(settings: RunSettings) -> list[int]:
    """Numbers of frames."""
    whole, rest = divmod(settings.n_frames, _BLOCK)
    return [_BLOCK] * whole + ([rest] if rest else [])


def _block_file(parts: Path, k: int) -> Path:
    return parts / f"block_{k:05d}.npz"


def _run(dynamics: Dynamics, start: State, settings: RunSettings, parts: Path, progress: Progress) -> None:
    state, done = start, 0
    progress("dynamics, frames", 0, settings.n_frames)
    for k, n in enumerate(_blocks(settings)):
        file = _block_file(parts, k)
        if file.exists():
            kept = load_arrays(file)
            state, done = State(kept["positions"], start.box, kept["velocities"]), done + n
            continue
        dynamics.start(state, np.random.default_rng([settings.seed, k]))
        frames = []
        for state in dynamics.frames(n):
            frames.append(state.positions.astype(np.float32))
            done += 1
            progress("dynamics, frames", done, settings.n_frames)
        save_arrays(file, frames=np.array(frames), positions=state.positions, velocities=state.velocities)


def _write(files: list[Path], target: Target, dynamics: Dynamics, settings: RunSettings, parts: Path,
           overwrite: bool) -> None:
    topology, done, first = bead_app_topology(target), 0, None
    with TrajectoryWriter(files[0], topology, overwrite) as writer:
        for k, _ in enumerate(_blocks(settings)):
            for beads in load_arrays(_block_file(parts, k))["frames"]:
                done += 1
                inside = molecules_into_box(beads.astype(float), dynamics.box, target.molecule_of_bead)
                first = inside if first is None else first
                writer.write(inside, dynamics.box, done * settings.every_ps)
    write_structure(files[1], topology, first, dynamics.box, overwrite=overwrite)
    for file in files[2:]:
        write_system(file, dynamics.system, overwrite=overwrite)
