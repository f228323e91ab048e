"""Can a classifier tell judged structures from the reference? What no single distribution shows, it may.

D. Lopez-Paz, M. Oquab, "Revisiting classifier two-sample tests", ICLR 2017: if two samples are of one distribution, no
classifier does better than chance on data that it has not seen. The classifier sees environments of heavy atoms as
SOAP vectors and tells how likely each one is of the judged ensemble; the evidence of a bead is the mean of the log odds
of its atoms. The measure is the area under the ROC curve (AUC) of beads of one type: the probability that, of two
beads, one of either ensemble, the judged one looks more judged. 0.5 is chance, 1 is told at sight.

What is tested was not trained on: folds hold whole molecules, in all structures at once, or, where there are few
molecules, whole frames. Both ensembles take part with the same number of beads.

Where the atomistic structures of the judged frames are known, the judged are told from these: the beads are the same,
and only what is made of them can differ. The floor is then the same test after whole molecules of either side changed
sides by chance, which leaves nothing to find. Elsewhere the floor is the test between parts of the reference that share
no frame. Its scatter holds that frames themselves differ: one melt may be more stretched than others, and so are atoms
that are right for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.local_features import Sites, SoapSettings, frames_apart, kinds, soap
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import heavy_atoms
from openmm_backmap.statistics import jackknife_error

Progress = Callable[[str, int, int], None]
# Sharp ones for geometry, wide ones for packing; found by what they tell apart in a polystyrene melt.
_SOAP = (SoapSettings(0.3, 0.03, 6, 6), SoapSettings(0.5, 0.05, 6, 4))
_MOST_ATOMS = 3000
_FOLDS = 5
_LEAST_GROUPS = 10
_FLOOR_TESTS = 5
_FLOOR_FRAMES = 8      # reference frames for each judged one: enough for parts that differ
_COMPONENTS = 200
_HIDDEN = 128
_EPOCHS = 60
_LEAST_PROBABILITY = 1e-7
_SMALLEST_SPREAD = 1e-6
_STAGE = "two-sample tests"


@dataclass(frozen=True)
class BeadTest:
    """The test of one bead type: area under the ROC curve, its standard error and the number of beads a side."""

    auc: float
    error: float
    n_beads: int


@dataclass(frozen=True)
class TwoSample:
    """How well judged beads are told from those of the reference.

    Attributes
    ----------
    auc : float
        Area under the ROC curve, mean over bead types weighted by their numbers; 0.5 is chance.
    error : float
        Its standard error, by leaving out one molecule (or frame) after the other.
    floor_auc : float
        The same where there is nothing to find, mean of several tests.
    floor_error : float
        What one such test scatters by: between tests, or the standard error of one where that is larger.
    n_environments : int
        Beads of each of the two ensembles.
    n_atoms : int
        Heavy atoms of each of the two ensembles whose environments were seen.
    paired : bool
        Whether the reference structures are those of the judged frames.
    by_bead_type : dict of str to BeadTest
    """

    auc: float
    error: float
    floor_auc: float
    floor_error: float
    n_environments: int
    n_atoms: int
    paired: bool
    by_bead_type: dict[str, BeadTest]


@dataclass(frozen=True)
class _Sample:
    """Environments of the heavy atoms of some beads: vectors, kinds of atoms, and what they belong to."""

    features: np.ndarray
    kind: np.ndarray
    bead: np.ndarray       # a number for structure and bead
    bead_type: np.ndarray
    molecule: np.ndarray
    frame: np.ndarray

    def take(self, index: np.ndarray) -> _Sample:
        return _Sample(*(getattr(self, field.name)[index] for field in fields(self)))


@dataclass(frozen=True)
class _Outcome:
    total: BeadTest
    by_type: dict[int, BeadTest]
    n_atoms: int


def two_sample_test(reference: Ensemble, judged: Ensemble, *, paired: Ensemble | None = None, seed: int = 0,
                    progress: Progress | None = None) -> TwoSample:
    """Train a classifier to tell the judged ensemble from the reference, and see how well it does on unseen molecules.

    Of large ensembles a random sample is seen: memory and time are bounded.

    Parameters
    ----------
    reference, judged : Ensemble
        Of one target; structures of equal ``frame`` are of one coarse-grained frame.
    paired : Ensemble, optional
        Atomistic structures of the judged frames; without it those of ``reference``. If they hold every judged frame,
        they are what judged structures are to be told from.
    seed : int
        For the sample of beads, the folds and the classifier.
    progress : callable, optional
        Called with a stage, what is done and of how much.

    Returns
    -------
    TwoSample

    Raises
    ------
    InputError
        Too few molecules and frames to hold some out.
    """
    rng = np.random.default_rng(seed)
    judged_sample = _sample(judged, _MOST_ATOMS, rng, progress)
    known = _of_frames(reference if paired is None else paired, judged.frame)
    n_judged = len(np.unique(judged.frame))
    if known is not None:
        other, apart = _sample(known, _MOST_ATOMS, rng, progress), None
    else:
        reference = _some_frames(reference, _FLOOR_FRAMES * n_judged, rng)
        n_frames = len(np.unique(reference.frame))
        share = n_frames / min(n_judged, n_frames // 2) if n_frames > 1 else 2.0
        other, apart = _sample(reference, int(share * len(judged_sample.kind)), rng, progress), n_judged
    report = (lambda done: progress(_STAGE, done, 1 + _FLOOR_TESTS)) if progress else (lambda done: None)
    report(0)
    found = _test(other, judged_sample, rng)
    floor = []
    for k in range(_FLOOR_TESTS):
        report(1 + k)
        sides = _exchanged(other, judged_sample, rng) if apart is None else _apart(other, apart, rng)
        floor.append(_test(*sides, rng).total)
    report(1 + _FLOOR_TESTS)
    aucs = np.array([test.auc for test in floor])
    scatter = max(aucs.std(ddof=1), np.mean([test.error for test in floor]))
    names = reference.target.chemistry.bead_types
    return TwoSample(found.total.auc, found.total.error, float(aucs.mean()), float(scatter), found.total.n_beads,
                     found.n_atoms, known is not None, {names[t]: test for t, test in found.by_type.items()})


def _of_frames(ensemble: Ensemble, frames: np.ndarray) -> Ensemble | None:
    """The structures of these frames, if each has one."""
    own = np.flatnonzero(np.isin(ensemble.frame, frames))
    return ensemble.take(own) if np.isin(frames, ensemble.frame).all() else None


def _exchanged(one: _Sample, other: _Sample, rng: np.random.Generator) -> tuple[_Sample, _Sample]:
    """Both sides after every molecule of every frame has changed sides or not, by chance."""
    both = _joined(one, other)
    block = np.unique(np.stack([both.frame, both.molecule]), axis=1, return_inverse=True)[1].ravel()
    change = rng.random(block.max() + 1) < 0.5
    second = (np.arange(len(both.kind)) >= len(one.kind)) ^ change[block]
    return both.take(~second), both.take(second)


def _apart(sample: _Sample, n_part: int, rng: np.random.Generator) -> tuple[_Sample, _Sample]:
    first = frames_apart(sample.frame, n_part, sample.molecule, rng)
    return sample.take(~first), sample.take(first)


def _joined(one: _Sample, other: _Sample) -> _Sample:
    """One sample of both; beads are numbered on."""
    arrays = {field.name: np.concatenate([getattr(one, field.name), getattr(other, field.name)])
              for field in fields(_Sample)}
    arrays["bead"][len(one.kind):] += one.bead.max() + 1
    return _Sample(**arrays)


def _some_frames(ensemble: Ensemble, most: int, rng: np.random.Generator) -> Ensemble:
    frames = np.unique(ensemble.frame)
    if len(frames) <= most:
        return ensemble
    return ensemble.take(np.flatnonzero(np.isin(ensemble.frame, rng.permutation(frames)[:max(most, 2)])))


def _sample(ensemble: Ensemble, most_atoms: int, rng: np.random.Generator, progress: Progress | None) -> _Sample:
    """Beads drawn at random, with about ``most_atoms`` heavy atoms at most, and the environments of these."""
    target = ensemble.target
    atoms = heavy_atoms(target)
    atoms = atoms[np.argsort(target.bead_of_atom[atoms], kind="stable")]
    beads, start, count = np.unique(target.bead_of_atom[atoms], return_index=True, return_counts=True)
    everything = len(ensemble) * len(beads)
    n = min(everything, max(int(most_atoms / count.mean()), 1))
    drawn = np.sort(rng.choice(everything, n, replace=False, shuffle=False))
    structure, bead = np.divmod(drawn, len(beads))
    size = count[bead]
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    sites = Sites(np.repeat(structure, size), atoms[np.repeat(start[bead], size) + within])
    features = np.concatenate([soap(ensemble, sites, settings, progress) for settings in _SOAP], axis=1)
    owner = beads[np.repeat(bead, size)]
    return _Sample(features, kinds(target)[sites.atom], np.repeat(drawn, size), target.bead_type[owner],
                   target.molecule_of_atom[sites.atom], ensemble.frame[sites.structure])


def _test(reference: _Sample, judged: _Sample, rng: np.random.Generator) -> _Outcome:
    """One test, with as many beads of each type from either side."""
    sides = _as_many(reference, judged, rng)
    label = np.repeat([0, 1], [len(side.kind) for side in sides])
    sample = _joined(*sides)
    group = _groups(sample, label)
    odds, fold = _held_out_odds(sample.features, sample.kind, label, group, int(rng.integers(2 ** 31)))
    _, first, bead = np.unique(sample.bead, return_index=True, return_inverse=True)
    mean_odds = np.bincount(bead, odds) / np.bincount(bead)
    return _areas(mean_odds, label[first], fold[first], group[first], sample.bead_type[first], len(label) // 2)


def _as_many(reference: _Sample, judged: _Sample, rng: np.random.Generator) -> list[_Sample]:
    """Either side with the same number of beads of each type."""
    counts = []
    for side in (reference, judged):
        first = np.unique(side.bead, return_index=True)[1]
        counts.append((side.bead[first], side.bead_type[first]))
    kept = [[], []]
    for kind in np.unique(judged.bead_type):
        members = [beads[types == kind] for beads, types in counts]
        n = min(map(len, members))
        for keep, found in zip(kept, members, strict=True):
            keep.append(rng.permutation(found)[:n])
    return [side.take(np.isin(side.bead, np.concatenate(keep)))
            for side, keep in zip((reference, judged), kept, strict=True)]


def _groups(sample: _Sample, label: np.ndarray) -> np.ndarray:
    """What a fold holds out as one: a molecule, or a frame where there are few molecules."""
    for group in (sample.molecule, sample.frame):
        found, number = np.unique(group, return_inverse=True)
        each = min(len(np.unique(group[label == k])) for k in (0, 1))
        if len(found) >= _LEAST_GROUPS and each >= _FOLDS:
            return number
    raise InputError(f"too few molecules and frames to test a classifier on some that it was not trained on: at least "
                     f"{_LEAST_GROUPS} molecules, or {_LEAST_GROUPS} frames of the reference and {_FOLDS} judged ones, "
                     "are needed")


def _held_out_odds(features: np.ndarray, kind: np.ndarray, label: np.ndarray, group: np.ndarray,
                   seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log odds (n,) that an environment is judged, by classifiers that did not see its group; and its fold (n,)."""
    from sklearn.model_selection import StratifiedGroupKFold

    odds, fold = np.empty(len(label)), np.empty(len(label), dtype=np.int64)
    splits = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed).split(features, label, group)
    for k, (train, test) in enumerate(splits):
        scaled = _standardised(features, kind, train)
        p = _trained(scaled[train], label[train], seed + k).predict_proba(scaled[test])[:, 1].astype(float)
        p = np.clip(p, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        odds[test] = np.log(p / (1 - p))
        fold[test] = k
    return odds, fold


def _standardised(features: np.ndarray, kind: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Features with mean 0 and spread 1 for each kind of atom, as found in ``train``: what is left is how an atom
    differs from others in its place."""
    scaled = np.empty_like(features)
    smallest = _SMALLEST_SPREAD * np.abs(features[train]).max()
    for k in np.unique(kind):
        own = train[kind[train] == k]
        own = own if len(own) > 1 else train
        rows = kind == k
        scaled[rows] = (features[rows] - features[own].mean(0)) / np.maximum(features[own].std(0), smallest)
    return scaled


def _trained(features: np.ndarray, label: np.ndarray, seed: int):
    """Principal components of equal weight, then one hidden layer: the small deviations, in which stiff degrees of
    freedom show, count as much as the large ones."""
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline

    n = min(_COMPONENTS, features.shape[1], len(features) // 4)
    network = MLPClassifier((_HIDDEN,), alpha=1.0, early_stopping=True, max_iter=_EPOCHS, random_state=seed)
    with warnings.catch_warnings():
        # The number of epochs is a budget, not a fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(PCA(n, whiten=True, random_state=seed), network).fit(features, label)


def _areas(odds: np.ndarray, label: np.ndarray, fold: np.ndarray, group: np.ndarray, bead_type: np.ndarray,
           n_atoms: int) -> _Outcome:
    """Areas under the ROC curve by bead type and over all, with standard errors by the jackknife over groups.

    Pairs of beads are formed within folds: classifiers of two folds have scales of their own.
    """
    n_groups = group.max() + 1
    by_type, weights, left_out = {}, [], []
    for kind in np.unique(bead_type):
        right, pairs = np.zeros((2, n_groups, n_groups))
        for k in np.unique(fold):
            a, b = (np.flatnonzero((bead_type == kind) & (fold == k) & (label == side)) for side in (0, 1))
            better = (odds[b] > odds[a, None]) + 0.5 * (odds[b] == odds[a, None])
            by_group = np.zeros((len(a), n_groups))
            np.add.at(by_group.T, group[b], better.T)
            np.add.at(right, group[a], by_group)
            pairs += np.outer(np.bincount(group[a], minlength=n_groups), np.bincount(group[b], minlength=n_groups))
        if not pairs.any():
            continue
        rest = pairs.sum() - pairs.sum(0) - pairs.sum(1) + np.diag(pairs)
        without = (right.sum() - right.sum(0) - right.sum(1) + np.diag(right)) / np.where(rest > 0, rest, np.nan)
        n = int(((bead_type == kind) & (label == 1)).sum())
        by_type[int(kind)] = BeadTest(float(right.sum() / pairs.sum()), float(jackknife_error(without)), n)
        weights.append(n)
        left_out.append(without)
    total = float(np.average([test.auc for test in by_type.values()], weights=weights))
    error = float(jackknife_error(np.average(left_out, axis=0, weights=weights)))
    return _Outcome(BeadTest(total, error, sum(weights)), by_type, n_atoms)
