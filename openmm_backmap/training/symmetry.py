"""Symmetries of molecules, under which a snapshot is the same structure with other names: the three arms of TMBT."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from openmm_backmap.chemistry import Target

#: no more copies of a snapshot than this: a star of seven arms has thousands
MAX_COPIES = 24


def symmetric_copies(target: Target, positions: np.ndarray) -> list[np.ndarray]:
    """``positions`` (n_frames, n_atoms, 3), first as they are, then with all molecules named in each other way.

    A way to name a molecule maps beads on beads of their type, and atoms so that bonds and the mapping are kept.
    What is symmetric inside a bead, such as the sides of a ring, is the chemistry's ``equivalent``, not looked for
    here; molecules with stereocentres are left as they are.
    """
    known: dict[tuple, list[np.ndarray]] = {}
    ways = []
    # Atoms of a molecule lie one after another.
    molecules = np.split(np.arange(target.n_atoms), np.flatnonzero(np.diff(target.molecule_of_atom)) + 1)
    for chain, atoms in zip(target.chains, molecules, strict=True):
        if chain not in known:
            known[chain] = list(itertools.islice(_ways(target, atoms), MAX_COPIES))
        ways.append([atoms[way] for way in known[chain]])
    return [positions[:, np.concatenate([way[k] if k < len(way) else way[0] for way in ways])]
            for k in range(max(map(len, ways)))]


def _ways(target: Target, atoms: np.ndarray) -> Iterator[np.ndarray]:
    """Ways to name the atoms (n,) of a molecule, as indices into them; the identity first, one a way to name beads."""
    yield np.arange(len(atoms))
    if np.isin(target.stereo, atoms).any():
        return
    beads, owner = np.unique(target.bead_of_atom[atoms], return_inverse=True)
    types, mapping = target.atom_type[atoms], target.mapping[beads][:, atoms].toarray()
    bonds = target.bonds[np.isin(target.bonds[:, 0], atoms)] - atoms[0]
    bead_bonds = target.bead_bonds[np.isin(target.bead_bonds[:, 0], beads)] - beads[0]
    kinds = [(target.bead_type[bead], *sorted(types[owner == k])) for k, bead in enumerate(beads)]
    for onto in _maps(bead_bonds, kinds, kinds):
        if (onto == np.arange(len(beads))).all():
            continue
        way = next(_maps(bonds, list(zip(types, onto[owner])), list(zip(types, owner))), None)
        if way is not None and np.allclose(mapping[onto][:, way], mapping):
            yield way


def _maps(edges: np.ndarray, labels: list, onto: list) -> Iterator[np.ndarray]:
    """All maps of a graph's nodes on themselves that keep edges and take ``labels`` to the labels ``onto``."""
    import networkx as nx
    from networkx.algorithms.isomorphism import GraphMatcher

    graphs = []
    for names in (labels, onto):
        graph = nx.Graph(edges.tolist())
        graph.add_nodes_from((k, {"label": name}) for k, name in enumerate(names))
        graphs.append(graph)
    for found in GraphMatcher(*graphs, node_match=lambda a, b: a["label"] == b["label"]).isomorphisms_iter():
        yield np.array([found[k] for k in range(len(labels))])
