"""A map of local structure: which environments occur, how often, and whether backmapping keeps them.

After M. Stieffenhofer, T. Bereau, M. Wand, APL Mater. 9, 031107 (2021), and the thesis of M. Stieffenhofer, sections
5.4.2 and 7.3.3: one environment a monomer, about the carbon that carries the side group, as a normalised SOAP vector p
without hydrogens; similarity k = p . p', hence distances sqrt(2 - 2 k); a sketch-map of landmarks of the reference, on
which everything else is placed; k-means clusters on the map, their populations, and the clusters that the atoms of one
monomer of one coarse-grained frame fall into before and after. Beside it the first two components of the kernel, plain
principal components.

What the beads leave open may be drawn otherwise: the matrix of clusters before and after need not be diagonal. The
populations and the surfaces have to agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.analysis import page, sketch_map
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.local_features import Sites, SoapSettings, frames_apart, monomer_centres, soap
from openmm_backmap.errors import InputError
from openmm_backmap.statistics import jackknife_error, jensen_shannon

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[str, int, int], None]
_SOAP = SoapSettings(0.5, 0.05, 6, 6, hydrogens=False)
_MOST_ENVIRONMENTS = 3000
_LEAST_ENVIRONMENTS = 50
_LANDMARKS = 200
_POOL = 3          # landmarks are taken out of one in so many, as published
# sigma is the median distance. High exponents above part basins clearly; low ones below let a basin spread.
_HIGH, _LOW = (8.0, 8.0), (2.0, 2.0)
_CLUSTERS = range(3, 9)
_OUTLIER_PERCENT = 99.0
_BINS = 15
_ROOM = 0.1
_SPLITS = 20


@dataclass(frozen=True)
class Surface:
    """How far the distribution on the plane is from that of the reference.

    Attributes
    ----------
    divergence : float
        Jensen-Shannon, bits.
    floor, floor_sd : float
        The same between parts of the reference, of the same sizes: mean and spread over splits.
    """

    divergence: float
    floor: float
    floor_sd: float


@dataclass(frozen=True)
class Mapped:
    """One ensemble on the map.

    Attributes
    ----------
    name : str
    places : ndarray of float32, shape (n, 2)
        On the sketch-map.
    components : ndarray of float32, shape (n, 2)
        First two kernel principal components of the reference.
    cluster : ndarray of int, shape (n,)
        The last number is for outliers: environments farther from every landmark than 99 % of the reference's.
    populations, population_errors : ndarray, shape (n_clusters + 1,)
        Shares, and standard errors by the jackknife over molecules of frames.
    confusion : ndarray of int, shape (n_clusters + 1, n_clusters + 1), or None
        Numbers of environments by cluster in the structure behind the coarse-grained frame (rows) and here (columns);
        None where no such structure is known, and for the reference.
    surface, component_surface : Surface or None
        Of the sketch-map and of the components; None for the reference.
    """

    name: str
    places: np.ndarray = field(repr=False)
    components: np.ndarray = field(repr=False)
    cluster: np.ndarray = field(repr=False)
    populations: np.ndarray
    population_errors: np.ndarray
    confusion: np.ndarray | None = None
    surface: Surface | None = None
    component_surface: Surface | None = None

    @property
    def kept(self) -> float | None:
        """Share of environments that stay in their cluster; right draws need not all."""
        return None if self.confusion is None else float(np.trace(self.confusion) / self.confusion.sum())


@dataclass(frozen=True)
class Landscape:
    """A map of the reference, and ensembles on it.

    Attributes
    ----------
    reference : Mapped
    judged : tuple of Mapped
    landmarks : ndarray, shape (n, 2)
    centres : ndarray, shape (n_clusters, 2)
    sigma, stress : float
        Of the sketch-map: its distance, and the mean squared difference of its sigmoids.
    explained : tuple of (float, float)
        Shares of the variance that the two components hold.
    silhouette : float
        Of the clusters.
    """

    reference: Mapped
    judged: tuple[Mapped, ...]
    landmarks: np.ndarray = field(repr=False)
    centres: np.ndarray = field(repr=False)
    sigma: float
    stress: float
    explained: tuple[float, float]
    silhouette: float


@dataclass(frozen=True)
class _Environments:
    vectors: np.ndarray
    sites: Sites
    frame: np.ndarray
    molecule: np.ndarray

    def take(self, index: np.ndarray) -> _Environments:
        return _Environments(self.vectors[index], self.sites.take(index), self.frame[index], self.molecule[index])


@dataclass(frozen=True)
class _Plane:
    """What a vector is placed by."""

    sketch: sketch_map.SketchMap
    components: object     # sklearn.decomposition.PCA
    clusters: object       # sklearn.cluster.KMeans
    farthest: float

    @property
    def n_clusters(self) -> int:
        return len(self.clusters.cluster_centers_)


def landscape(reference: Ensemble, judged: Sequence[Ensemble], *, paired: Ensemble | None = None, seed: int = 0,
              progress: Progress | None = None) -> Landscape:
    """Map environments of the reference, place those of judged ensembles, and compare.

    Parameters
    ----------
    reference : Ensemble
    judged : sequence of Ensemble
        Of the target of the reference; structures of equal ``frame`` are of one coarse-grained frame.
    paired : Ensemble, optional
        Atomistic structures of judged frames; without it those of ``reference``.
    seed : int
        For samples of environments, landmarks, clusters and splits.
    progress : callable, optional
        Called with a stage, what is done and of how much.

    Raises
    ------
    InputError
        Too few environments to map.
    """
    rng = np.random.default_rng(seed)
    everything = _environments(reference, rng, progress)
    order = rng.permutation(len(everything.frame))
    # Landmarks are as near to themselves as no other environment is: they are not counted.
    n_pool = len(order) // _POOL
    basis = everything.take(np.sort(order[n_pool:]))
    plane = _plane(everything.vectors[order[:n_pool]], basis.vectors, rng, progress)
    mapped = _mapped(reference.name, basis, plane)
    known = reference if paired is None else paired
    found = []
    for ensemble in judged:
        own = _environments(ensemble, rng, progress)
        part = _mapped(ensemble.name, own, plane)
        found.append(_compared(part, own, mapped, basis, _confusion(part, own, known, plane, progress), rng))
    explained = tuple(map(float, plane.components.explained_variance_ratio_))
    return Landscape(mapped, tuple(found), plane.sketch.places, plane.clusters.cluster_centers_.astype(float),
                     plane.sketch.sigma, plane.sketch.stress, explained, _silhouette(mapped.places, plane.clusters))


def _environments(ensemble: Ensemble, rng: np.random.Generator, progress: Progress | None) -> _Environments:
    """A random sample of the environments of an ensemble."""
    centres = monomer_centres(ensemble.target)
    everything = len(ensemble) * len(centres)
    if everything < _LEAST_ENVIRONMENTS:
        raise InputError(f"{ensemble.name}: {everything} monomers are too few for a map; at least "
                         f"{_LEAST_ENVIRONMENTS} are needed")
    drawn = np.sort(rng.choice(everything, min(everything, _MOST_ENVIRONMENTS), replace=False, shuffle=False))
    structure, k = np.divmod(drawn, len(centres))
    sites = Sites(structure, centres[k])
    return _Environments(_vectors(ensemble, sites, progress), sites, ensemble.frame[structure],
                         ensemble.target.molecule_of_atom[sites.atom])


def _vectors(ensemble: Ensemble, sites: Sites, progress: Progress | None) -> np.ndarray:
    vectors = soap(ensemble, sites, _SOAP, progress).astype(float)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _plane(pool: np.ndarray, vectors: np.ndarray, rng: np.random.Generator, progress: Progress | None) -> _Plane:
    """The map with landmarks out of ``pool``, and components, clusters and bounds that ``vectors`` give."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    seed = int(rng.integers(2 ** 31))
    landmarks = pool[sketch_map.farthest_points(pool, _LANDMARKS, int(rng.integers(len(pool))))]
    apart = sketch_map.distances(pool, pool)
    sigma = float(np.median(apart[np.triu_indices(len(pool), 1)]))
    sketch = sketch_map.fit(landmarks, sigma, high=_HIGH, low=_LOW, progress=progress)
    places = sketch_map.project(sketch, vectors)
    trials = [KMeans(k, n_init=4, random_state=seed).fit(places) for k in _CLUSTERS]
    clusters = max(trials, key=lambda trial: _silhouette(places, trial))
    nearest = sketch_map.distances(vectors, landmarks).min(1)
    return _Plane(sketch, PCA(2, random_state=seed).fit(vectors), clusters,
                  float(np.percentile(nearest, _OUTLIER_PERCENT)))


