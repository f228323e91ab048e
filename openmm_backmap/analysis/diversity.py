"""Diversity: do several draws for the same beads differ as much as they should?

If draws are distributed as the reference given the beads, two draws are as far from each other as a draw is from the
reference structure with these beads. Draws that are too much alike give a ratio below 1, down to 0 for draws that are
all the same; draws that differ more among themselves than from the reference give a ratio above 1. Draws that are wrong
all alike also lie far from the reference: the ratio is low for them as well.

The comparison is that of the diversity score of M. S. Jones, K. Shmilovich, A. L. Ferguson, "DiAMoNDBack:
Diffusion-denoising autoregressive model for non-deterministic backmapping of C-alpha protein traces", J. Chem. Theory
Comput. 19, 7908 (2023): 1 - ratio, 0 at best. Here distances are root mean squares over all beads of a type rather than
means of those of single structures, and labels that are equivalent by symmetry are exchanged where that brings two
structures nearer. Hydrogens are left out: those of a methyl group or of a chain's end have names that mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.analysis import page
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.chemistry import Target
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import heavy_atoms, once_per_target
from openmm_backmap.geometry.periodic import minimum_image
from openmm_backmap.statistics import jackknife_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[str, int, int], None]
_MOST_PAIRS = 64


@dataclass(frozen=True)
class Spread:
    """How far structures of one frame are from each other; nm, root mean square over heavy atoms, no superposition.

    Attributes
    ----------
    between_draws, between_draws_error : float
        Two draws of one frame, and the standard error.
    to_reference, to_reference_error : float or None
        A draw and the reference structure of its frame; None where no frame has one.
    ratio, ratio_error : float or None
        ``between_draws / to_reference``; 1 where draws are distributed as the reference.
    """

    between_draws: float
    between_draws_error: float
    to_reference: float | None
    to_reference_error: float | None
    ratio: float | None
    ratio_error: float | None

    @property
    def score(self) -> float | None:
        """1 - ratio: 0 is as diverse as the reference, 1 is always the same."""
        return None if self.ratio is None else 1 - self.ratio


@dataclass(frozen=True)
class Diversity:
    """Diversity of an ensemble with several draws a frame.

    Standard errors are by the jackknife over molecules of frames; NaN where there is but one.

    Attributes
    ----------
    name : str
        Of the ensemble.
    total : Spread
        Over all heavy atoms.
    by_bead_type : dict of str to Spread
    n_draws : int
        Draws of one frame, the most of any.
    n_frames, n_paired : int
        Frames with more than one draw, and those of them with a reference structure.
    """

    name: str
    total: Spread
    by_bead_type: dict[str, Spread]
    n_draws: int
    n_frames: int
    n_paired: int

    @property
    def ratio(self) -> float:
        """The ratio over all heavy atoms; NaN where no reference structure is known."""
        return np.nan if self.total.ratio is None else self.total.ratio

    @property
    def ratio_error(self) -> float:
        return np.nan if self.total.ratio_error is None else self.total.ratio_error


def diversity(judged: Ensemble, reference: Ensemble | None = None, *, progress: Progress | None = None) -> Diversity:
    """Compare distances between draws of one frame with those to the reference structure of the frame.

    Parameters
    ----------
    judged : Ensemble
        At least one frame with two draws or more.
    reference : Ensemble or None
        Those of its structures count that have a ``frame`` of ``judged``; where there are some, other frames of
        ``judged`` are left out, so that both distances are over the same frames.
    progress : callable, optional
        Called with a stage, frames done and of how many.

    Raises
    ------
    InputError
        No frame has two draws.
    """
    frames, counts = np.unique(judged.frame, return_counts=True)
    frames = frames[counts > 1]
    if not len(frames):
        raise InputError(f"{judged.name}: one draw a frame does not tell diversity; draw two or more (--samples)")
    paired = np.array([], dtype=int) if reference is None else frames[np.isin(frames, reference.frame)]
    used = paired if len(paired) else frames
    between, to_reference = [], []
    for done, frame in enumerate(used):
        draws = np.flatnonzero(judged.frame == frame)
        between.append(_mean_square(judged, judged, _pairs(draws)))
        if len(paired):
            own = np.flatnonzero(reference.frame == frame)
            to_reference.append(_mean_square(judged, reference, [(i, j) for i in draws for j in own]))
        if progress:
            progress("diversity", done + 1, len(used))
    return _summary(judged, np.array(between), np.array(to_reference) if len(paired) else None, counts.max(),
                    len(frames), len(paired))


def _pairs(draws: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of different draws, each draw in as many; of many draws not all pairs."""
    n = len(draws)
    for shift in range(1, max(1, min(n // 2, _MOST_PAIRS // n)) + 1):
        # With an even number, half a turn meets every pair twice.
        for i in range(n // 2 if 2 * shift == n else n):
            yield draws[i], draws[(i + shift) % n]


def _mean_square(one: Ensemble, other: Ensemble, pairs) -> np.ndarray:
    """Mean over pairs of structures of the squared distance of each atom (n_atoms,), nm^2, labels exchanged where
    that is nearer."""
    total, n = np.zeros(one.target.n_atoms), 0
    for i, j in pairs:
        total += _square_distances(one.target, one.positions[i], other.positions[j], one.box(i))
        n += 1
    return total / n


def _square_distances(target: Target, x: np.ndarray, y: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    def squares(a, b) -> np.ndarray:
        return (minimum_image(x[a].astype(float) - y[b], box) ** 2).sum(-1)

    atoms = np.arange(target.n_atoms)
    kept = squares(atoms, atoms)
    a, b, swap, n_swaps = _swaps(target)
    same = np.bincount(swap, kept[a] + kept[b], minlength=n_swaps)
    crossed_a, crossed_b = squares(a, b), squares(b, a)
    nearer = (np.bincount(swap, crossed_a + crossed_b, minlength=n_swaps) < same)[swap]
    kept[a[nearer]], kept[b[nearer]] = crossed_a[nearer], crossed_b[nearer]
    return kept


@once_per_target
def _swaps(target: Target) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """All equivalent labels in a row: atoms a and b (n,), and which swap (n,) they change in."""
    none = np.empty(0, dtype=np.int64)
    a = np.concatenate([none, *(one for one, _ in target.swaps)])
    b = np.concatenate([none, *(other for _, other in target.swaps)])
    swap = np.repeat(np.arange(len(target.swaps)), [len(one) for one, _ in target.swaps])
    return a, b, swap, len(target.swaps)


def _summary(judged: Ensemble, between: np.ndarray, to_reference: np.ndarray | None, n_draws: int, n_frames: int,
             n_paired: int) -> Diversity:
    target = judged.target
    heavy = heavy_atoms(target)
    types = target.bead_type[target.bead_of_atom[heavy]]
    names = target.chemistry.bead_types
    by_type = {names[t]: _spread(target, heavy[types == t], between, to_reference) for t in np.unique(types)}
    total = _spread(target, heavy, between, to_reference)
    return Diversity(judged.name, total, by_type, int(n_draws), n_frames, n_paired)


def _spread(target: Target, atoms: np.ndarray, between: np.ndarray, to_reference: np.ndarray | None) -> Spread:
    """Of squared distances (n_frames, n_atoms): root mean squares over ``atoms``, errors by molecules of frames."""
    molecule = target.molecule_of_atom[atoms]
    number = np.unique(molecule, return_inverse=True)[1]

    def by_block(values: np.ndarray) -> np.ndarray:
        return np.concatenate([np.bincount(number, row[atoms]) for row in values])

    counts = by_block(np.ones_like(between))
    own = by_block(between)
    distance, error = _with_error(own, counts)
    if to_reference is None:
        return Spread(distance, error, None, None, None, None)
    far = by_block(to_reference)
    if not far.any():
        raise InputError("draws and reference structures are the same; diversity compares draws with others")
    return Spread(distance, error, *_with_error(far, counts), *_with_error(own, far))


def _with_error(over: np.ndarray, under: np.ndarray) -> tuple[float, float]:
    """Root of the ratio of two sums over blocks, and its standard error by leaving out each."""
    value = float(np.sqrt(over.sum() / under.sum()))
    if len(over) < 2:
        return value, float("nan")
    rest = under.sum() - under
    left_out = np.sqrt(np.maximum(over.sum() - over, 0) / np.where(rest > 0, rest, np.nan))
    return value, float(jackknife_error(left_out))


def figure(found: Sequence[Diversity]) -> Figure:
    """Distances between draws and to the reference, by bead type: one group of bars an ensemble."""
    types = list(found[0].by_bead_type)
    drawn = page.figure(8, 1.2 + 0.3 * len(found) * len(types))
    axes = drawn.add_subplot()
    ticks, labels = [], []
    for k, one in enumerate(found):
        for t, name in enumerate(types):
            at, spread = -(k * (len(types) + 0.6) + t), one.by_bead_type[name]
            first = k == t == 0
            axes.barh(at + 0.2, spread.between_draws, 0.36, xerr=spread.between_draws_error, color="#0072b2",
                      label="between draws" if first else None)
            if spread.to_reference is not None:
                axes.barh(at - 0.2, spread.to_reference, 0.36, xerr=spread.to_reference_error, color="#b8bec4",
                          label="draw to reference" if first else None)
            ticks.append(at)
            labels.append(f"{one.name}, {name}")
    axes.set(yticks=ticks, yticklabels=labels, xlabel="RMSD of heavy atoms (nm)")
    axes.legend(frameon=False, fontsize=9)
    return drawn
