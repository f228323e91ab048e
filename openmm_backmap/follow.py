"""Trajectories backmapped by a coherent model: each frame given the one before, many trajectories at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from openmm_backmap.errors import InputError, RefinementError
from openmm_backmap.geometry.hydrogens import with_ordered_hydrogens
from openmm_backmap.io.frames import CGFrame
from openmm_backmap.io.writers import replacing
from openmm_backmap.job import Backmapped, Drawn, Job
from openmm_backmap.refine.batches import ExactBatch
from openmm_backmap.refine.held import HeldDynamics
from openmm_backmap.trajectory import KeptFrames, digest

#: frames of each trajectory that are in memory at a time; fewer where a generator says so by its ``stretch``
STRETCH = 200
# Draws of a frame whose atoms dynamics cannot start from.
_TRIES = 10


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames of one trajectory.

    Attributes
    ----------
    trajectory : int
    frames : tuple of CGFrame
    positions : ndarray, shape (n_samples, n_frames, n_atoms, 3), nm
        Whole molecules.
    n_strained : int
        Frames (of all samples) whose atoms stayed strained in every draw: their beads may leave no room. Nothing is
        looked at without refinement.
    """

    trajectory: int
    frames: tuple[CGFrame, ...]
    positions: np.ndarray
    n_strained: int
    _job: Job = field(repr=False)

    def backmapped(self, k: int) -> Backmapped:
        """Frame ``k`` with its topology and all else that is known of it."""
        provenance = self._job.provenance()
        return self._job.gathered(self.frames[k], [Drawn(x, None, None, provenance) for x in self.positions[:, k]])


def follow(job: Job, trajectories: Sequence[Iterator[CGFrame]], n_samples: int = 1, *,
           kept: KeptStretches | None = None, stretch: int | None = None) -> Iterator[list[Stretch]]:
    """Backmap trajectories of one topology side by side.

    Frame k of all trajectories is drawn at once, with random numbers that follow from the seed and k.

    Parameters
    ----------
    job : Job
        With a coherent generator.
    trajectories : sequence of iterators of CGFrame
        They may differ in length.
    n_samples : int
        Atomistic trajectories for each coarse-grained one.
    kept : KeptStretches, optional
        Stretches that are there are not drawn again, and new ones are added.
    stretch : int, optional
        Frames of a trajectory in each item.

    Yields
    ------
    list of Stretch
        The next frames of every trajectory that has not ended.
    """
    if not getattr(job.generator, "coherent", False):
        raise InputError(f"{job.spec.model.name} draws every frame by itself and does not follow a trajectory")
    if job.spec.settings.mode == "minimize":
        raise InputError(f"frames that {job.spec.model.name} follows are not minimised, since minima follow each other "
                         "in jumps: use refine equilibrate or none")
    walk, stretch = _Walk(job, n_samples), stretch or min(STRETCH, getattr(job.generator, "stretch", STRETCH))
    trajectories, number = [iter(frames) for frames in trajectories], 0
    previous: dict[int, np.ndarray] = {}
    while True:
        read = {k: frames for k, source in enumerate(trajectories) if (frames := _next(source, stretch))}
        if not read:
            return
        if kept and kept.has(number, 0):
            drawn, strained = kept.load_stretches(number, read, n_samples)
        else:
            drawn, strained = walk.along(read, previous, number)
            if kept:
                kept.save_stretches(number, read, drawn, strained)
        number += stretch
        yield [Stretch(k, frames, drawn[k], strained[k], job) for k, frames in read.items()]
        previous = {k: atoms[:, -1] for k, atoms in drawn.items()}


def _next(source: Iterator[CGFrame], n: int) -> tuple[CGFrame, ...]:
    return tuple(frame for _, frame in zip(range(n), source))


class KeptStretches(KeptFrames):
    """A folder of stretches, so that a run that was interrupted goes on."""

    holds = "stretches of frames"

    def save_stretches(self, number: int, read: dict[int, tuple[CGFrame, ...]], drawn: dict[int, np.ndarray],
                       strained: dict[int, int]) -> None:
        """Keep what was drawn from frame ``number`` on, and how many of each trajectory's frames are strained."""
        n_samples = len(next(iter(drawn.values())))
        with replacing(self._file(number, 0), overwrite=True) as part:
            np.savez(part, beads_of=_digest(read, n_samples), **{str(k): atoms for k, atoms in drawn.items()},
                     **{f"strained_{k}": n for k, n in strained.items()})

    def load_stretches(self, number: int, read: dict[int, tuple[CGFrame, ...]],
                       n_samples: int) -> tuple[dict[int, np.ndarray], dict[int, int]]:
        """What is kept; :class:`InputError` if it is damaged, or of other beads or another number of samples."""
        with self._opened(self._file(number, 0), _digest(read, n_samples)) as data:
            return {k: data[str(k)] for k in read}, {k: int(data[f"strained_{k}"]) for k in read}


