"""Free-energy surfaces: over phi and psi where a molecule has one pair, else over the two slowest coordinates.

The slow coordinates are time-lagged independent components (Perez-Hernandez et al., J. Chem. Phys. 139, 015102 (2013))
of the distances of the beads, found from the reference alone; every label is drawn in them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openmm_backmap.analysis.kinetics.measure import BLOCKS, Measured

#: kT above the lowest bin of the reference: what lies higher is not compared
HIGHEST_KT = 5.0
#: frames in a bin of the reference, below which its free energy is not known well enough
LEAST_COUNT = 25
_BINS = 36
_MARGIN = 0.05


@dataclass(frozen=True)
class Coordinates:
    """The plane of the surfaces.

    Attributes
    ----------
    names : tuple of str
    edges : tuple of ndarray, shape (n_bins + 1,)
    model : TICA model or None
        None for dihedrals.
    """

    names: tuple[str, str]
    edges: tuple[np.ndarray, np.ndarray] = field(repr=False)
    model: Any = field(repr=False)

    @property
    def periodic(self) -> bool:
        return self.model is None

    def of(self, measured: Measured) -> np.ndarray:
        """Coordinates (n_frames, 2): degrees, or without a unit."""
        return measured.features if self.model is None else self.model.transform(measured.features)[:, :2]

    def points(self, plane: np.ndarray) -> np.ndarray:
        """Coordinates as points whose distances mean something: angles as their cosines and sines (n_frames, 4)."""
        if not self.periodic:
            return np.ascontiguousarray(plane, dtype=np.float64)
        angle = np.radians(plane.astype(np.float64))
        return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)

    def counts(self, plane: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Frames in each bin, (n_blocks, n_bins, n_bins); what lies outside goes to the bin at the edge."""
        bins = [np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
                for edges, values in zip(self.edges, plane.T)]
        shape = (BLOCKS, *(len(edges) - 1 for edges in self.edges))
        flat = np.ravel_multi_index((block, *bins), shape)
        return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)


def coordinates_of(reference: Measured, dihedrals: bool, lag: int) -> Coordinates:
    """The plane that a reference gives; ``lag`` in frames."""
    if dihedrals:
        edges = np.linspace(-180.0, 180.0, _BINS + 1)
        return Coordinates(("phi (degrees)", "psi (degrees)"), (edges, edges), None)
    from deeptime.decomposition import TICA

    lagged = TICA.covariance_estimator(lag)
    for features in reference.split(reference.features):
        if len(features) > lag:
            lagged.partial_fit((features[:-lag].astype(np.float64), features[lag:].astype(np.float64)))
    model = TICA(dim=2).fit_from_covariances(lagged.fetch_model()).fetch_model()
    plane = model.transform(reference.features)[:, :2]
    low, high = plane.min(axis=0), plane.max(axis=0)
    margin = _MARGIN * (high - low)
    edges = tuple(np.linspace(a, b, _BINS + 1) for a, b in zip(low - margin, high + margin))
    return Coordinates(("slowest component", "second slowest component"), edges, model)


def free_energies(counts: np.ndarray) -> np.ndarray:
    """-ln of the share of each bin (...), kT; a bin without a frame has that of half a frame."""
    counts = np.asarray(counts, dtype=float)
    return -np.log(np.maximum(counts, 0.5) / counts.sum(axis=(-2, -1), keepdims=True))


def known_bins(counts: np.ndarray) -> np.ndarray:
    """Bins (...) that are compared, of a reference: enough frames, and low enough."""
    energy = free_energies(counts)
    low = energy - energy.min(axis=(-2, -1), keepdims=True) < HIGHEST_KT
    return low & (np.asarray(counts) >= LEAST_COUNT)


def largest_difference(reference: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Largest difference (n,), kT, of free energies where the reference's are known; counts (n, n_bins, n_bins). NaN
    where there is no such bin."""
    known, apart = known_bins(reference), np.abs(free_energies(judged) - free_energies(reference))
    return np.where(known.any(axis=(-2, -1)), np.where(known, apart, 0.0).max(axis=(-2, -1)), np.nan)


def mean_difference(reference: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Mean difference, as :func:`largest_difference`, of bins alike."""
    known, apart = known_bins(reference), np.abs(free_energies(judged) - free_energies(reference))
    n = known.sum(axis=(-2, -1))
    return np.where(n > 0, np.where(known, apart, 0.0).sum(axis=(-2, -1)) / np.maximum(n, 1), np.nan)
