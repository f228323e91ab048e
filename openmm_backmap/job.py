"""What backmaps the frames of one coarse-grained system; a plain description of it travels to other processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_backmap import __version__
from openmm_backmap.chemistry import CGTopology, Target, match_beads, parse_aliases, whole_beads, with_box
from openmm_backmap.errors import InputError
from openmm_backmap.io.frames import CGFrame
from openmm_backmap.model_file import ModelFile
from openmm_backmap.refine import Refiner, RefineReport, RefineSettings

if TYPE_CHECKING:
    from openmm import app

    from openmm_backmap.sampling.domains import Workers

Progress = Callable[[str, int, int], None]
_SEEDS = 2**31 - 1


@dataclass(frozen=True)
class Backmapped:
    """Atoms for one frame of beads.

    Attributes
    ----------
    topology : openmm.app.Topology
        Atomistic, with the frame's box.
    positions : ndarray, shape (n_samples, n_atoms, 3), nm
    velocities : ndarray, shape (n_samples, n_atoms, 3), nm/ps, or None
        Only after equilibration.
    box : ndarray, shape (3, 3), nm, or None
    diagnostics : tuple of RefineReport
        Energies, forces and checks, one entry a sample; empty where atoms were left as drawn.
    provenance : dict
        Versions, model and its hash, seed, settings.
    target : Target
        What was placed: types, owner beads, mapping.
    beads : ndarray, shape (n_beads, 3), nm
        The beads of whole molecules, in target order.
    time_ps : float or None
    """

    topology: app.Topology
    positions: np.ndarray
    velocities: np.ndarray | None
    box: np.ndarray | None
    diagnostics: tuple[RefineReport, ...]
    provenance: dict[str, Any]
    target: Target = field(repr=False)
    beads: np.ndarray = field(repr=False)
    time_ps: float | None = None

    def save(self, path, overwrite: bool = False) -> None:
        """Write the atoms; the ending chooses the format, several samples become frames or models."""
        from openmm_backmap.io.writers import write_structure

        write_structure(path, self.topology, self.positions, self.box, overwrite=overwrite)

    def state(self, system, sample: int = 0):
        """The ``openmm.State`` of one sample in ``system``: positions, velocities and box."""
        from openmm import Context, Platform, VerletIntegrator

        context = Context(system, VerletIntegrator(0.001), Platform.getPlatformByName("Reference"))
        if self.box is not None:
            context.setPeriodicBoxVectors(*self.box)
        context.setPositions(self.positions[sample])
        if self.velocities is not None:
            context.setVelocities(self.velocities[sample])
        return context.getState(positions=True, velocities=True, parameters=True)


@dataclass(frozen=True)
class Drawn:
    """One sample of one frame, refined: what travels between processes, and what is kept.

    Attributes
    ----------
    positions : ndarray, shape (n_atoms, 3), nm
    velocities : ndarray, shape (n_atoms, 3), nm/ps, or None
    report : RefineReport or None
        None where atoms were left as drawn.
    provenance : dict
    """

    positions: np.ndarray
    velocities: np.ndarray | None
    report: RefineReport | None
    provenance: dict[str, Any]


@dataclass(frozen=True)
class JobSpec:
    """All that decides the atoms of any frame; it can be sent to another process.

    Attributes
    ----------
    model : ModelFile
    topology : CGTopology
    first : CGFrame
        The first frame, by which beads are matched.
    where : str
        What messages call the input.
    settings : RefineSettings
    seed : int
    aliases : tuple of str
    project : bool
    platform, device : str or None
        None takes the best of the machine that does the work.
    """

    model: ModelFile
    topology: CGTopology
    first: CGFrame
    where: str
    settings: RefineSettings
    seed: int
    aliases: tuple[str, ...] = ()
    project: bool = True
    platform: str | None = None
    device: str | None = None

    def __post_init__(self):
        if not self.project and self.settings.mode != "none":
            raise InputError(f"refinement ({self.settings.mode}) starts from atoms that meet their beads: without "
                             "projection, refine must be none")


def fresh_seed() -> int:
    """A seed from the system's entropy."""
    return int(np.random.SeedSequence().entropy % _SEEDS)


