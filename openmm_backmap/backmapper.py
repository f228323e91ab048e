"""The façade: coarse-grained topology and positions in, atoms or a running simulation out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_backmap import __version__
from openmm_backmap.chemistry import (
    Target,
    as_cg_topology,
    create_system,
    match_beads,
    parse_aliases,
    whole_beads,
    with_box,
)
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.periodic import reduce_box
from openmm_backmap.io.readers import CGFrame, CGSource, open_cg
from openmm_backmap.model_file import ModelFile
from openmm_backmap.refine import Refiner, RefineReport, RefineSettings
from openmm_backmap.units import to_kelvin, to_nm, to_per_ps, to_ps

if TYPE_CHECKING:
    from openmm import app

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

    def save(self, path: str | Path, overwrite: bool = False) -> None:
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


class Backmapper:
    """Backmaps coarse-grained structures with one model.

    Parameters
    ----------
    model : str, Path or ModelFile
        Shipped name (``sps``), path of a model file, or a model already loaded; or, with ``chemistry``, a family that
        needs no training or has a shipped model of it: ``random``, ``geometric``, ``fragment``.
    chemistry : str or Path, optional
        Shipped name (``sps``, ``octane``, ``cumene``) or file, for a family. Models bring their own; those of family
        ``dbm`` may be applied to another.
    platform : str, optional
        OpenMM platform of the refinement, and of generators that minimise; the fastest that works by default.
    device : str, optional
        Torch device of the generator; ``cuda`` where there is one by default.

    Examples
    --------
    >>> from openmm_backmap import Backmapper
    >>> atoms = Backmapper("sps").backmap("examples/sps_melt.gro", n_samples=4, seed=1)  # doctest: +SKIP
    >>> atoms.save("aa.pdb")  # doctest: +SKIP
    """

    def __init__(self, model: str | Path | ModelFile = "sps", chemistry: str | Path | None = None, *,
                 platform: str | None = None, device: str | None = None):
        from openmm_backmap.energy.platforms import best_platform
        from openmm_backmap.generators.base import find_model, pick_device

        self.model = find_model(model, chemistry)
        self.platform = best_platform(platform)
        self.device = pick_device(device)

    @cached_property
    def generator(self):
        """The model's generator, loaded on first use."""
        from openmm_backmap.generators.base import load_generator

        return load_generator(self.model, self.device, self.platform.getName())

    def backmap(self, topology, positions=None, box=None, *, n_samples: int = 1, seed: int | None = None,
                refine: str | None = None, temperature=None, aliases: Sequence[str] | None = None,
                project: bool = True, progress: Progress | None = None) -> Backmapped:
        """Draw atoms for one frame of beads.

        Parameters
        ----------
        topology : openmm.app.Topology, mdtraj.Topology, mdtraj.Trajectory, str or Path
            The coarse-grained system. Of a file or trajectory, the first frame is taken.
        positions : array or Quantity, shape (n_beads, 3), nm, optional
            Bead positions in the topology's order; needed with a bare topology.
        box : array or Quantity, shape (3, 3), nm, optional
            Box vectors; the topology's or file's own by default.
        n_samples : int
            Independent draws.
        seed : int, optional
            The same seed, model and platform give the same atoms (OpenMM's CPU platform then runs on one thread);
            fresh by default.
        refine : {"equilibrate", "minimize", "none"}, optional
            By default what suits the model: ``"equilibrate"``, but ``"none"`` for the baselines (``random``,
            ``geometric``, ``fragment``), whose own minimisation is the published one. With ``"none"`` nothing is
            refused: look at ``diagnostics``.
        temperature : float or Quantity, K, optional
            The chemistry's own by default.
        aliases : sequence of str, optional
            ``OLD=NEW`` renamings of residues or beads of the input, or files of them.
        project : bool
            Move the drawn atoms so that beads and bond lengths are met exactly; without it, ``refine`` must be
            ``"none"`` and the atoms are left as drawn.
        progress : callable, optional
            Called as ``progress(stage, done, total)``.

        Raises
        ------
        InputError, ChemistryError
            The input cannot be read or does not match the model's chemistry.
        RefinementError
            No state was reached that MD can start from.
        """
        source = _as_source(topology, positions, box)
        frame = next(source.frames(0, 0))
        settings = self._settings(refine, temperature)
        job = _Job(self, source, frame, settings, aliases, project, seed)
        return job.run(frame, n_samples, progress)

    def frames(self, trajectory, topology=None, *, first: int = 0, last: int | None = None, stride: int = 1,
               n_samples: int = 1, seed: int | None = None, refine: str | None = None, temperature=None,
               aliases: Sequence[str] | None = None, project: bool = True,
               progress: Progress | None = None) -> Iterator[Backmapped]:
        """Backmap a trajectory frame by frame; nothing is kept, so it may be longer than memory.

        Parameters
        ----------
        trajectory : str, Path, mdtraj.Trajectory or CGSource
        topology : str or Path, optional
            The file that names the beads, where the trajectory file does not.
        first, last, stride : int
            Frames ``first``, ``first + stride``, ... up to and including ``last``, counted from 0.

        The others are those of :meth:`backmap`; every frame and sample has random numbers of its own.
        """
        source = _as_source(trajectory, file_topology=topology)
        job, settings = None, self._settings(refine, temperature)
        for frame in source.frames(first, last, stride):
            job = job or _Job(self, source, frame, settings, aliases, project, seed)
            yield job.run(frame, n_samples, progress)

    def simulation(self, topology, positions=None, box=None, *, temperature=None, timestep=0.002, friction=1.0,
                   equilibrate=None, seed: int | None = None, aliases: Sequence[str] | None = None,
                   progress: Progress | None = None) -> app.Simulation:
        """An atomistic simulation of the beads' system, ready to step.

        The atoms are drawn, minimised and equilibrated with the beads restrained; the System returned has no
        restraints.

        Parameters
        ----------
        topology, positions, box, temperature, seed, aliases, progress
            As for :meth:`backmap`.
        timestep : float or Quantity, ps
        friction : float or Quantity, 1/ps
        equilibrate : float or Quantity, ps, optional
            Length of the restrained equilibration.
        """
        from openmm import LangevinMiddleIntegrator, app

        source = _as_source(topology, positions, box)
        frame = next(source.frames(0, 0))
        settings = self._settings("equilibrate", temperature)
        if equilibrate is not None:
            settings = replace(settings, equilibrate_ps=to_ps(equilibrate))
        job = _Job(self, source, frame, settings, aliases, True, seed)
        atoms = job.run(frame, 1, progress)
        integrator = LangevinMiddleIntegrator(settings.temperature_K, to_per_ps(friction), to_ps(timestep))
        integrator.setRandomNumberSeed(job.next_seed())
        simulation = app.Simulation(atoms.topology, create_system(atoms.target, atoms.box), integrator, self.platform)
        if atoms.box is not None:
            simulation.context.setPeriodicBoxVectors(*atoms.box)
        simulation.context.setPositions(atoms.positions[0])
        simulation.context.setVelocities(atoms.velocities[0])
        return simulation

    def _settings(self, refine: str | None, temperature) -> RefineSettings:
        from openmm_backmap.generators.base import default_refine

        refine = default_refine(self.model) if refine is None else refine
        kelvin = self.model.chemistry.temperature_K if temperature is None else to_kelvin(temperature)
        return RefineSettings(mode=refine, temperature_K=kelvin)