def _digest(read: dict[int, tuple[CGFrame, ...]], n_samples: int) -> str:
    return " ".join([f"{n_samples} samples", *(f"{k}:{digest(frames)}" for k, frames in read.items())])


class _Walk:
    """Steps of a generator, with the results made exact."""

    def __init__(self, job: Job, n_samples: int):
        self.job, self.n_samples = job, n_samples
        self.exact = ExactBatch(job.target) if job.spec.project else None
        settings = job.spec.settings
        self.held = None if settings.mode == "none" else HeldDynamics(
            job.generator.molecule, settings.temperature_K or job.target.chemistry.temperature_K, job.platform)

    def along(self, read: dict[int, tuple[CGFrame, ...]], previous: dict[int, np.ndarray],
              number: int) -> tuple[dict[int, np.ndarray], dict[int, int]]:
        """Atoms (n_samples, n_frames, n_atoms, 3) of each trajectory, from frame ``number`` on; and how many of its
        frames are strained."""
        beads = {k: np.stack([self.job.beads(frame) for frame in frames]) for k, frames in read.items()}
        drawn: dict[int, list[np.ndarray]] = {k: [] for k in read}
        n_strained = dict.fromkeys(read, 0)
        for t in range(max(map(len, beads.values()))):
            alive = [k for k in read if t < len(beads[k])]
            last = [drawn[k][-1] if drawn[k] else previous.get(k) for k in alive]
            atoms, strained = self._step(np.stack([beads[k][t] for k in alive]), last, number + t)
            for k, one, bad in zip(alive, atoms, strained, strict=True):
                drawn[k].append(one)
                n_strained[k] += int(bad.sum())
        return {k: np.stack(atoms, axis=1) for k, atoms in drawn.items()}, n_strained

    def _step(self, beads: np.ndarray, last: list[np.ndarray | None], number: int) -> tuple[np.ndarray, np.ndarray]:
        """Atoms (n_trajectories, n_samples, n_atoms, 3) of one frame of each, and which are strained."""
        job, n = self.job, self.n_samples
        wanted = np.repeat(beads, n, axis=0)
        before = None if last[0] is None else np.concatenate(last)
        rng = np.random.default_rng([job.spec.seed, number])
        if self.held is None:
            atoms, strained = self._drawn(wanted, before, rng), np.zeros(len(wanted), dtype=bool)
        else:
            atoms, strained = self._moved(wanted, before, rng, number)
        return atoms.reshape(len(beads), n, *atoms.shape[1:]), strained.reshape(len(beads), n)

    def _drawn(self, beads: np.ndarray, before: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        """Atoms (B, n_atoms, 3) for beads (B, n_beads, 3) and the atoms one frame before."""
        job = self.job
        atoms = job.generator.generate(job.target, beads, None, n_samples=len(beads), rng=rng, previous=before)
        if not self.exact:
            return atoms
        # Hydrogens drawn upon each other may come past each other.
        molecules = (len(atoms), -1, job.generator.molecule.n_atoms, 3)
        return with_ordered_hydrogens(job.generator.molecule, self.exact(atoms, beads).reshape(molecules),
                                      like=atoms.reshape(molecules)).reshape(atoms.shape)

    def _moved(self, beads: np.ndarray, before: np.ndarray | None, rng: np.random.Generator,
               number: int) -> tuple[np.ndarray, np.ndarray]:
        """The same after dynamics with the beads held, and which (B,) are strained although they were drawn again."""
        atoms, left = np.empty((len(beads), self.job.target.n_atoms, 3)), np.arange(len(beads))
        for _ in range(_TRIES):
            drawn = self._drawn(beads[left], None if before is None else before[left], rng)
            molecules, sound = self.held(drawn.reshape(-1, self.held.molecule.n_atoms, 3), rng)
            atoms[left] = self.exact(molecules.reshape(drawn.shape), beads[left])
            fit = sound & ~self.held.strained(molecules)
            left = left[~fit.reshape(len(left), -1).all(axis=1)]
            if not len(left):
                break
        if len(left) and not sound.all():
            raise RefinementError(f"{self.job.spec.where}: frame {number} (from 0) has beads for which {_TRIES} draws "
                                  "gave no atoms that dynamics can start from: beads may lie too far apart or too "
                                  "near; try another seed, or refine none")
        return atoms, np.isin(np.arange(len(beads)), left)
