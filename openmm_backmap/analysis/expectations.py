"""Bonds, angles and planes of a structure against what its own force field expects of them.

A harmonic term k/2 (q - q0)^2 alone gives q the mean q0 and the standard deviation sqrt(k_B T / k). In a molecule
neighbours and packing add to that, so that a sound structure is near these values but not at them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.geometry.internal import bond_angles, bond_lengths, by_type, dihedral_angles
from openmm_backmap.units import GAS_CONSTANT

# Atomistic melts of polystyrene, octane and cumene from molecular dynamics stay within these: means up to 1.4 spreads
# off, spreads 0.56 to 0.93 of those expected, single values up to 3.9 spreads off. In a minimum, spreads of hydrogens
# and rings fall to 0.15 to 0.36.
MOST_SPREADS_OFF, NARROWEST, BROADEST, FARTHEST_SPREADS = 1.5, 0.45, 1.5, 5.0
_CONSTRAINT_NM = 2e-3
_ENOUGH_VALUES = 30
_MEASURES = {"bond": (bond_lengths, "nm"), "angle": (bond_angles, "degrees"), "improper": (dihedral_angles, "degrees")}


@dataclass(frozen=True)
class Expectation:
    """What a force field expects of one type of bond, angle or improper, and what was found.

    Attributes
    ----------
    kind : "bond", "angle" or "improper"
    name : str
        Type classes of its atoms, ``a-b-c``.
    unit : "nm" or "degrees"
    mean, spread : float
        Expected mean and standard deviation; the spread is 0 where the length is constrained.
    values : ndarray
        Found, over all samples.
    n_far : int
        Values farther than five spreads from the rest value of their own term; of constrained ones, farther than
        0.002 nm.
    """

    kind: str
    name: str
    unit: str
    mean: float
    spread: float
    values: np.ndarray = field(repr=False)
    n_far: int

    @property
    def difference(self) -> float | None:
        """Mean found less mean expected, in expected spreads; None where it is constrained."""
        return (self.values.mean() - self.mean) / self.spread if self.spread else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is unusual, in words; empty where nothing is."""
        if not self.spread:
            return (f"{self.n_far} off by more than {_CONSTRAINT_NM:g} nm",) if self.n_far else ()
        said = []
        if abs(self.difference) > MOST_SPREADS_OFF:
            said.append("mean is off")
        if self.values.size >= _ENOUGH_VALUES:
            breadth = self.values.std() / self.spread
            if breadth < NARROWEST:
                said.append("too narrow")
            if breadth > BROADEST:
                said.append("too broad")
        if self.n_far:
            said.append(f"{self.n_far} beyond {FARTHEST_SPREADS:g} spreads")
        return tuple(said)


@dataclass(frozen=True)
class _Terms:
    """Harmonic terms of a kind: atoms (n, 2 to 4), rest values (n,), spreads (n,), in the kind's unit."""

    kind: str
    atoms: np.ndarray
    rest: np.ndarray
    spread: np.ndarray


def expectations(target: Target, positions: np.ndarray, temperature_K: float) -> tuple[list[Expectation], list[str]]:
    """Expected and found bonds, angles and impropers, by type.

    Parameters
    ----------
    target : Target
    positions : ndarray, shape (n_samples, n_atoms, 3), nm
        Whole molecules.
    temperature_K : float

    Returns
    -------
    list of Expectation
        Bonds, angles, impropers; in each kind types without hydrogen first, then the most frequent.
    list of str
        Terms of the force field that act on bonds or angles and are left out of account.
    """
    from openmm_backmap.chemistry import create_system

    # Bonded terms are the same with and without a box, and without one no cutoff asks for a large one.
    terms, ignored = _harmonic_terms(target, create_system(target, None), temperature_K)
    found = [expected for kind in terms for expected in _of_kind(target, positions, kind)]
    return found, ignored


def _harmonic_terms(target: Target, system, temperature_K: float) -> tuple[list[_Terms], list[str]]:
    """Harmonic terms and constraints of ``system`` by kind, and words for what else acts on bonds and angles."""
    from openmm_backmap.energy.kinds import carries_no_energy, kind_of_force
    from openmm_backmap.energy.openmm_energy import constraints_of
    from openmm_backmap.energy.readers import read_force

    parts: dict[str, list[tuple]] = {kind: [] for kind in _MEASURES}
    pairs, lengths = constraints_of(system)
    parts["bond"].append((pairs, lengths, np.zeros(len(lengths))))
    ignored = []
    for force in system.getForces():
        kind = kind_of_force(force)
        if kind in _MEASURES:
            terms = read_force(force)
            columns = terms.parameters.numpy().T
            k, rest = columns[:2] if kind == "improper" else columns[1::-1]
            parts[kind].append((terms.atoms.numpy(), rest, np.sqrt(GAS_CONSTANT * temperature_K / k)))
        elif kind is None and not carries_no_energy(force) and _acts_on_few(force):
            ignored.append(force.getName())
    joined = [_joined(kind, rows) for kind, rows in parts.items()]
    bonds, far = _between_bonded(target, joined[0])
    if far:
        ignored.append(f"{far:,} harmonic terms between atoms that are not bonded (Urey-Bradley)")
    return [terms for terms in (bonds, *joined[1:]) if len(terms.atoms)], ignored


def _acts_on_few(force) -> bool:
    """Whether a force that is not known here is one of bonds or angles."""
    return any(hasattr(force, name) for name in ("getNumBonds", "getNumAngles"))


def _joined(kind: str, rows: list[tuple]) -> _Terms:
    if not rows:
        return _Terms(kind, np.empty((0, 2), dtype=np.int64), np.empty(0), np.empty(0))
    atoms, rest, spread = (np.concatenate(column) for column in zip(*rows))
    degrees = 1.0 if kind == "bond" else np.degrees(1.0)
    return _Terms(kind, atoms, degrees * rest, degrees * spread)


def _between_bonded(target: Target, terms: _Terms) -> tuple[_Terms, int]:
    """The terms along bonds of the target, and how many there are besides."""
    def keys(pairs: np.ndarray) -> np.ndarray:
        return pairs.min(axis=1) * target.n_atoms + pairs.max(axis=1)

    along = np.isin(keys(terms.atoms), keys(target.bonds))
    return _Terms(terms.kind, terms.atoms[along], terms.rest[along], terms.spread[along]), int((~along).sum())


def _of_kind(target: Target, positions: np.ndarray, terms: _Terms) -> Iterable[Expectation]:
    measure, unit = _MEASURES[terms.kind]
    light = np.array(target.elements) == "H"
    row_of = {tuple(row): k for k, row in enumerate(terms.atoms.tolist())}
    types = by_type(target, terms.atoms)
    for name, members in sorted(types.items(), key=lambda item: (light[item[1][0]].any(), -len(item[1]))):
        rows = np.array([row_of[tuple(row)] for row in members.tolist()])
        rest, spread = terms.rest[rows], terms.spread[rows]
        off = measure(positions[:, members]) - rest
        if terms.kind == "improper":
            off = (off + 180.0) % 360.0 - 180.0
        far = np.abs(off) > np.where(spread > 0, FARTHEST_SPREADS * spread, _CONSTRAINT_NM)
        # A mixture of terms scatters by their rest values as well.
        width = float(np.sqrt((spread**2).mean() + rest.var())) if spread.any() else 0.0
        yield Expectation(terms.kind, name, unit, float(rest.mean()), width, (rest + off).ravel(), int(far.sum()))