class Job:
    """One coarse-grained topology: matched with the model's chemistry once, then drawn and refined frame by frame.

    Parameters
    ----------
    spec : JobSpec
    generator : Generator, optional
        That of the model, where it is loaded already.
    """

    def __init__(self, spec: JobSpec, generator=None):
        from openmm_backmap.energy.platforms import best_platform
        from openmm_backmap.generators.base import load_generator, pick_device

        self.spec, self.device = spec, pick_device(spec.device)
        self.platform = best_platform(spec.platform).getName()
        self.match = match_beads(spec.model.chemistry, spec.topology, spec.first.positions, spec.first.box,
                                 aliases=parse_aliases(spec.aliases), where=spec.where)
        self.refiner = Refiner(self.target, spec.first.box, spec.settings, self.platform)
        self.generator = generator or load_generator(spec.model, self.device, self.platform)
        self.rng = np.random.default_rng(spec.seed)

    @property
    def target(self) -> Target:
        return self.match.target

    def next_seed(self) -> int:
        """A seed for a library that keeps random numbers of its own; all of them follow from the one seed."""
        return int(self.rng.integers(1, _SEEDS))

    def run(self, frame: CGFrame, number: int = 0, n_samples: int = 1, progress: Progress | None = None) -> Backmapped:
        """Backmap a frame; every sample of every frame ``number`` has random numbers of its own, whoever draws it."""
        return self.gathered(frame, [self.draw(frame, number, k, progress) for k in range(n_samples)])

    def draw(self, frame: CGFrame, number: int, sample: int, progress: Progress | None = None,
             workers: Workers | None = None) -> Drawn:
        """One sample of a frame; with ``workers``, they draw domains of it."""
        beads = self.beads(frame)
        self.rng = np.random.default_rng([self.spec.seed, number, sample])
        divided = {"workers": workers} if workers else {}
        drawn = self.generator.generate(self.target, beads, frame.box, n_samples=1, rng=self.rng, progress=progress,
                                        **divided)[0]
        if not self.spec.project:
            return Drawn(drawn, None, None, self.provenance())
        self.refiner.settings = replace(self.spec.settings, seed=self.next_seed())
        refined = self.refiner.refine(drawn, beads, frame.box, progress)
        return Drawn(refined.positions, refined.velocities, refined.report, self.provenance())

    def gathered(self, frame: CGFrame, samples: Sequence[Drawn]) -> Backmapped:
        """The samples of a frame, whoever drew them."""
        if not samples:
            raise InputError("n_samples is 0; at least 1 is needed")
        moving = samples[0].velocities is not None
        return Backmapped(
            topology=self.topology(frame.box), positions=np.stack([one.positions for one in samples]),
            velocities=np.stack([one.velocities for one in samples]) if moving else None, box=frame.box,
            diagnostics=tuple(one.report for one in samples if one.report), provenance=samples[0].provenance,
            target=self.target, beads=self.beads(frame), time_ps=frame.time_ps)

    def beads(self, frame: CGFrame) -> np.ndarray:
        """Beads (n_beads, 3), nm, of whole molecules in target order."""
        return whole_beads(self.target, frame.positions[self.match.bead_index], frame.box)

    def topology(self, box: np.ndarray | None) -> app.Topology:
        """The atomistic topology, with a box."""
        return with_box(self.target.new_topology(), box)

    def provenance(self) -> dict[str, Any]:
        """Versions, model and settings."""
        import openmm
        import torch

        model, settings = self.spec.model, self.spec.settings
        return {
            "openmm_backmap": __version__, "openmm": openmm.__version__, "torch": torch.__version__,
            "input": self.spec.where, "model": model.name, "model_sha256": model.sha256, "family": model.family,
            "chemistry": model.chemistry.name, "seed": self.spec.seed, "refine": settings.mode,
            "temperature_K": settings.temperature_K, "projected": self.spec.project,
            "platform": self.platform, "device": self.device}
