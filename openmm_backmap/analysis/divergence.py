"""How far the distributions of one ensemble are from those of another, next to how far the reference is from itself.

The floor: the reference is split at random, many times, into a part as large as the judged ensemble (at most half of
it) and the rest, and the two are compared as the judged ensemble and the reference are. Its mean is what chance alone
gives to structures that are right; its spread says how much that varies. A divergence within about two spreads of the
floor cannot be told from the reference with these structures. As the rest is smaller than the whole reference, and the
part may be smaller than the judged ensemble, the floor lies a little above what right structures score on average.
Structures that follow each other closely in time are alike; their floor is too low for structures that are independent
of them. A single reference structure is split into halves of its molecules, which are twice as coarse as the whole, and
one box does not tell how boxes differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openmm_backmap.analysis.describe import WINDOWS, Description
from openmm_backmap.analysis.energies import ENERGIES
from openmm_backmap.analysis.radial import HEAVY, radial_distribution
from openmm_backmap.errors import InputError
from openmm_backmap.statistics import jensen_shannon, normalised

_ENERGY_BINS = 30
# Below the lowest and above the highest of the reference: so many times their distance, and at most so many kJ/mol.
_ENERGY_MARGINS, _LARGEST_MARGINS = np.array([1.5, 3.0]), np.array([200.0, 400.0])
_RADIAL_START_NM = 0.15
_SIDED_SAMPLES = 100
_PSI_KINDS = ("bond", "angle", "dihedral")


def absolute_difference(p_counts: np.ndarray, q_counts: np.ndarray) -> float | np.ndarray:
    """Integral of |p - q| of two histograms, 0 to 2; arguments and shapes as for :func:`jensen_shannon`."""
    difference = np.abs(normalised(p_counts) - normalised(q_counts)).sum(axis=-1)
    return float(difference) if difference.ndim == 0 else difference


@dataclass(frozen=True)
class Row:
    """One distribution.

    Attributes
    ----------
    kind : str
        ``bond``, ``angle``, ``dihedral``, ``improper`` or ``energy``.
    name : str
        The type, or which energy (by molecule).
    divergence : float
        Jensen-Shannon, bits.
    floor, floor_sd : float
        Mean and spread of the same between parts of the reference; NaN where it cannot be split.
    mean_reference, mean, sd_reference, sd : float
        In ``unit``; of dihedrals on the circle (K. V. Mardia, P. E. Jupp, Directional Statistics (2000)).
    unit : str
    """

    kind: str
    name: str
    divergence: float
    floor: float
    floor_sd: float
    mean_reference: float
    mean: float
    sd_reference: float
    sd: float
    unit: str


@dataclass(frozen=True)
class RadialRow:
    """One g(r): ``difference`` is the mean |difference| from 0.15 nm on; floor and spread as in :class:`Row`."""

    name: str
    difference: float
    floor: float
    floor_sd: float


@dataclass(frozen=True)
class Comparison:
    """A judged ensemble against a reference.

    Attributes
    ----------
    reference, judged : str
    n_reference, n_judged : int
        Structures.
    rows : tuple of Row
    radial : tuple of RadialRow
        By pair of types, intra- and intermolecular, and ``heavy`` for all pairs of heavy atoms together.
    psi, psi_floor, psi_floor_sd : float
        Sum over the types of bonds, angles and dihedrals of the integral of |p - p_reference| (W. Li et al., J. Chem.
        Phys. 153, 041101 (2020)); each is 0 to 2.
    turned : int
        Dihedrals that are cis where the reference is always trans, or trans where it is always cis.
    turnable : int
        Dihedrals of the judged ensemble of such types: in the reference none of at least 100 lies between 60 and 120
        degrees or on the other side.
    """

    reference: str
    judged: str
    n_reference: int
    n_judged: int
    rows: tuple[Row, ...]
    radial: tuple[RadialRow, ...]
    psi: float
    psi_floor: float
    psi_floor_sd: float
    turned: int
    turnable: int

    def summary(self) -> dict[str, float]:
        """Numbers for a table, ``..._floor`` beside each: ``bond_mean``, ``bond_worst`` and so on by kind that is
        there, one for each energy (``lennard_jones_energy``), ``radial`` (heavy atoms), ``psi``; and ``turned``, the
        share of the dihedrals that can be."""
        numbers: dict[str, float] = {}
        for kind in WINDOWS:
            rows = [row for row in self.rows if row.kind == kind]
            if rows:
                for name, add in (("mean", np.mean), ("worst", np.max)):
                    numbers[f"{kind}_{name}"] = float(add([row.divergence for row in rows]))
                    numbers[f"{kind}_{name}_floor"] = float(add([row.floor for row in rows]))
        for row in (row for row in self.rows if row.kind == "energy"):
            name = row.name.replace("-", "_") + "_energy"
            numbers[name], numbers[f"{name}_floor"] = row.divergence, row.floor
        heavy = next(row for row in self.radial if row.name == HEAVY)
        return {**numbers, "radial": heavy.difference, "radial_floor": heavy.floor, "psi": self.psi,
                "psi_floor": self.psi_floor, "turned": self.turned / self.turnable if self.turnable else 0.0}


def compare(reference: Description, judged: Description, *, rng: np.random.Generator,
            n_splits: int = 20) -> Comparison:
    """Compare all distributions of two ensembles of the same molecules.

    Parameters
    ----------
    reference, judged : Description
    rng : numpy.random.Generator
        Draws the splits of the reference.
    n_splits : int

    Raises
    ------
    InputError
        The two do not have the same types.
    """
    _check_types(reference, judged)
    splits = _Splits.draw(reference, len(judged), rng, n_splits)
    rows = [_internal_row(kind, name, reference, judged, splits) for kind in WINDOWS
            for name in reference.histograms[kind]]
    rows += [_energy_row(name, reference, judged, splits) for name in ENERGIES]
    tables = [(d.histograms[k][name] for d in (reference, judged, splits.parts))
              for k in _PSI_KINDS for name in reference.histograms[k]]
    differences = [_with_floor(*table, splits, absolute_difference) for table in tables]
    floors = np.sum([floor for _, floor in differences], axis=0)
    sides = [_turned(*(d.histograms["dihedral"][name] for d in (reference, judged)), reference.edges["dihedral"])
             for name in reference.histograms["dihedral"]]
    turned, turnable = np.sum([(0, 0), *sides], axis=0).tolist()
    return Comparison(
        reference.name, judged.name, len(reference), len(judged), tuple(rows),
        tuple(_radial_rows(reference, judged, splits)), float(sum(value for value, _ in differences)),
        float(floors.mean()), float(floors.std()), turned, turnable)


def _check_types(reference: Description, judged: Description) -> None:
    for kind in WINDOWS:
        odd = sorted(set(reference.histograms[kind]) ^ set(judged.histograms[kind]))
        if odd:
            raise InputError(f"{reference.name} and {judged.name} do not have the same molecules: only one of them has "
                             f"the {kind} {odd[0]}; compare structures of one chemistry")


@dataclass(frozen=True)
class _Splits:
    """Random halves of the reference: ``chosen`` (n_splits, n_parts) marks the rows of ``parts`` in the smaller."""

    parts: Description
    chosen: np.ndarray

    @classmethod
    def draw(cls, reference: Description, n_judged: int, rng: np.random.Generator, n_splits: int) -> _Splits:
        # One structure can only be split by molecules; groups of them serve for the halves alone.
        parts = reference.molecular if len(reference) == 1 and reference.molecular else reference
        size = len(parts) // 2 if parts is not reference else min(n_judged, len(parts) // 2)
        chosen = np.zeros((n_splits, len(parts)), dtype=bool)
        for row in chosen:
            row[rng.permutation(len(parts))[:size]] = True
        return cls(parts, chosen)

    def halves(self, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the rows of ``table`` (n_parts, ...) over the rest and over the part, each (n_splits, ...)."""
        chosen = self.chosen.astype(float)
        return np.tensordot(1 - chosen, table, axes=1), np.tensordot(chosen, table, axes=1)


