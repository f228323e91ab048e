"""One very large melt in domains: each is drawn with what lies around it, here in turn or by other processes.

A domain is a block of space: the beads in it, and a halo of those around. All domains draw the beads of one colour;
then their new atoms go to all that see them, and the next colour comes. Colours are those of the whole melt, noise
belongs to a bead and not to a batch, and no bead sees what others of its colour have just drawn: so the atoms do not
depend on how the melt is divided, apart from the rounding of single-precision sums over batches of other sizes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from openmm_backmap.chemistry.parts import part_of
from openmm_backmap.chemistry.target import Target
from openmm_backmap.environments.local import bead_neighbours
from openmm_backmap.geometry.periodic import wrap
from openmm_backmap.sampling.faults import Nearby
from openmm_backmap.sampling.sweeps import Drawing, SweepSettings, fresh_key, sweep

#: beads of a domain, without its halo
DOMAIN_BEADS = 10_000
#: beads that are too few to divide further
_FEWEST = 20
#: parts that stay ready
_READY = 16


@dataclass(frozen=True, eq=False)
class Part:
    """What a process needs to know of a domain.

    Attributes
    ----------
    target : Target
        The domain's beads and halo, and their atoms.
    beads : ndarray, shape (n, 3), nm
    box : ndarray, shape (3, 3), nm, or None
    number : ndarray of int, shape (n,)
        Beads in the numbering of the whole melt.
    own : ndarray of bool, shape (n,)
        Those that are no halo.
    """

    target: Target = field(repr=False)
    beads: np.ndarray
    box: np.ndarray | None
    number: np.ndarray
    own: np.ndarray


@dataclass(frozen=True)
class Draw:
    """Beads (of a part, by its numbering) to be drawn: gives the positions (n, 3), nm, of :func:`atoms_of` them."""

    beads: np.ndarray
    positions: np.ndarray
    placed: np.ndarray
    visit: int
    key: int


@dataclass(frozen=True)
class Check:
    """Positions (n_atoms, 3), nm, of a part, to be looked at: gives its own beads that are faulty."""

    positions: np.ndarray


#: gives the answers to tasks, each of a domain (by its number)
Spread = Callable[[Sequence[tuple[int, Draw | Check]]], list[np.ndarray]]


class Workers(Protocol):
    """Other processes, ``count`` of them, that draw domains."""

    count: int

    def spread(self, division: Division) -> Spread:
        """What answers tasks of the domains of ``division``."""


def n_domains(n_beads: int, workers: Workers | None) -> int:
    """How many domains to cut a melt into: one for each worker, more where they would be too large."""
    wanted = min(workers.count, n_beads // _FEWEST) if workers else 1
    return max(1, wanted, -(-n_beads // DOMAIN_BEADS))


def atoms_of(target: Target, beads: np.ndarray) -> np.ndarray:
    """Atoms, ascending, that ``beads`` own."""
    mask = np.zeros(target.n_beads, dtype=bool)
    mask[beads] = True
    return np.flatnonzero(mask[target.bead_of_atom])


class Division:
    """A melt cut into ``n`` domains of about equally many beads.

    Parameters
    ----------
    target : Target
    beads : ndarray, shape (n_beads, 3), nm
        Whole molecules.
    box : ndarray, shape (3, 3), nm, or None
    n : int
    """

    def __init__(self, target: Target, beads: np.ndarray, box: np.ndarray | None, n: int):
        self.target, self.beads, self.box = target, beads, box
        self.own = [np.sort(own) for own in _blocks(wrap(beads, box), np.arange(len(beads)), n)]
        self.nearby = Nearby(target, beads, box)
        self.near = [self.nearby.of(own) for own in self.own]
        self.domain_of_bead = np.empty(target.n_beads, dtype=np.int64)
        for k, own in enumerate(self.own):
            self.domain_of_bead[own] = k

    def __len__(self) -> int:
        return len(self.own)

    def part(self, k: int) -> Part:
        """Domain ``k``."""
        target, _ = part_of(self.target, self.near[k])
        return Part(target, self.beads[self.near[k]], self.box, self.near[k], self.domain_of_bead[self.near[k]] == k)


def _blocks(points: np.ndarray, index: np.ndarray, n: int) -> list[np.ndarray]:
    """``index`` in ``n`` blocks, by cuts across the longest side."""
    if n == 1:
        return [index]
    along = points[index, np.argmax(np.ptp(points[index], axis=0))]
    order, first = index[np.argsort(along, kind="stable")], n // 2
    cut = len(index) * first // n
    return _blocks(points, order[:cut], first) + _blocks(points, order[cut:], n - first)


class Ready:
    """Parts made ready to be worked on by ``prepare``, the last few of which stay so."""

    def __init__(self, prepare: Callable):
        self._prepare, self._kept = prepare, OrderedDict()

    def answer(self, name, part: Callable[[], Part], task: Draw | Check) -> np.ndarray:
        """The answer to a task of the part called ``name``, which ``part()`` gives."""
        if name not in self._kept:
            while len(self._kept) >= _READY:
                self._kept.popitem(last=False)
            self._kept[name] = self._prepare(part())
        self._kept.move_to_end(name)
        return self._kept[name].answer(task)


def in_turn(division: Division, prepare: Callable) -> Spread:
    """Domains one after the other, in this process."""
    ready = Ready(prepare)
    return lambda tasks: [ready.answer(k, lambda: division.part(k), task) for k, task in tasks]  # noqa: B023


class PartDrawing:
    """Answers tasks of a part."""

    def __init__(self, part: Part, drawing: Drawing):
        self.part, self.drawing = part, drawing

    def answer(self, task: Draw | Check) -> np.ndarray:
        drawing = self.drawing
        drawing.positions = torch.as_tensor(task.positions, device=drawing.placed.device)
        if isinstance(task, Check):
            faulty = drawing.faulty()
            return faulty[self.part.own[faulty]]
        drawing.placed = torch.as_tensor(task.placed, device=drawing.placed.device)
        drawing.key = task.key
        drawing.draw_beads(task.beads, task.visit)
        return drawing.positions.cpu().numpy()[atoms_of(self.part.target, task.beads)]


def sample_divided(division: Division, spread: Spread, settings: SweepSettings, rng: np.random.Generator,
                   progress=None) -> np.ndarray:
    """Positions (n_atoms, 3), nm, of one sample: what :func:`~openmm_backmap.sampling.sweeps.sample_beads` gives."""
    melt = _Divided(division, spread, fresh_key(rng))
    sweep(melt, settings, rng, progress)
    return melt.positions


class _Divided:
    """A melt whose domains others draw: positions so far, and which beads have atoms."""

    def __init__(self, division: Division, spread: Spread, key: int):
        self.division, self.spread, self.key = division, spread, key
        self.target = division.target
        self.positions = division.beads.astype(np.float32)[self.target.bead_of_atom]
        self.placed = np.zeros(self.target.n_beads, dtype=bool)

    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        index, _, distance = bead_neighbours(self.division.beads, self.division.box)
        return index, distance

    def draw_beads(self, beads: np.ndarray, visit: int) -> None:
        domain = self.division.domain_of_bead[beads]
        groups = [(k, beads[domain == k]) for k in np.unique(domain).tolist()]
        tasks = [(k, self._draw(k, own, visit)) for k, own in groups]
        for (_, own), positions in zip(groups, self.spread(tasks), strict=True):
            self.positions[atoms_of(self.target, own)] = positions
        self.placed[beads] = True

    def _draw(self, k: int, beads: np.ndarray, visit: int) -> Draw:
        near = self.division.near[k]
        return Draw(np.searchsorted(near, beads), self._positions(k), self.placed[near], visit, self.key)

    def _positions(self, k: int) -> np.ndarray:
        return self.positions[atoms_of(self.target, self.division.near[k])]

    def faulty(self, moved: np.ndarray | None = None) -> np.ndarray:
        if self.division.nearby.few(moved):
            return self.division.nearby.faulty(self.positions.astype(float), moved)
        tasks = [(k, Check(self._positions(k))) for k in range(len(self.division))]
        found = zip(self.division.near, self.spread(tasks), strict=True)
        return np.sort(np.concatenate([near[beads] for near, beads in found]))
