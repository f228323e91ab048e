"""The façade: coarse-grained topology and positions in, atoms or a running simulation out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.chemistry import as_cg_topology, create_system, with_solvent
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.periodic import reduce_box
from openmm_backmap.io.readers import CGFrame, CGSource, open_cg
from openmm_backmap.job import Backmapped, Job, JobSpec, Progress, fresh_seed
from openmm_backmap.model_file import ModelFile
from openmm_backmap.refine import RefineSettings
from openmm_backmap.trajectory import KeptFrames, backmap_frames
from openmm_backmap.units import to_kelvin, to_nm, to_per_ps, to_ps
from openmm_backmap.workers import DomainWorkers

if TYPE_CHECKING:
    from openmm import app

    from openmm_backmap.follow import Stretch


class Backmapper:
    """Backmaps coarse-grained structures with one model.

    Parameters
    ----------
    model : str, Path or ModelFile
        Shipped name (``sps``), path of a model file, or a model already loaded; or, with ``chemistry``, a family that
        needs no training or has a shipped model of it: ``random``, ``geometric``, ``fragment``.
    chemistry : str or Path, optional
        Shipped name (``sps``, ``octane``, ``cumene``, ``tmbt``) or file, for a family. Models bring their own; those of
        family ``dbm`` may be applied to another.
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
        self._given = platform, device

    @cached_property
    def generator(self):
        """The model's generator, loaded on first use."""
        from openmm_backmap.generators.base import load_generator

        return load_generator(self.model, self.device, self.platform.getName())

    def backmap(self, topology, positions=None, box=None, *, n_samples: int = 1, seed: int | None = None,
                refine: str | RefineSettings | None = None, temperature=None, aliases: Sequence[str] | None = None,
                project: bool = True, keep: str | Path | None = None, client=None,
                progress: Progress | None = None) -> Backmapped:
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
            refused: look at ``diagnostics``. Settings say more, but ``temperature`` and ``seed`` are those given here.
        temperature : float or Quantity, K, optional
            The chemistry's own by default.
        aliases : sequence of str, optional
            ``OLD=NEW`` renamings of residues or beads of the input, or files of them.
        project : bool
            Move the drawn atoms so that beads and bond lengths are met exactly; without it, ``refine`` must be
            ``"none"`` and the atoms are left as drawn.
        keep : path, optional
            Folder in which samples are kept: the same call goes on after an interruption, or adds to the samples that
            are there. It may be removed when all is done.
        client : dask.distributed.Client, optional
            Samples are tasks of its workers, or, of one sample, domains of the melt (family ``flow``); the atoms are
            those of a run without.
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
        return next(self.frames(source, last=0, n_samples=n_samples, seed=seed, refine=refine, temperature=temperature,
                                aliases=aliases, project=project, keep=keep, client=client, progress=progress))

    def frames(self, trajectory, topology=None, *, first: int = 0, last: int | None = None, stride: int = 1,
               n_samples: int = 1, seed: int | None = None, refine: str | None = None, temperature=None,
               aliases: Sequence[str] | None = None, project: bool = True, keep: str | Path | None = None, client=None,
               progress: Progress | None = None) -> Iterator[Backmapped]:
        """Backmap a trajectory frame by frame; nothing stays in memory, so it may be longer than that.

        Parameters
        ----------
        trajectory : str, Path, mdtraj.Trajectory or CGSource
        topology : str or Path, optional
            The file that names the beads, where the trajectory file does not.
        first, last, stride : int
            Frames ``first``, ``first + stride``, ... up to and including ``last``, counted from 0.
        keep : path, optional
            Folder in which samples of frames are kept: the same call goes on after an interruption. It may be removed
            when all is done.
        client : dask.distributed.Client, optional
            Samples of frames are tasks of its workers; the atoms are those of a run without.

        The others are those of :meth:`backmap`; every frame and sample has random numbers of its own.
        """
        source = _as_source(trajectory, file_topology=topology)
        n_frames = len(range(source.n_frames)[first:None if last is None else last + 1:stride])
        if self.coherent and n_frames > 1:
            followed = self.follow([source], first=first, last=last, stride=stride, n_samples=n_samples, seed=seed,
                                   refine=refine, temperature=temperature, aliases=aliases, project=project, keep=keep,
                                   client=client)
            yield from (part.backmapped(k) for parts in followed for part in parts for k in range(len(part.frames)))
            return
        job, kept = self._claimed(KeptFrames, keep, [source], first, self._settings(refine, temperature, seed), seed,
                                  aliases, project)
        frames = ((first + k * stride, frame) for k, frame in enumerate(source.frames(first, last, stride)))
        workers = None
        if client is not None and n_frames * n_samples == 1:
            workers, client = self._workers(client, job), None
        yield from backmap_frames(job, frames, n_samples, kept=kept, client=client, workers=workers, progress=progress)

    @property
    def coherent(self) -> bool:
        """Whether the model draws each frame of a trajectory given the one before."""
        from openmm_backmap.generators.base import FAMILIES

        return getattr(FAMILIES.get(self.model.family), "coherent", False)

    def follow(self, trajectories: Sequence, topology=None, *, first: int = 0, last: int | None = None, stride: int = 1,
               n_samples: int = 1, seed: int | None = None, refine: str | None = None, temperature=None,
               aliases: Sequence[str] | None = None, project: bool = True, keep: str | Path | None = None,
               client=None) -> Iterator[list[Stretch]]:
        """Backmap trajectories with a coherent model: each frame given the one before, all trajectories side by side.

        Parameters
        ----------
        trajectories : sequence of str, Path, mdtraj.Trajectory or CGSource
            Independent of each other, of one topology. The more there are, the better the machine is used.
        keep : path, optional
            Folder in which stretches of frames are kept: the same call goes on after an interruption.

        The others are those of :meth:`frames`, but there is neither a temperature to choose nor workers. With
        ``refine="equilibrate"`` (the default of family ``coherent-beads``) every frame goes through 0.12 ps of dynamics
        with its beads held, and the result is what the next frame is given; ``"minimize"`` is refused.

        Yields
        ------
        list of :class:`openmm_backmap.follow.Stretch`
            The next frames of each trajectory that has not ended.

        Raises
        ------
        InputError
            The model draws frames by themselves, the trajectories are not of one topology, or what only models that
            draw frames by themselves can do is asked for.
        RefinementError
            No atoms that dynamics can start from were found for a frame.
        """
        from openmm_backmap.follow import KeptStretches, follow

        if client is not None:
            raise InputError(f"{self.model.name} draws each frame given the one before, which no cluster can do at "
                             "once: leave it out; several trajectories run side by side here")
        if temperature is not None:
            raise InputError("temperature is for models that draw every frame by itself: leave it out")
        sources = [_as_source(trajectory, file_topology=topology) for trajectory in trajectories]
        for source in sources[1:]:
            if (source.topology.bead_names, source.topology.residue_names) != (
                    sources[0].topology.bead_names, sources[0].topology.residue_names):
                raise InputError(f"{source.path} holds other beads than {sources[0].path}: trajectories that are "
                                 "backmapped together are of one topology")
        job, kept = self._claimed(KeptStretches, keep, sources, first, self._settings(refine, None, seed), seed,
                                  aliases, project)
        yield from follow(job, [source.frames(first, last, stride) for source in sources], n_samples, kept=kept)

    def _claimed(self, kind, keep, sources: Sequence[CGSource], first: int, settings: RefineSettings, seed: int | None,
                 aliases: Sequence[str] | None, project: bool):
        """The job for sources of one topology, and the folder of what is kept of it."""
        kept = None if keep is None else kind(keep)
        job = self._job(sources[0], first, settings, kept.seed() if kept and seed is None else seed, aliases, project,
                        where=", ".join(str(source.path) for source in sources))
        if kept:
            kept.claim(job.spec)
        return job, kept

    def _workers(self, client, job: Job) -> DomainWorkers:
        if not getattr(self.generator, "divides", False):
            raise InputError(f"models of family {self.model.family} draw one sample of one frame in one piece, which "
                             "no cluster makes faster: leave it out, or draw several")
        return DomainWorkers(client, job.spec)

    def simulation(self, topology, positions=None, box=None, *, temperature=None, timestep=0.002, friction=1.0,
                   equilibrate=None, seed: int | None = None, aliases: Sequence[str] | None = None,
                   progress: Progress | None = None) -> app.Simulation:
        """An atomistic simulation of the beads' system, ready to step.

        The atoms are drawn, minimised and equilibrated with the beads restrained; the System returned has no
        restraints, and, without a box, the implicit solvent that the chemistry names.

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

        settings = self._settings("equilibrate", temperature, seed)
        if equilibrate is not None:
            settings = replace(settings, equilibrate_ps=to_ps(equilibrate))
        job = self._job(_as_source(topology, positions, box), 0, settings, seed, aliases)
        atoms = job.run(job.spec.first, progress=progress)
        integrator = LangevinMiddleIntegrator(settings.temperature_K, to_per_ps(friction), to_ps(timestep))
        integrator.setRandomNumberSeed(job.next_seed())
        system = with_solvent(create_system(atoms.target, atoms.box), atoms.target, atoms.box)
        simulation = app.Simulation(atoms.topology, system, integrator, self.platform)
        if atoms.box is not None:
            simulation.context.setPeriodicBoxVectors(*atoms.box)
        simulation.context.setPositions(atoms.positions[0])
        simulation.context.setVelocities(atoms.velocities[0])
        return simulation

    def _settings(self, refine: str | RefineSettings | None, temperature, seed: int | None) -> RefineSettings:
        from openmm_backmap.generators.base import default_refine

        refine = default_refine(self.model) if refine is None else refine
        settings = refine if isinstance(refine, RefineSettings) else RefineSettings(mode=refine)
        kelvin = self.model.chemistry.temperature_K if temperature is None else to_kelvin(temperature)
        return replace(settings, temperature_K=kelvin, reproducible=seed is not None)

    def _job(self, source: CGSource, first: int, settings: RefineSettings, seed: int | None,
             aliases: Sequence[str] | None, project: bool = True, where: str | None = None) -> Job:
        spec = JobSpec(self.model, source.topology, next(source.frames(first, first)), where or str(source.path),
                       settings, fresh_seed() if seed is None else seed, tuple(aliases or ()), project, *self._given)
        return Job(spec, self.generator)


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