def _with_floor(reference: np.ndarray, judged: np.ndarray, parts: np.ndarray, splits: _Splits,
                measure: Callable) -> tuple[float, np.ndarray]:
    """``measure`` of histograms (n_structures, n_bins), and of the halves of the reference (n_splits,)."""
    return measure(reference.sum(axis=0), judged.sum(axis=0)), measure(*splits.halves(parts))


def _internal_row(kind: str, name: str, reference: Description, judged: Description, splits: _Splits) -> Row:
    tables = [d.histograms[kind][name] for d in (reference, judged, splits.parts)]
    divergence, floor = _with_floor(*tables, splits, jensen_shannon)
    spread = _circular if kind == "dihedral" else _linear
    (mean_reference, sd_reference), (mean, sd) = (spread(*d.moments[kind][name].sum(axis=0))
                                                  for d in (reference, judged))
    return Row(kind, name, divergence, float(floor.mean()), float(floor.std()), mean_reference, mean, sd_reference, sd,
               WINDOWS[kind][3])


def _linear(n: float, total: float, squares: float) -> tuple[float, float]:
    mean = total / n
    return float(mean), float(np.sqrt(max(squares / n - mean ** 2, 0.0)))


def _circular(n: float, cosines: float, sines: float) -> tuple[float, float]:
    length = min(np.hypot(cosines, sines) / n, 1.0)
    sd = np.sqrt(-2 * np.log(length)) if length > 0 else np.inf
    return float(np.degrees(np.arctan2(sines, cosines))), float(np.degrees(sd))


