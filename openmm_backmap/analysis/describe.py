"""What an ensemble looks like, structure by structure: distributions, energies, defects.

A description is additive: any part of an ensemble is described by some of its rows, and nothing of it asks for the
atoms again. Values outside of a histogram's window count in one more bin, so that none is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from openmm_backmap.analysis.defects import DEFECTS, count_defects, opportunities
from openmm_backmap.analysis.energies import ENERGIES, molecule_energies
from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.kept import keep, kept
from openmm_backmap.analysis.radial import histogram_range, pair_blocks, pair_types, range_edges, volume
from openmm_backmap.chemistry import Target
from openmm_backmap.chemistry.system import check_box
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import mapping_rmsd, once_per_target
from openmm_backmap.geometry.internal import (
    angles_of,
    bond_angles,
    bond_lengths,
    by_type,
    dihedral_angles,
    dihedrals_of,
    impropers_of,
    out_of_plane_angles,
)

#: kind -> lowest value, highest value, bins, unit
WINDOWS = {"bond": (0.05, 0.30, 250, "nm"), "angle": (0.0, 180.0, 180, "degrees"),
           "dihedral": (-180.0, 180.0, 72, "degrees"), "improper": (-90.0, 90.0, 180, "degrees")}
# Force fields give bonds in whole picometres, and a constrained bond is that long but for its last digits: edges a
# little below keep those digits from deciding the bin.
_EDGE_BELOW = {"bond": 2e-6}
_GROUPS = 40


@dataclass(frozen=True)
class Description:
    """Counts and values of every structure of an ensemble; rows are structures.

    Attributes
    ----------
    name : str
    histograms : dict of dict of ndarray of int, shape (n_structures, n_bins + 1)
        By kind (``bond``, ``angle``, ``dihedral``, ``improper``) and type; the last bin is outside of the window.
    edges : dict of ndarray, shape (n_bins + 1,)
        By kind, nm or degrees; also ``radial``, nm.
    moments : dict of dict of ndarray, shape (n_structures, 3)
        Number, sum and sum of squares of the values; of dihedrals number, sum of cosines and sum of sines.
    radial : dict of ndarray of int, shape (n_structures, n_bins)
        Pairs by distance, each from both ends: ``A-B intra``, ``A-B inter``, ``heavy intra``, ``heavy inter``.
    radial_density : dict of ndarray, shape (n_structures,), 1/nm3
        Pairs of these types at any distance, from both ends, over the volume.
    energies : dict of ndarray, shape (n_structures, n_molecules), kJ/mol
        See :mod:`openmm_backmap.analysis.energies`. NaN where a molecule is not in the row.
    defects : dict of ndarray of int, shape (n_structures,)
        See :mod:`openmm_backmap.analysis.defects`.
    opportunities : dict of int
        How many defects of each kind a structure could have.
    bead_rmsd : ndarray, shape (n_structures,), nm, or None
        Distance of M(r) from the beads given.
    molecular : Description or None
        Of an ensemble of one structure: the same by groups of its molecules, so that it can be split.
    """

    name: str
    histograms: dict[str, dict[str, np.ndarray]] = field(repr=False)
    edges: dict[str, np.ndarray] = field(repr=False)
    moments: dict[str, dict[str, np.ndarray]] = field(repr=False)
    radial: dict[str, np.ndarray] = field(repr=False)
    radial_density: dict[str, np.ndarray] = field(repr=False)
    energies: dict[str, np.ndarray] = field(repr=False)
    defects: dict[str, np.ndarray] = field(repr=False)
    opportunities: dict[str, int]
    bead_rmsd: np.ndarray | None = field(default=None, repr=False)
    molecular: Description | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.energies[ENERGIES[0]])

    def take(self, index) -> Description:
        """Some of the structures: indices or a mask."""
        index = np.atleast_1d(index)
        rows = lambda table: {key: rows(value) if isinstance(value, dict) else value[index]  # noqa: E731
                              for key, value in table.items()}
        part = replace(self, **{name: rows(getattr(self, name)) for name in (
            "histograms", "moments", "radial", "radial_density", "energies", "defects")},
            bead_rmsd=None if self.bead_rmsd is None else self.bead_rmsd[index])
        return part if len(part) == len(self) else replace(part, molecular=None)

    def save(self, path: str | Path) -> None:
        """Write a file (NumPy's .npz) that :meth:`load` reads; one that is there is replaced."""
        keep(Path(path), self)

    @staticmethod
    def load(path: str | Path) -> Description:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            The file is missing, damaged or holds something else.
        """
        found = kept(Path(path))
        if not isinstance(found, Description):
            raise InputError(f"{path}: holds a {type(found).__name__}, not the description of an ensemble")
        return found


def describe(ensemble: Ensemble, progress=None) -> Description:
    """Describe every structure of an ensemble.

    Parameters
    ----------
    ensemble : Ensemble
    progress : callable, optional
        ``progress(stage, done, total)``.

    Raises
    ------
    InputError
        No structures, positions that are not finite, a box too small for the force field's cutoff.
    UnsupportedForceError
        The force field has a force that is not known here.
    """
    _check(ensemble)
    target, n = ensemble.target, len(ensemble)
    n_molecules = int(target.molecule_of_atom.max()) + 1
    n_groups = min(n_molecules, _GROUPS) if n == 1 else 1
    group = np.arange(n_molecules) % n_groups
    range_nm = histogram_range(ensemble.boxes)
    rows = []
    for k in range(n):
        if progress:
            progress(f"describing {ensemble.name}", k, n)
        rows.append(_describe_one(ensemble, k, range_nm, group, n_groups))
    if progress:
        progress(f"describing {ensemble.name}", n, n)
    whole = _assembled(ensemble, [row.together() for row in rows], range_nm)
    return replace(
        whole, defects=dict(zip(DEFECTS, np.array([row.defects for row in rows]).T, strict=True)),
        opportunities=dict(zip(DEFECTS, opportunities(target).tolist(), strict=True)),
        bead_rmsd=None if ensemble.beads is None else np.array([row.bead_rmsd for row in rows]),
        molecular=_by_group(ensemble, rows[0], range_nm, group) if n_groups > 1 else None)


def _check(ensemble: Ensemble) -> None:
    if not len(ensemble):
        raise InputError(f"{ensemble.name}: no structures to describe")
    if not np.isfinite(ensemble.positions).all():
        raise InputError(f"{ensemble.name}: some positions are not finite; give every atom a place")
    for box in () if ensemble.boxes is None else ensemble.boxes:
        check_box(box, ensemble.target.chemistry.nonbonded.cutoff_nm)


@dataclass(frozen=True)
class _Kind:
    """Internal coordinates of one kind: atoms (n, width), the number of each one's type, and how to measure them."""

    names: tuple[str, ...]
    members: np.ndarray
    type_of_member: np.ndarray
    measure: Callable[[np.ndarray], np.ndarray]
    edges: np.ndarray
    circular: bool

    def count(self, positions: np.ndarray, group_of_atom: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Histograms (n_groups, n_types, n_bins + 1) and moments (n_groups, n_types, 3) of one structure."""
        values = self.measure(positions[self.members])
        n_types, n_bins = len(self.names), len(self.edges) - 1
        bins = np.searchsorted(self.edges, values, side="right") - 1
        bins = np.where(values == self.edges[-1], n_bins - 1, np.where(bins < 0, n_bins, bins))
        row = group_of_atom[self.members[:, 0]] * n_types + self.type_of_member
        counts = np.bincount(row * (n_bins + 1) + bins, minlength=n_groups * n_types * (n_bins + 1))
        angle = np.radians(values)
        sums = (np.cos(angle), np.sin(angle)) if self.circular else (values, values ** 2)
        moments = [np.bincount(row, weights, minlength=n_groups * n_types) for weights in (None, *sums)]
        return (counts.reshape(n_groups, n_types, n_bins + 1).astype(np.int32),
                np.stack(moments, axis=-1).reshape(n_groups, n_types, 3))


@once_per_target
def _kinds(target: Target) -> dict[str, _Kind]:
    found = {"bond": (target.bonds, bond_lengths), "angle": (angles_of(target), bond_angles),
             "dihedral": (dihedrals_of(target), dihedral_angles),
             "improper": (impropers_of(target), out_of_plane_angles)}
    kinds = {}
    for kind, (members, measure) in found.items():
        types = by_type(target, members, centred=kind == "improper")
        low, high, n_bins, _ = WINDOWS[kind]
        kinds[kind] = _Kind(
            tuple(types), np.concatenate([*types.values(), members[:0]]),
            np.repeat(np.arange(len(types)), [len(rows) for rows in types.values()]), measure,
            np.linspace(low, high, n_bins + 1) - _EDGE_BELOW.get(kind, 0.0), kind == "dihedral")
    return kinds


@dataclass(frozen=True)
class _Rows:
    """One structure; counts, moments, radial and density by groups of its molecules, the rest of the whole."""

    counts: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]
    radial: np.ndarray
    density: np.ndarray
    energies: np.ndarray
    defects: np.ndarray
    bead_rmsd: float | None

    def together(self) -> _Rows:
        """All molecules in one group."""
        add = lambda array: array.sum(axis=0, keepdims=True)  # noqa: E731
        return replace(self, counts={k: add(v) for k, v in self.counts.items()},
                       moments={k: add(v) for k, v in self.moments.items()}, radial=add(self.radial),
                       density=add(self.density))


def _describe_one(ensemble: Ensemble, k: int, range_nm: float, group: np.ndarray, n_groups: int) -> _Rows:
    target, box, positions = ensemble.target, ensemble.box(k), ensemble.positions[k].astype(float)
    of_atom = group[target.molecule_of_atom]
    measured = {name: kind.count(positions, of_atom, n_groups) for name, kind in _kinds(target).items()}
    pairs, force_field, edges = pair_types(target), molecule_energies(target), range_edges(range_nm)
    energies = force_field.within(positions)
    radial = np.zeros((n_groups, len(pairs.names), len(edges) - 1), dtype=np.int64)
    for i, j, r in pair_blocks(positions, box, max(range_nm, force_field.cutoff_nm)):
        radial += pairs.counts(i, j, r, edges, group, n_groups)
        energies += force_field.between(i, j, r)
    beads = None if ensemble.beads is None else ensemble.beads[k]
    return _Rows({name: value[0] for name, value in measured.items()},
                 {name: value[1] for name, value in measured.items()}, radial,
                 pairs.ends(group, n_groups) / volume(box, range_nm), energies, count_defects(target, positions, box),
                 None if beads is None else float(mapping_rmsd(target, positions, beads, box)))


def _assembled(ensemble: Ensemble, rows: list[_Rows], range_nm: float) -> Description:
    kinds, pairs = _kinds(ensemble.target), pair_types(ensemble.target).names

    def joined(arrays, names) -> dict[str, np.ndarray]:
        array = np.concatenate(list(arrays))
        return {name: np.ascontiguousarray(array[:, t]) for t, name in enumerate(names)}

    return Description(
        name=ensemble.name,
        histograms={k: joined((row.counts[k] for row in rows), kind.names) for k, kind in kinds.items()},
        edges={**{k: kind.edges for k, kind in kinds.items()}, "radial": range_edges(range_nm)},
        moments={k: joined((row.moments[k] for row in rows), kind.names) for k, kind in kinds.items()},
        radial=joined((row.radial for row in rows), pairs),
        radial_density=joined((row.density for row in rows), pairs),
        energies=dict(zip(ENERGIES, np.stack([row.energies for row in rows], axis=1), strict=True)),
        defects={}, opportunities={})


def _by_group(ensemble: Ensemble, row: _Rows, range_nm: float, group: np.ndarray) -> Description:
    whole = _assembled(ensemble, [row], range_nm)
    member = np.arange(group.max() + 1)[:, None] == group
    return replace(whole, energies={name: np.where(member, values, np.nan) for name, values in whole.energies.items()})
