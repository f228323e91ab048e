"""Local environments of beads: what a generator that draws one bead's atoms at a time sees.

Everything is expressed in the bead's own frame: origin on the bead, z towards its first frame bead, x in the plane of
the second. For beads of left-handed monomers the frame is mirrored (y reversed), so that one network serves both
hands and learns their mirror symmetry for free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from openmm_backmap.chemistry import Target
from openmm_backmap.geometry.neighbours import nearest
from openmm_backmap.geometry.tables import padded_table

MAX_GRAPH_DISTANCE = 4
#: graph-distance classes: 0..MAX as they are, then "same molecule, farther" and "another molecule"
N_GRAPH = MAX_GRAPH_DISTANCE + 3
MAX_OFFSET = 6
#: classes of the place of another bead along the molecule, and one for other molecules
N_OFFSETS = 2 * MAX_OFFSET + 2
NEIGHBOUR_CUTOFF_NM = 1.1
MAX_NEIGHBOURS = 48


@dataclass(frozen=True)
class Vocabulary:
    """Names that a network knows: atom slots (``bead type:atom``) and bead types."""

    slots: tuple[str, ...]
    bead_types: tuple[str, ...]

    @classmethod
    def of(cls, target: Target) -> Vocabulary:
        return cls(tuple(sorted(set(_slot_names(target)))), target.chemistry.bead_types)


def _slot_names(target: Target) -> list[str]:
    types = np.array(target.chemistry.bead_types)[target.bead_type[target.bead_of_atom]]
    return [f"{bead}:{atom}" for bead, atom in zip(types, target.atom_names)]


@dataclass(frozen=True)
class Environment:
    """A batch of local environments; B beads, S own atoms (padded), K context atoms, N context beads; local nm.

    Attributes
    ----------
    slot : (B, S) slot index of each own atom; ``own`` (B, S) tells real ones from padding.
    own_graph : (B, S, S) graph-distance class between own atoms.
    position, atom_slot, offset, present : (B, K, 3), (B, K), (B, K), (B, K)
        Context atoms: local position, slot, offset class of their bead, and whether there is one.
    graph : (B, S, K) graph-distance class between own and context atoms.
    bead_position, bead_type, bead_offset, bead_present : the same for (B, N) neighbouring beads.
    """

    slot: torch.Tensor
    own: torch.Tensor
    own_graph: torch.Tensor
    position: torch.Tensor
    atom_slot: torch.Tensor
    offset: torch.Tensor
    present: torch.Tensor
    graph: torch.Tensor
    bead_position: torch.Tensor
    bead_type: torch.Tensor
    bead_offset: torch.Tensor
    bead_present: torch.Tensor


class TargetTables:
    """Tables that depend on the target alone: who owns what, and bond-graph distances around each bead."""

    def __init__(self, target: Target, vocabulary: Vocabulary, device="cpu"):
        tensor = lambda a: torch.as_tensor(a, device=device)  # noqa: E731
        self.target, self.vocabulary, self.device = target, vocabulary, device
        atoms, column = padded_table(target.bead_of_atom, np.arange(target.n_atoms), target.n_beads)
        index = {name: k for k, name in enumerate(vocabulary.slots)}
        self.slot_of_atom = tensor([index[name] for name in _slot_names(target)])
        self.atoms_of_bead, self.column_of_atom = tensor(atoms), tensor(column)
        own_graph, near, near_graph = _graph_tables(target, atoms, column)
        self.own_graph, self.near, self.near_graph = tensor(own_graph), tensor(near), tensor(near_graph)
        self.size = (self.atoms_of_bead >= 0).sum(1)
        self.bead_type = tensor(target.bead_type)
        self.molecule = tensor(target.molecule_of_bead)
        self.bead_of_atom = tensor(target.bead_of_atom)


def nearby_table(target: Target, bead: np.ndarray, atom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n_beads, G) the distinct atoms that pairs ``bead``, ``atom`` (n,) give each bead; (n,) each pair's column."""
    keys, inverse = np.unique(bead * target.n_atoms + atom, return_inverse=True)
    table, column = padded_table(keys // target.n_atoms, keys % target.n_atoms, target.n_beads)
    return table, column[inverse]


def _graph_tables(target: Target, atoms: np.ndarray, column: np.ndarray):
    """Graph-distance classes among own atoms (n, S, S); atoms bonded nearby (n, G); their classes (n, S, G)."""
    far = MAX_GRAPH_DISTANCE + 1
    row, col, distance = target.graph_pairs(MAX_GRAPH_DISTANCE)
    bead = target.bead_of_atom[row]
    inside = bead == target.bead_of_atom[col]
    n, s = atoms.shape
    own = np.full((n, s, s), far, dtype=np.int64)
    own[:, np.arange(s), np.arange(s)] = 0
    own[bead[inside], column[row[inside]], column[col[inside]]] = distance[inside]
    row, col, distance, bead = row[~inside], col[~inside], distance[~inside], bead[~inside]
    near, rank = nearby_table(target, bead, col)
    classes = np.full((n, s, near.shape[1]), far, dtype=np.int64)
    classes[bead, column[row], rank] = distance
    return own, near, classes


def bead_neighbours(beads: np.ndarray, box: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbouring beads (n_beads, MAX_NEIGHBOURS), their shifts and how far, nm, they are; see :func:`nearest`.

    Distances decide which beads are drawn at once, so that their rounding must be that of no device.
    """
    index, shift = nearest(beads, box, NEIGHBOUR_CUTOFF_NM, MAX_NEIGHBOURS)
    return index, shift, np.linalg.norm(beads[index] + shift - beads[:, None], axis=-1)


class BeadSurroundings:
    """Frames and neighbouring beads for one set of bead positions; makes :class:`Environment` batches.

    Parameters
    ----------
    tables : TargetTables
    beads : ndarray, shape (n_beads, 3), nm
        Whole molecules.
    box : ndarray, shape (3, 3), nm, or None
    n_atoms, n_beads : int
        Context atoms and beads that an environment holds.
    number : ndarray of int, shape (n_beads,), optional
        Beads in the numbering of a whole melt, of which these are a part.
    """

    def __init__(self, tables: TargetTables, beads: np.ndarray, box, n_atoms: int, n_beads: int,
                 number: np.ndarray | None = None):
        self.tables, self.n_context_atoms, self.n_context_beads = tables, n_atoms, n_beads
        index, shift, self._separation = bead_neighbours(beads, box)
        device = tables.device
        self.number = torch.as_tensor(np.arange(len(beads)) if number is None else number, device=device)
        self.index = torch.as_tensor(index, device=device)
        self.shift = torch.as_tensor(shift, dtype=torch.float32, device=device)
        self.centre = torch.as_tensor(beads, dtype=torch.float32, device=device)
        self.frame = torch.as_tensor(bead_frames(tables.target, beads, box), dtype=torch.float32, device=device)

    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """Neighbouring beads (n_beads, MAX_NEIGHBOURS), -1 where there is none, and how far (nm) they are."""
        return self.index.cpu().numpy(), self._separation

    @cached_property
    def offset(self) -> torch.Tensor:
        """(n_beads, MAX_NEIGHBOURS) offset classes of the neighbours."""
        steps = self.number[self.index] - self.number[:, None]
        same = self.tables.molecule[self.index] == self.tables.molecule[:, None]
        return torch.where(same, steps.clamp(-MAX_OFFSET, MAX_OFFSET) + MAX_OFFSET, N_OFFSETS - 1)

    def to_local(self, bead: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """(B, ..., 3) positions near beads (B,), nm, in their frames."""
        extra = (1,) * (positions.ndim - 2)
        centred = positions - self.centre[bead].view(-1, *extra, 3)
        return torch.einsum("b...i,bki->b...k", centred, self.frame[bead])

    def to_global(self, bead: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
        """The reverse of :meth:`to_local`."""
        extra = (1,) * (local.ndim - 2)
        return torch.einsum("b...k,bki->b...i", local, self.frame[bead]) + self.centre[bead].view(-1, *extra, 3)

    def environment(self, bead: torch.Tensor, positions: torch.Tensor, shown: torch.Tensor) -> Environment:
        """Environments of ``bead`` (B,) among the atoms that ``shown`` lets see.

        Parameters
        ----------
        bead : (B,) int
        positions : (n_atoms, 3), nm, whole molecules
        shown : (B, MAX_NEIGHBOURS) bool
            Which neighbouring beads' atoms are there already.
        """
        tables = self.tables
        neighbour = self.index[bead]
        atoms = tables.atoms_of_bead[neighbour.clamp(min=0)]                       # (B, M, S)
        there = (atoms >= 0) & ((neighbour >= 0) & shown)[..., None]
        images = positions[atoms.clamp(min=0)] + self.shift[bead][:, :, None]
        x, y, z = (images - self.centre[bead][:, None, None]).unbind(-1)
        distance = torch.where(there, x * x + y * y + z * z, torch.inf)
        flat = lambda x: x.flatten(1, 2)  # noqa: E731
        k = min(self.n_context_atoms, atoms.shape[1] * atoms.shape[2])
        chosen = flat(distance).topk(k, dim=1, largest=False).indices
        pick = lambda x: flat(x).gather(1, chosen)  # noqa: E731
        atom, present = pick(atoms).clamp(min=0), pick(there)
        position = flat(images).gather(1, chosen[..., None].expand(-1, -1, 3))
        position = self.to_local(bead, position) * present[..., None]
        offset = pick(self.offset[bead][:, :, None].expand_as(atoms))
        own = tables.atoms_of_bead[bead]
        own = own[:, :int((own >= 0).sum(1).max())]
        width = own.shape[1]
        n = self.n_context_beads
        beads = neighbour[:, :n]
        bead_there = beads >= 0
        bead_local = self.to_local(bead, self.centre[beads.clamp(min=0)] + self.shift[bead][:, :n])
        return Environment(
            slot=tables.slot_of_atom[own.clamp(min=0)], own=own >= 0,
            own_graph=tables.own_graph[bead][:, :width, :width],
            position=position, atom_slot=tables.slot_of_atom[atom], offset=offset, present=present,
            graph=self._graph(bead, atom, offset, width), bead_position=bead_local * bead_there[..., None],
            bead_type=tables.bead_type[beads.clamp(min=0)], bead_offset=self.offset[bead][:, :n],
            bead_present=bead_there)

    def _graph(self, bead: torch.Tensor, atom: torch.Tensor, offset: torch.Tensor, width: int) -> torch.Tensor:
        """(B, S, K) graph-distance classes between own atoms and context atoms."""
        match = self.tables.near[bead][:, None, :] == atom[:, :, None]              # (B, K, G)
        found, where = match.max(dim=2)
        classes = self.tables.near_graph[bead][:, :width]                           # (B, S, G)
        near = classes.gather(2, where[:, None, :].expand(-1, classes.shape[1], -1))
        far = torch.where(offset == N_OFFSETS - 1, N_GRAPH - 1, MAX_GRAPH_DISTANCE + 1)
        return torch.where(found[:, None, :], near, far[:, None, :])


def bead_frames(target: Target, beads: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Frames (n_beads, 3, 3) of the beads; rows x, y, z, y reversed for left-handed monomers.

    Where a bead has no frame bead, or two that lie in line with it, a fixed direction takes its place.
    """
    from openmm_backmap.geometry.periodic import minimum_image

    first, second = target.bead_frame.T
    along = lambda j: np.where((j >= 0)[:, None], minimum_image(beads[j] - beads, box), 0.0)  # noqa: E731
    z = _unit(along(first), np.array([0.0, 0.0, 1.0]))
    across = along(second)
    x = across - (across * z).sum(1, keepdims=True) * z
    fallback = np.eye(3)[np.argmin(np.abs(z), axis=1)]
    fallback = fallback - (fallback * z).sum(1, keepdims=True) * z
    x = _unit(np.where(np.linalg.norm(x, axis=1, keepdims=True) > 1e-4, x, fallback), np.array([1.0, 0.0, 0.0]))
    y = np.cross(z, x) * target.bead_hand[:, None]
    return np.stack([x, y, z], axis=1)


def _unit(vectors: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 1e-6, vectors / np.maximum(length, 1e-12), otherwise)