def _energy_row(name: str, reference: Description, judged: Description, splits: _Splits) -> Row:
    values = reference.energies[name]
    # Energies that do not differ at all (none of the kind, all bonds constrained) still need bins.
    below, above = np.clip(_ENERGY_MARGINS * np.ptp(values), 1e-3, _LARGEST_MARGINS)
    edges = np.linspace(values.min() - below, values.max() + above, _ENERGY_BINS + 1)
    tables = [_energy_counts(d.energies[name], edges) for d in (reference, judged, splits.parts)]
    divergence, floor = _with_floor(*tables, splits, jensen_shannon)
    other = judged.energies[name]
    with np.errstate(invalid="ignore", over="ignore"):   # atoms on top of each other: the spread may be beyond a float
        return Row("energy", name, divergence, float(floor.mean()), float(floor.std()), float(values.mean()),
                   float(other.mean()), float(values.std()), float(other.std()), "kJ/mol")


def _energy_counts(energies: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Histograms (n_rows, n_bins + 1) of energies (n_rows, n_molecules), the last bin outside; NaN is no molecule."""
    n_bins = len(edges) - 1
    bins = np.searchsorted(edges, energies, side="right") - 1
    bins = np.where(energies == edges[-1], n_bins - 1, np.where(bins < 0, n_bins, bins))
    row = np.broadcast_to(np.arange(len(energies))[:, None], energies.shape)
    there = ~np.isnan(energies)
    counts = np.bincount(row[there] * (n_bins + 1) + bins[there], minlength=len(energies) * (n_bins + 1))
    return counts.reshape(len(energies), n_bins + 1)


def _radial_rows(reference: Description, judged: Description, splits: _Splits) -> list[RadialRow]:
    rows = []
    for name in (*reference.radial, HEAVY):
        terms = (f"{HEAVY} intra", f"{HEAVY} inter") if name == HEAVY else (name,)
        edges = min((d.edges["radial"] for d in (reference, judged)), key=len)
        first = int(np.searchsorted(edges, _RADIAL_START_NM - 1e-9))
        table = lambda d: (sum(d.radial[t] for t in terms)[:, :len(edges) - 1], d.radial_density[terms[0]])  # noqa: B023,E731
        ours, theirs = (radial_distribution(*table(d), edges) for d in (reference, judged))
        counts, density = (splits.halves(array) for array in table(splits.parts))
        halves = [radial_distribution(c[:, None], n[:, None], edges) for c, n in zip(counts, density, strict=True)]
        floor = np.abs(halves[0] - halves[1])[:, first:].mean(axis=1)
        floor = floor if len(splits.parts) > 1 else np.full(len(floor), np.nan)
        rows.append(RadialRow(name, float(np.abs(ours - theirs)[first:].mean()), float(floor.mean()),
                              float(floor.std())))
    return rows


def _turned(reference: np.ndarray, judged: np.ndarray, edges: np.ndarray) -> tuple[int, int]:
    """How many of a type's dihedrals turned to the other side, of how many, where the reference has one side only."""
    angle = np.abs((edges[1:] + edges[:-1]) / 2)
    have, got = reference.sum(axis=0)[:-1], judged.sum(axis=0)[:-1]
    for own, wrong in ((angle < 60, angle > 90), (angle > 120, angle < 90)):
        if have.sum() >= _SIDED_SAMPLES and not have[~own].any():
            return int(got[wrong].sum()), int(got.sum())
    return 0, 0
