"""A coarse-grained model run to a trajectory file; a run that was interrupted goes on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from openmm_backmap.analysis.evaluation.inputs import file_hashes
from openmm_backmap.chemistry import Target, match_beads, whole_beads
from openmm_backmap.coarse.blocks import Blocks, Progress
from openmm_backmap.coarse.dynamics import Dynamics, State
from openmm_backmap.coarse.graph import bead_app_topology, bonded_terms
from openmm_backmap.coarse.model import CGModel
from openmm_backmap.coarse.model_text import model_text
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.internal import bond_lengths
from openmm_backmap.geometry.periodic import molecules_into_box
from openmm_backmap.io.readers import TRAJECTORIES, open_cg
from openmm_backmap.io.writers import TrajectoryWriter, check_output, write_structure, write_system


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
    files = output_files(out, settings, overwrite, also=[Path(system)] if system else [])
    target, start = read_beads(model, cg)
    dynamics = Dynamics(model, target, start.box, every_ps=settings.every_ps, temperature_K=settings.temperature_K,
                        platform=platform)
    parts = out.with_name(f".{out.name}.parts")
    blocks = Blocks(parts, settings.n_frames, settings.seed)
    blocks.claim({**asdict(settings), "model": hashlib.sha256(model_text(model).encode()).hexdigest(),
                  "cg": file_hashes([Path(cg)])[0]})
    blocks.run(dynamics, start, progress or (lambda *_: None))
    _write(files, target, dynamics, settings, blocks, overwrite)
    shutil.rmtree(parts)
    return files


def output_files(out: Path, settings: RunSettings, overwrite: bool, *, copies: int = 1,
                 also: Sequence[Path] = ()) -> list[Path]:
    """What a run writes: trajectories, a .gro and ``also``; :class:`InputError`, before any work, if it cannot."""
    if out.suffix.lower() not in TRAJECTORIES:
        raise InputError(f"{out}: unknown ending {out.suffix!r} of a trajectory; known: {', '.join(TRAJECTORIES)}")
    if settings.n_frames < 1:
        raise InputError(f"{settings.ps:g} ps with a frame every {settings.every_ps:g} ps hold no frame")
    trajectories = [out] if copies == 1 else [out.with_name(f"{out.stem}_{k}{out.suffix}")
                                              for k in range(1, copies + 1)]
    files = [*trajectories, out.with_suffix(".gro"), *also]
    for file in files:
        check_output(file, overwrite)
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


def _write(files: list[Path], target: Target, dynamics: Dynamics, settings: RunSettings, blocks: Blocks,
           overwrite: bool) -> None:
    topology, first = bead_app_topology(target), None
    with TrajectoryWriter(files[0], topology, overwrite) as writer:
        for done, beads in enumerate(blocks.frames(), 1):
            inside = molecules_into_box(beads.astype(float), dynamics.box, target.molecule_of_bead)
            first = inside if first is None else first
            writer.write(inside, dynamics.box, done * settings.every_ps)
    write_structure(files[1], topology, first, dynamics.box, overwrite=overwrite)
    for file in files[2:]:
        write_system(file, dynamics.system, overwrite=overwrite)
