"""Distributions of the forces on beads, how far they are from the reference's, and how each frame is by itself.

Forces are sorted into bins that the reference gives: of equal width up to the value that one in a thousand of its
forces exceeds, and one more for all beyond. So the long tail that clashes make counts by how many beads are in it, and
not by how far out they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from openmm_backmap.analysis.forces.bead_forces import BeadForces
from openmm_backmap.statistics import jackknife_error, jensen_shannon

#: all types of beads together
ALL = "all"
MAGNITUDE, COMPONENT = "magnitude", "component"
BINS = 30
_BEYOND = 1e-3
_SPLITS, _MOST_BLOCKS = 50, 10
_LARGE = 0.95


@dataclass(frozen=True)
class Counts:
    """Histograms of the forces of an ensemble by frame; draws for one frame count together.

    Attributes
    ----------
    edges : dict of (str, str) to ndarray, shape (BINS + 1,), kJ/mol/nm
        By type of bead (or :data:`ALL`) and quantity: :data:`MAGNITUDE`, |F|, or :data:`COMPONENT`, F_x, F_y and F_z.
    counts : dict of (str, str) to ndarray of int, shape (n_frames, BINS + 2)
        First and last bin are below and beyond the edges.
    """

    edges: dict[tuple[str, str], np.ndarray] = field(repr=False)
    counts: dict[tuple[str, str], np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.counts.values())))


@dataclass(frozen=True)
class ForceRow:
    """One distribution of an ensemble against the reference's.

    Attributes
    ----------
    bead : str
        Type, or :data:`ALL`.
    quantity : str
        :data:`MAGNITUDE` or :data:`COMPONENT`.
    divergence, error : float
        Jensen-Shannon, bits; its standard error by the jackknife over up to ten blocks of successive frames.
    floor, floor_sd : float
        Mean and spread of the same between random parts of the reference, the smaller as large as the ensemble or half
        of the reference.
    median, median_reference, high, high_reference : float, kJ/mol/nm
        Median and 99 % quantile of absolute values.
    beyond : float
        Share beyond what one in a thousand of the reference's exceeds.
    """

    bead: str
    quantity: str
    divergence: float
    error: float
    floor: float
    floor_sd: float
    median: float
    median_reference: float
    high: float
    high_reference: float
    beyond: float


def values_of(forces: BeadForces, bead: str, quantity: str) -> np.ndarray:
    """Values (n_structures, n_values), kJ/mol/nm, of beads of a type."""
    chosen = np.ones(len(forces.bead_type), bool) if bead == ALL else \
        forces.bead_type == forces.bead_types.index(bead)
    if quantity == MAGNITUDE:
        return forces.magnitudes[:, chosen]
    return forces.forces[:, chosen].reshape(len(forces), -1)


def types_of(forces: BeadForces) -> list[str]:
    """Types of beads that are there."""
    return [forces.bead_types[k] for k in np.unique(forces.bead_type)]


def edges_of(reference: BeadForces) -> dict[tuple[str, str], np.ndarray]:
    """The bins that the reference gives; keys and shapes as in :class:`Counts`."""
    edges = {}
    for bead in (ALL, *types_of(reference)):
        for quantity in (MAGNITUDE, COMPONENT):
            high = np.quantile(np.abs(values_of(reference, bead, quantity)), 1 - _BEYOND)
            edges[bead, quantity] = np.linspace(0.0 if quantity == MAGNITUDE else -high, high, BINS + 1)
    return edges


def count(forces: BeadForces, edges: dict[tuple[str, str], np.ndarray]) -> Counts:
    """Histograms of an ensemble in the bins of a reference."""
    frames, row = np.unique(forces.frame, return_inverse=True)
    counts = {}
    for key, own in edges.items():
        bins = np.searchsorted(own, values_of(forces, *key), side="right")
        table = np.zeros((len(frames), BINS + 2), dtype=np.int64)
        np.add.at(table, (row[:, None], bins), 1)
        counts[key] = table
    return Counts(edges, counts)


def compare_forces(reference: BeadForces, judged: BeadForces, rng: np.random.Generator) -> tuple[ForceRow, ...]:
    """All distributions of an ensemble against the reference's; ``rng`` draws the parts of the floor."""
    edges = edges_of(reference)
    own, other = count(reference, edges), count(judged, edges)
    floors = _floors(own, len(other), rng)
    rows = []
    for key, table in other.counts.items():
        total = own.counts[key].sum(axis=0)
        ours, theirs = (np.abs(values_of(forces, *key)) for forces in (judged, reference))
        quantiles = [np.quantile(values, q) for values in (ours, theirs) for q in (0.5, 0.99)]
        rows.append(ForceRow(
            *key, float(jensen_shannon(total, table.sum(axis=0))), _error(total, table), *floors[key],
            *(float(quantiles[k]) for k in (0, 2, 1, 3)), float((ours > edges[key][-1]).mean())))
    return tuple(rows)


def _error(reference: np.ndarray, table: np.ndarray) -> float:
    """Standard error of the divergence of ``table`` (n_frames, n_bins); NaN for a single frame."""
    if len(table) < 2:
        return float("nan")
    blocks = np.array([block.sum(axis=0) for block in np.array_split(table, min(len(table), _MOST_BLOCKS))])
    return float(jackknife_error(jensen_shannon(reference, blocks.sum(axis=0) - blocks)))


def _floors(reference: Counts, n_judged: int, rng: np.random.Generator) -> dict[tuple[str, str], tuple[float, float]]:
    """Mean and spread of the divergence between random parts of the reference; NaN where it is one structure."""
    n = len(reference)
    if n < 2:
        return dict.fromkeys(reference.counts, (float("nan"), float("nan")))
    chosen = np.zeros((_SPLITS, n))
    for row in chosen:
        row[rng.permutation(n)[:min(n_judged, n // 2)]] = 1.0
    found = {key: jensen_shannon((1 - chosen) @ table, chosen @ table) for key, table in reference.counts.items()}
    return {key: (float(values.mean()), float(values.std())) for key, values in found.items()}


def frame_scores(reference: BeadForces, judged: BeadForces) -> np.ndarray:
    """Share of large forces of each frame, shape (n_frames,): of beads with a larger |F| than one in twenty of the
    reference's beads of their type; 0.05 is right.

    A frame has few beads, and its divergence is mostly their small number. Of twelve atomistic frames and six in which
    beads were moved by 0.002 nm, or 3 % of them by 0.02 nm, the divergence of |F| tells 0.78 and 1.00 (area under the
    curve), its mean over types of beads 0.60 and 0.82, the mean square force 0.92 and 1.00, this share 0.99 and 1.00.
    """
    large = np.zeros(judged.magnitudes.shape)
    for bead in types_of(reference):
        own = reference.bead_type == reference.bead_types.index(bead)
        large[:, own] = judged.magnitudes[:, own] > np.quantile(reference.magnitudes[:, own], _LARGE)
    frames, row = np.unique(judged.frame, return_inverse=True)
    return np.bincount(row, large.mean(axis=1)) / np.bincount(row)


def detection(right: np.ndarray, judged: np.ndarray) -> float:
    """Probability that a frame of ``judged`` has a larger score than one of ``right``: the area under the curve of
    true against false positives; 0.5 is no difference."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.r_[np.zeros(len(right)), np.ones(len(judged))], np.r_[right, judged]))
