"""A coarse-grained model: tabulated potentials by kinds of terms, and bonds of fixed length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from openmm_backmap.chemistry import Chemistry
from openmm_backmap.coarse.graph import BONDED, PAIR
from openmm_backmap.errors import UnknownNameError

KINDS = (*BONDED, PAIR)
#: kind -> unit of its variable
UNITS = {"bond": "nm", "angle": "degrees", "dihedral": "degrees", "improper": "degrees", PAIR: "nm"}


@dataclass(frozen=True)
class Term:
    """One tabulated potential.

    Attributes
    ----------
    kind : str
        ``bond``, ``angle``, ``dihedral``, ``improper`` or ``pair``.
    types : tuple of str
        Bead types along the path, from the end that sorts first; of an improper, centre first.
    x : ndarray, shape (n,)
        Evenly spaced, ascending: nm of bonds and pairs, degrees of the others. Angles go from 0 to 180, dihedrals and
        impropers from -180 to the last point before 180.
    energy : ndarray, shape (n,), kJ/mol
        A cubic spline goes through it; of a pair it is 0 beyond the last point.
    """

    kind: str
    types: tuple[str, ...]
    x: np.ndarray = field(repr=False)
    energy: np.ndarray = field(repr=False)

    @property
    def name(self) -> str:
        """As in ``angle A-B-B``."""
        return f"{self.kind} {'-'.join(self.types)}"


@dataclass(frozen=True)
class Constraint:
    """Bonds of two bead types that have one length, nm."""

    types: tuple[str, str]
    length_nm: float

    @property
    def name(self) -> str:
        return f"bond {'-'.join(self.types)}"


@dataclass(frozen=True)
class CGModel:
    """A force field of the beads of a chemistry.

    Attributes
    ----------
    chemistry : Chemistry
    temperature_K : float
        At which it was made.
    cutoff_nm : float
        Of pairs.
    excluded_bonds : int
        Pairs up to so many bonds apart have no pair potential.
    terms : tuple of Term
    constraints : tuple of Constraint
    provenance : dict
        What it was made from; plain values.
    """

    chemistry: Chemistry = field(repr=False)
    temperature_K: float
    cutoff_nm: float
    excluded_bonds: int
    terms: tuple[Term, ...]
    constraints: tuple[Constraint, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    def term(self, name: str) -> Term:
        """The term of a name such as ``pair A-B``; :class:`UnknownNameError` where there is none."""
        for term in self.terms:
            if term.name == name:
                return term
        raise UnknownNameError(f"the model has no term {name!r}; it has {', '.join(t.name for t in self.terms)}")

    def with_term(self, term: Term) -> CGModel:
        """A copy that has ``term`` in place of the one of that name."""
        old = self.term(term.name)
        return replace(self, terms=tuple(term if t is old else t for t in self.terms))

    def without(self, name: str) -> CGModel:
        """A copy without the term of this name."""
        old = self.term(name)
        return replace(self, terms=tuple(t for t in self.terms if t is not old))

    def of_kind(self, kind: str) -> Iterator[Term]:
        return (term for term in self.terms if term.kind == kind)
