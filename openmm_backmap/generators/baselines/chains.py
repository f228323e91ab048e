"""A melt has few distinct chains and many copies of each: what holds for one is worked out once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_backmap.chemistry import Target


@dataclass(frozen=True)
class Copies:
    """Chains of one kind: their monomers, the numbers of the first atom and bead of each (n_copies,), and for each
    bead of the first copy its atoms, counted from the chain's first."""

    chain: tuple[str, ...]
    first_atom: np.ndarray
    first_bead: np.ndarray
    atoms_of_bead: tuple[np.ndarray, ...]


def distinct_chains(target: Target) -> list[Copies]:
    """The distinct chains of ``target`` in order of first appearance."""
    index: dict[tuple[str, ...], list[int]] = {}
    for k, chain in enumerate(target.chains):
        index.setdefault(chain, []).append(k)
    first_atom, first_bead = (np.searchsorted(owner, np.arange(len(target.chains)))
                              for owner in (target.molecule_of_atom, target.molecule_of_bead))
    counts = np.bincount(target.molecule_of_atom)
    found = []
    for chain, copies in index.items():
        k = copies[0]
        owner = target.bead_of_atom[first_atom[k]:first_atom[k] + counts[k]] - first_bead[k]
        atoms = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
        found.append(Copies(chain, first_atom[copies], first_bead[copies], tuple(atoms)))
    return found


def copied(numbers: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Rows of ``numbers`` (n, ...), counted from the beginning of a chain, for the copies that begin at ``first``."""
    return (numbers + first.reshape(-1, *(1,) * numbers.ndim)).reshape(-1, *numbers.shape[1:])