class _Job:
    """One coarse-grained topology: matched with the model's chemistry once, then drawn and refined frame by frame."""

    def __init__(self, backmapper: Backmapper, source: CGSource, frame: CGFrame, settings, aliases, project: bool,
                 seed: int | None):
        if not project and settings.mode != "none":
            raise InputError(f"refinement ({settings.mode}) starts from atoms that meet their beads: without "
                             "projection, refine must be none")
        self.backmapper, self.project = backmapper, project
        self.settings = settings = replace(settings, reproducible=seed is not None)
        self.seed = int(np.random.SeedSequence().entropy % _SEEDS) if seed is None else seed
        self.rng = np.random.default_rng(self.seed)
        self.match = match_beads(backmapper.model.chemistry, source.topology, frame.positions, frame.box,
                                 aliases=parse_aliases(aliases or ()), where=str(source.path))
        self.where = str(source.path)
        self.refiner = Refiner(self.match.target, frame.box, settings, backmapper.platform.getName())

    def next_seed(self) -> int:
        """A seed for a library that keeps random numbers of its own; all of them follow from the one seed."""
        return int(self.rng.integers(1, _SEEDS))

    def run(self, frame: CGFrame, n_samples: int, progress: Progress | None) -> Backmapped:
        if n_samples < 1:
            raise InputError(f"n_samples is {n_samples}; at least 1 is needed")
        if not np.isfinite(frame.positions).all():
            raise InputError(f"{self.where}: a frame has positions that are not finite")
        target, box = self.match.target, frame.box
        beads = whole_beads(target, frame.positions[self.match.bead_index], box)
        positions = self.backmapper.generator.generate(target, beads, box, n_samples=n_samples, rng=self.rng,
                                                       progress=progress)
        velocities, reports = None, ()
        if self.project:
            refined = [self._refine(drawn, beads, box, progress) for drawn in positions]
            positions, reports = np.stack([r.positions for r in refined]), tuple(r.report for r in refined)
            if refined[0].velocities is not None:
                velocities = np.stack([r.velocities for r in refined])
        return Backmapped(
            topology=with_box(copy.deepcopy(target.topology), box), positions=positions, velocities=velocities, box=box,
            diagnostics=reports, provenance=self._provenance(), target=target, beads=beads, time_ps=frame.time_ps)

    def _refine(self, drawn: np.ndarray, beads: np.ndarray, box: np.ndarray | None, progress: Progress | None):
        self.refiner.settings = replace(self.settings, seed=self.next_seed())
        return self.refiner.refine(drawn, beads, box, progress)

    def _provenance(self) -> dict[str, Any]:
        import openmm
        import torch

        model, settings = self.backmapper.model, self.settings
        return {
            "openmm_backmap": __version__, "openmm": openmm.__version__, "torch": torch.__version__,
            "input": self.where, "model": model.name, "model_sha256": model.sha256, "family": model.family,
            "chemistry": model.chemistry.name, "seed": self.seed, "refine": settings.mode,
            "temperature_K": settings.temperature_K, "projected": self.project,
            "platform": self.backmapper.platform.getName(), "device": self.backmapper.device}