def _silhouette(places: np.ndarray, clusters) -> float:
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(places, clusters.predict(places.astype(float))))


def _mapped(name: str, found: _Environments, plane: _Plane) -> Mapped:
    places = sketch_map.project(plane.sketch, found.vectors)
    cluster = _clusters(found.vectors, places, plane)
    block = np.unique(np.stack([found.frame, found.molecule]), axis=1, return_inverse=True)[1].ravel()
    shares, errors = _populations(cluster, block, plane.n_clusters + 1)
    return Mapped(name, places.astype(np.float32), plane.components.transform(found.vectors).astype(np.float32),
                  cluster, shares, errors)


def _clusters(vectors: np.ndarray, places: np.ndarray, plane: _Plane) -> np.ndarray:
    nearest = sketch_map.distances(vectors, plane.sketch.landmarks).min(1)
    return np.where(nearest > plane.farthest, plane.n_clusters, plane.clusters.predict(places))


def _populations(cluster: np.ndarray, block: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    counts = np.zeros((block.max() + 1, n))
    np.add.at(counts, (block, cluster), 1)
    shares = counts.sum(0) / counts.sum()
    if len(counts) < 2:
        return shares, np.full(n, np.nan)
    left_out = (counts.sum(0) - counts) / (counts.sum() - counts.sum(1, keepdims=True))
    return shares, jackknife_error(left_out)


def _confusion(part: Mapped, found: _Environments, known: Ensemble, plane: _Plane,
               progress: Progress | None) -> np.ndarray | None:
    """Clusters of the same monomers in the structures behind their frames, against those here."""
    frames, first = np.unique(known.frame, return_index=True)
    rows = np.flatnonzero(np.isin(found.frame, frames))
    if not len(rows):
        return None
    structure = first[np.searchsorted(frames, found.frame[rows])]
    sites, inverse = np.unique(np.stack([structure, found.sites.atom[rows]]), axis=1, return_inverse=True)
    vectors = _vectors(known, Sites(*sites), progress)
    before = _clusters(vectors, sketch_map.project(plane.sketch, vectors), plane)[inverse.ravel()]
    counts = np.zeros((plane.n_clusters + 1,) * 2, dtype=np.int64)
    np.add.at(counts, (before, part.cluster[rows]), 1)
    return counts


def _compared(part: Mapped, found: _Environments, reference: Mapped, basis: _Environments,
              confusion: np.ndarray | None, rng: np.random.Generator) -> Mapped:
    surfaces = [_surface(getattr(part, name), getattr(reference, name), len(np.unique(found.frame)), basis, rng)
                for name in ("places", "components")]
    return Mapped(part.name, part.places, part.components, part.cluster, part.populations, part.population_errors,
                  confusion, *surfaces)


def _surface(points: np.ndarray, reference: np.ndarray, n_frames: int, basis: _Environments,
             rng: np.random.Generator) -> Surface:
    """Either is compared with what is left of the reference when a part is taken out, and with as many points: the
    part, which is the floor, and the judged ones."""
    # With no room around it, what lies outside of the reference by chance would count as if it lay far away.
    low, high = _frame(reference)
    judged, floor = [], []
    for _ in range(_SPLITS):
        part = frames_apart(basis.frame, n_frames, basis.molecule, rng)
        n = min(int(part.sum()), len(points))
        rest = _histogram(reference[~part], low, high)
        judged.append(jensen_shannon(_histogram(rng.permutation(points)[:n], low, high), rest))
        floor.append(jensen_shannon(_histogram(rng.permutation(reference[part])[:n], low, high), rest))
    return Surface(float(np.mean(judged)), float(np.mean(floor)), float(np.std(floor)))


def _frame(points: np.ndarray) -> np.ndarray:
    """Corners (2, 2) of a frame around ``points``."""
    low, high = points.min(0), points.max(0)
    return np.array([low, high]) + np.outer([-1, 1], _ROOM * (high - low))


def _histogram(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Counts in the cells of the plane; the last is for points outside of it."""
    cell = np.floor((points - low) / (high - low) * _BINS).astype(np.int64)
    inside = ((cell >= 0) & (cell < _BINS)).all(1)
    return np.bincount(np.where(inside, cell[:, 0] * _BINS + cell[:, 1], _BINS ** 2), minlength=_BINS ** 2 + 1)


def figure(found: Landscape) -> Figure:
    """A row an ensemble: the sketch-map, the components, populations and the matrix of clusters; grey: the
    reference."""
    drawn = page.figure(13, 3.2 * len(found.judged))
    rows = drawn.subplots(len(found.judged), 4, squeeze=False)
    names = [*map(str, range(1, len(found.centres) + 1)), "outliers"]
    for row, part in zip(rows, found.judged, strict=True):
        for axes, kind, surface in ((row[0], "places", part.surface),
                                    (row[1], "components", part.component_surface)):
            axes.plot(*getattr(found.reference, kind).T, ".", color="#b8bec4", markersize=2)
            axes.plot(*getattr(part, kind).T, ".", color="#0072b2", markersize=2, alpha=0.6)
            # What is placed far away would make all else small.
            (left, bottom), (right, top) = _frame(getattr(found.reference, kind))
            axes.set(xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top))
            axes.set_xlabel(f"JSD {surface.divergence:.3f}, floor {surface.floor:.3f} $\\pm$ {surface.floor_sd:.3f}")
        for k, centre in enumerate(found.centres):
            row[0].text(*centre, names[k], ha="center", va="center", fontweight="bold")
        row[0].set_title(f"{part.name}: sketch-map", fontsize=10)
        row[1].set_title("principal components", fontsize=10)
        _draw_populations(row[2], found.reference, part, names)
        _draw_confusion(row[3], part, names)
    return drawn


def _draw_populations(axes, reference: Mapped, part: Mapped, names: list[str]) -> None:
    at = np.arange(len(names))
    axes.bar(at - 0.2, reference.populations, 0.36, yerr=reference.population_errors, color="#b8bec4")
    axes.bar(at + 0.2, part.populations, 0.36, yerr=part.population_errors, color="#0072b2")
    axes.set_xticks(at, names)
    axes.set_title("populations", fontsize=10)


def _draw_confusion(axes, part: Mapped, names: list[str]) -> None:
    if part.confusion is None:
        axes.axis("off")
        return
    rows = part.confusion.sum(1, keepdims=True)
    shares = part.confusion / np.where(rows > 0, rows, 1)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for (i, j), share in np.ndenumerate(shares):
        axes.text(j, i, f"{share:.2f}", ha="center", va="center", fontsize=7,
                  color="white" if share > 0.6 else "black")
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="cluster here", ylabel="in the reference")
    axes.set_title("clusters of one monomer", fontsize=10)
