"""Sketch-map: a plane on which points that are near stay near and points that are far stay far, and no more is asked.

M. Ceriotti, G. A. Tribello, M. Parrinello, PNAS 108, 13023 (2011); J. Chem. Theory Comput. 9, 1521 (2013). Distances R
between points and r on the plane pass through the sigmoids

    F(R) = 1 - (1 + (2^(A/B) - 1) (R / sigma)^A)^(-B/A),    f(r) the same with a, b,

which are 1/2 at sigma, and the sum of (F(R) - f(r))^2 over pairs of landmarks is minimised. Other points are put where
they fit to the landmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Progress = Callable[[str, int, int], None]
_GRID = 41
_MARGIN = 0.3
_SWEEPS = 4
_STEPS = 300
_BLOCK = 2000


@dataclass(frozen=True)
class SketchMap:
    """A map.

    Attributes
    ----------
    landmarks : ndarray, shape (n, n_features)
    places : ndarray, shape (n, 2)
        Landmarks on the plane, in the unit of the distances.
    sigma : float
        The distance that decides between near and far.
    high, low : tuple of (float, float)
        (A, B) and (a, b).
    stress : float
        Mean of (F(R) - f(r))^2 over pairs of landmarks.
    """

    landmarks: np.ndarray
    places: np.ndarray
    sigma: float
    high: tuple[float, float]
    low: tuple[float, float]
    stress: float


def farthest_points(points: np.ndarray, n: int, first: int) -> np.ndarray:
    """Indices of ``n`` of ``points`` (m, d): beginning with ``first``, each the farthest from those before it."""
    chosen = np.empty(min(n, len(points)), dtype=np.int64)
    nearest = np.full(len(points), np.inf)
    index = first
    for k in range(len(chosen)):
        chosen[k] = index
        nearest = np.minimum(nearest, ((points - points[index]) ** 2).sum(-1))
        index = int(nearest.argmax())
    return chosen


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, m) between points (n, d) and (m, d)."""
    from scipy.spatial.distance import cdist

    return cdist(x, y)


def sigmoid(r: np.ndarray, sigma: float, exponents: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """F(r) and its derivative."""
    a, b = exponents
    scale = 2 ** (a / b) - 1
    power = scale * (r / sigma) ** (a - 1)
    base = 1 + power * r / sigma
    return 1 - base ** (-b / a), b / sigma * power * base ** (-b / a - 1)


def fit(landmarks: np.ndarray, sigma: float, *, high: tuple[float, float], low: tuple[float, float],
        progress: Progress | None = None) -> SketchMap:
    """Lay landmarks out on the plane.

    From their two principal components on, sweeps move each landmark to where on a grid it fits best, which leads out
    of local minima, and a minimiser (L-BFGS) follows each sweep. The best of all is kept.

    Parameters
    ----------
    landmarks : ndarray, shape (n, n_features)
    sigma : float
    high, low : tuple of (float, float)
    progress : callable, optional
    """
    wanted = sigmoid(distances(landmarks, landmarks), sigma, high)[0]
    centred = landmarks - landmarks.mean(0)
    places = _minimised(centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T, None, wanted, sigma, low)
    best, least = places, _stress(places, places, wanted, sigma, low)[0]
    for sweep in range(_SWEEPS):
        if progress:
            progress("sketch-map", sweep, _SWEEPS)
        places = _minimised(_swept(places, wanted, sigma, low), None, wanted, sigma, low)
        stress = _stress(places, places, wanted, sigma, low)[0]
        if stress < least:
            best, least = places, stress
    if progress:
        progress("sketch-map", _SWEEPS, _SWEEPS)
    best = best - best.mean(0)
    # Turned to its own axes, a map does not depend on where the minimiser began.
    best = best @ np.linalg.svd(best, full_matrices=False)[2].T
    return SketchMap(landmarks, best, sigma, high, low, least / len(landmarks) ** 2)


def project(sketch: SketchMap, points: np.ndarray) -> np.ndarray:
    """Places (n, 2) of ``points`` (n, n_features): the best of a grid over the map, then the nearest minimum."""
    grid = _grid(sketch.places)
    found = np.empty((len(points), 2))
    for start in range(0, len(points), _BLOCK):
        block = points[start:start + _BLOCK]
        wanted = sigmoid(distances(block, sketch.landmarks), sketch.sigma, sketch.high)[0]
        places = _best_of(grid, sketch.places, wanted, sketch.sigma, sketch.low)
        found[start:start + _BLOCK] = _minimised(places, sketch.places, wanted, sketch.sigma, sketch.low)
    return found


def _grid(places: np.ndarray) -> np.ndarray:
    low, high = places.min(0), places.max(0)
    margin = _MARGIN * (high - low)
    axes = [np.linspace(a - m, b + m, _GRID) for a, b, m in zip(low, high, margin, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def _best_of(grid: np.ndarray, others: np.ndarray, wanted: np.ndarray, sigma: float,
             low: tuple[float, float]) -> np.ndarray:
    """The point of ``grid`` that fits each row of ``wanted`` (n, n_others) best."""
    at = sigmoid(distances(grid, others), sigma, low)[0]
    return grid[((at ** 2).sum(1) - 2 * wanted @ at.T).argmin(1)]


def _swept(places: np.ndarray, wanted: np.ndarray, sigma: float, low: tuple[float, float]) -> np.ndarray:
    places, grid = places.copy(), _grid(places)
    for k in range(len(places)):
        rest = np.arange(len(places)) != k
        places[k] = _best_of(grid, places[rest], wanted[k:k + 1, rest], sigma, low)[0]
    return places


def _stress(places: np.ndarray, others: np.ndarray, wanted: np.ndarray, sigma: float,
            low: tuple[float, float]) -> tuple[float, np.ndarray]:
    """Sum of (F - f)^2 and its gradient by ``places``, ``others`` held."""
    apart = places[:, None] - others[None]
    r = np.sqrt((apart ** 2).sum(-1))
    value, slope = sigmoid(r, sigma, low)
    error = value - wanted
    # Where two points coincide the direction is not defined, and with a > 1 the slope is 0.
    pull = 2 * error * slope / np.where(r > 0, r, 1)
    return float((error ** 2).sum()), (pull[..., None] * apart).sum(1)


def _minimised(places: np.ndarray, others: np.ndarray | None, wanted: np.ndarray, sigma: float,
               low: tuple[float, float]) -> np.ndarray:
    """``places`` at the nearest minimum; ``others`` None: among themselves, all moving."""
    from scipy.optimize import minimize

    def objective(flat: np.ndarray):
        x = sigma * flat.reshape(-1, 2)
        stress, gradient = _stress(x, x if others is None else others, wanted, sigma, low)
        # Among themselves each pair is counted from either end.
        return stress, sigma * (gradient if others is not None else 2 * gradient).ravel()

    found = minimize(objective, places.ravel() / sigma, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS})
    return sigma * found.x.reshape(-1, 2)