def _as_source(topology, positions=None, box=None, file_topology=None) -> CGSource:
    """Anything that a user may hand in as a topology, with or without positions, as a source of frames."""
    if isinstance(topology, CGSource):
        return topology
    if isinstance(topology, (str, Path)):
        source = open_cg(topology, file_topology)
        if positions is None and box is None:
            return source
        frame = next(source.frames(0, 0))
        names, own_positions, own_box = source.topology, frame.positions, frame.box
    elif hasattr(topology, "xyz") and hasattr(topology, "unitcell_vectors"):
        if positions is None and box is None:
            return _in_memory(topology.topology, topology.xyz, topology.unitcell_vectors, topology.time)
        names, own_positions = topology.topology, topology.xyz[0]
        own_box = None if topology.unitcell_vectors is None else topology.unitcell_vectors[0]
    else:
        names, own_positions = topology, None
        own_box = topology.getPeriodicBoxVectors() if hasattr(topology, "getPeriodicBoxVectors") else None
    if positions is None and own_positions is None:
        raise InputError("a topology holds no positions: give them as the second argument")
    positions = to_nm(own_positions if positions is None else positions)
    box = own_box if box is None else box
    return _in_memory(names, positions[None], None if box is None else to_nm(box)[None])


def _in_memory(topology, positions, boxes, times=None) -> CGSource:
    """A source of the frames ``positions`` (n_frames, n_beads, 3) in ``boxes`` (n_frames, 3, 3), nm."""
    def read(first: int, stop: int, stride: int) -> Iterator[CGFrame]:
        for k in range(first, stop, stride):
            yield CGFrame(np.asarray(positions[k], dtype=float), None if boxes is None else reduce_box(boxes[k]),
                          None if times is None else float(times[k]))

    return CGSource(Path("input"), as_cg_topology(topology), len(positions), read)
