"""Markov models of trajectories on the same cells of the same plane, so that their processes can be compared.

The cells are those of k-means centres of the reference. Models are reversible (Trendelkamp-Schroer et al., J. Chem.
Phys. 143, 174101 (2015)), by deeptime; error bars are the middle 95 % of samples of the posterior. Its counts are those
of all windows divided by the lag: in trials with chains of known processes the spread between chains was that of the
posterior, while deeptime's "effective" counts gave less than half of it. Of a process that is faster than the lag the
posterior mean is too slow, as few counts say less than the prior does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from openmm_backmap.errors import InputError

_FITTED_FRAMES = 20_000
SAMPLES = 100
_LOOSE = 1e-6  # convergence of models of which only timescales are looked at
_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class MarkovModel:
    """A reversible Markov model.

    Attributes
    ----------
    lag : int
        Frames.
    states : ndarray of int, shape (n_states,)
        The cells that it connects.
    populations : ndarray, shape (n_states,)
        Of the states, in equilibrium.
    timescales, lower, upper : ndarray, shape (n_processes,), frames
        Mean of the posterior, and the middle 95 % of it; NaN where the model has fewer processes.
    processes : ndarray, shape (n_processes, n_states)
        Right eigenvectors of unit length in the scalar product that ``populations`` weight, the slowest first.
    transitions : ndarray, shape (n_states, n_states)
        Probabilities, of greatest likelihood.
    """

    lag: int
    states: np.ndarray
    populations: np.ndarray
    timescales: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    processes: np.ndarray = field(repr=False)
    transitions: np.ndarray = field(repr=False)


def cells_of(points: np.ndarray, n_cells: int, seed: int):
    """The k-means model (deeptime) of at most 20,000 of the points (n_frames, n), spread evenly."""
    from deeptime.clustering import KMeans

    chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), _FITTED_FRAMES)).astype(int))
    n_cells = min(n_cells, len(np.unique(points[chosen], axis=0)))
    return KMeans(n_cells, max_iter=200, fixed_seed=seed, n_jobs=1).fit(points[chosen]).fetch_model()


def markov_model(paths: Sequence[np.ndarray], lag: int, n_processes: int, seed: int, label: str,
                 n_samples: int = SAMPLES) -> MarkovModel:
    """The model of trajectories of cells, none of them joined to the next.

    Parameters
    ----------
    paths : sequence of ndarray of int, shape (n_frames,)
    lag : int
        Frames.
    n_processes : int
    seed : int
    label : str
        For messages.
    n_samples : int
        Of the posterior.

    Raises
    ------
    InputError
        No trajectory is longer than the lag, or fewer than two cells are connected.
    """
    from deeptime.markov import TransitionCountEstimator
    from deeptime.markov.msm import MaximumLikelihoodMSM

    long = [np.ascontiguousarray(path, dtype=np.int32) for path in paths if len(path) > lag]
    if not long:
        raise InputError(f"{label}: no trajectory is longer than the lag of {lag} frames")
    counts = TransitionCountEstimator(lag, "sliding-effective").fit_fetch(long).submodel_largest()
    if counts.n_states < 2:
        raise InputError(f"{label}: fewer than two cells are connected at a lag of {lag} frames: too few frames, or a "
                         "trajectory that comes back nowhere")
    model = MaximumLikelihoodMSM(reversible=True).fit(counts).fetch_model()
    transitions, populations = model.transition_matrix, model.stationary_distribution
    sampled = _sampled_timescales(counts.count_matrix, transitions, lag, n_processes, seed, n_samples)
    return MarkovModel(lag, np.asarray(counts.state_symbols), populations, sampled.mean(axis=0),
                       *np.quantile(sampled, _INTERVAL, axis=0), _eigenvectors(transitions, populations, n_processes),
                       transitions)


def _sampled_timescales(counts: np.ndarray, transitions: np.ndarray, lag: int, n_processes: int, seed: int,
                        n_samples: int) -> np.ndarray:
    """Implied timescales (n_samples, n_processes), frames; NaN where there are fewer processes."""
    # deeptime's BayesianMSM has no seed; this is the sampler that it uses.
    from deeptime.markov.tools.estimation.dense.tmat_sampling.sampler_rev import SamplerRev

    sampler = SamplerRev(np.asarray(counts, dtype=float), transitions, seed)
    steps = max(1, int(np.sqrt(len(counts))))  # between samples, so that they differ
    found = np.full((n_samples, n_processes), np.nan)
    for row in found:
        values = _implied(_symmetric(*sampler.sample(steps, return_statdist=True)), lag, n_processes)
        row[:len(values)] = values
    return found


def _implied(matrix: np.ndarray, lag: int, n_processes: int) -> np.ndarray:
    """Timescales, frames, of at most so many processes of a matrix of eigenvalues."""
    values = np.abs(np.linalg.eigvalsh(matrix)[-2::-1][:n_processes])
    return -lag / np.log(np.clip(values, 1e-12, 1 - 1e-12))


def _symmetric(transitions: np.ndarray, populations: np.ndarray) -> np.ndarray:
    """The symmetric matrix of the same eigenvalues that a reversible one has."""
    root = np.sqrt(populations)
    matrix = transitions * root[:, None] / root
    return (matrix + matrix.T) / 2


def _eigenvectors(transitions: np.ndarray, populations: np.ndarray, n_processes: int) -> np.ndarray:
    vectors = np.linalg.eigh(_symmetric(transitions, populations))[1]
    return (vectors / np.sqrt(populations)[:, None]).T[-2::-1][:n_processes]


def similarity(reference: MarkovModel, other: MarkovModel) -> np.ndarray:
    """Cosines (n_processes, n_processes), without sign, of the angles between processes of two models, rows those of
    the reference: in the scalar product that the reference's populations weight, over the cells that both connect. NaN
    where a process is missing."""
    n = len(reference.timescales)
    _, first, second = np.intersect1d(reference.states, other.states, return_indices=True)
    weight = np.sqrt(reference.populations[first])
    found = np.full((n, n), np.nan)
    a, b = reference.processes[:, first] * weight, other.processes[:, second] * weight
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    found[:len(a), :len(b)] = np.abs(a @ b.T) / np.where(lengths > 0, lengths, np.nan)
    return found


def metastable_states(model: MarkovModel, n_states: int, n_cells: int) -> np.ndarray:
    """The metastable state of each cell (n_cells,), by PCCA+ (S. Roeblitz, M. Weber, Adv. Data Anal. Classif. 7, 147
    (2013)), the most populated first; -1 for cells that the model does not connect."""
    from deeptime.markov import pcca

    found = np.full(n_cells, -1)
    if n_states > len(model.states):
        raise InputError(f"the reference connects {len(model.states)} cells, too few for {n_states} states: ask for "
                         "fewer processes, or give a longer reference")
    assigned = pcca(model.transitions, n_states, model.populations).assignments
    order = np.argsort(-np.bincount(assigned, model.populations, minlength=n_states))
    found[model.states] = np.argsort(order)[assigned]
    return found


def implied_timescales(paths: Sequence[np.ndarray], lags: Sequence[int], n_processes: int) -> np.ndarray:
    """Timescales (n_lags, n_processes), frames, of models of greatest likelihood; NaN where there is none at a lag."""
    from deeptime.markov import TransitionCountEstimator
    from deeptime.markov.msm import MaximumLikelihoodMSM

    found = np.full((len(lags), n_processes), np.nan)
    for row, lag in zip(found, lags):
        long = [np.ascontiguousarray(path, dtype=np.int32) for path in paths if len(path) > lag]
        counts = TransitionCountEstimator(int(lag), "sliding").fit_fetch(long).submodel_largest() if long else None
        if counts is None or counts.n_states < 2:
            continue
        model = MaximumLikelihoodMSM(reversible=True, maxerr=_LOOSE).fit(counts).fetch_model()
        values = _implied(_symmetric(model.transition_matrix, model.stationary_distribution), lag, n_processes)
        row[:len(values)] = values
    return found
