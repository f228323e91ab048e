"""Hydrogens of methyl and methylene groups, named the same way around in every frame."""

from __future__ import annotations

import numpy as np

from openmm_backmap.chemistry.target import Target
from openmm_backmap.geometry.checks import once_per_target
from openmm_backmap.geometry.tables import neighbour_lists


def with_ordered_hydrogens(target: Target, positions: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Positions (..., n_atoms, 3) in which the last two hydrogens of a group change places where they are named the
    other way around.

    These atoms are alike, but dynamics never swaps two of one carbon, and a model that follows a trajectory would have
    to know which way they were named. The way chosen is that of the positions ``like`` (..., n_atoms, 3), or without
    them follows from the order of the atoms alone.
    """
    ordered = np.array(positions)
    for members in _groups(target):
        wrong = (_hand(positions, members) < 0) != (like is not None and _hand(like, members) < 0)
        last = members[-2:]
        ordered[..., last, :] = np.where(wrong[..., None, None], positions[..., last[::-1], :], positions[..., last, :])
    return ordered


@once_per_target
def _groups(target: Target) -> list[list[int]]:
    """Atoms with four neighbours, two hydrogens or more: each with its neighbours after it, hydrogens last."""
    groups = []
    for centre, near in enumerate(neighbour_lists(target.n_atoms, target.bonds)):
        hydrogens = sorted(a for a in near if target.elements[a] == "H")
        if len(near) == 4 and len(hydrogens) > 1:
            groups.append([centre, *sorted(set(near) - set(hydrogens)), *hydrogens])
    return groups


def _hand(positions: np.ndarray, members: list[int]) -> np.ndarray:
    """Numbers (...) whose sign changes when the last two of five atoms, the centre first, change places, even where
    both are drawn on one side."""
    centre, a, b, c, d = np.moveaxis(positions[..., members, :], -2, 0)
    return (np.cross(a - centre, b - centre) * (c - d)).sum(-1)
