"""What a validation starts from: a reference, and sets of coarse-grained frames to backmap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from openmm_backmap.analysis.evaluation.inputs import HELD_OUT, Inputs, file_hashes, read_cg, read_inputs
from openmm_backmap.analysis.forces.coarse import read_system
from openmm_backmap.chemistry import Chemistry, match_beads
from openmm_backmap.chemistry.system import check_box
from openmm_backmap.errors import InputError
from openmm_backmap.io.atomistic import find_files
from openmm_backmap.io.readers import TRAJECTORIES, open_cg

IN_DISTRIBUTION = "in-distribution"
_LEAST = 4


@dataclass(frozen=True)
class FrameSet:
    """Coarse-grained frames to backmap.

    Attributes
    ----------
    label : str
    inputs : Inputs
        With these frames.
    hashes : list of str
        SHA-256 of the files; none of the in-distribution frames, which are the reference's.
    system : openmm.System or None
        The coarse-grained force field.
    order : ndarray of int, shape (n_beads,), or None
        Bead of the file, and of ``system``, for each bead here; None where there is no ``system``.
    """

    label: str
    inputs: Inputs
    hashes: list[str] = field(repr=False)
    system: Any = field(default=None, repr=False)
    order: np.ndarray | None = field(default=None, repr=False)


def read_sets(chemistry: Chemistry, reference: Sequence, cg: Mapping[str, Sequence[str | Path]],
              held_out: Sequence = (), *, systems: Mapping[str, str | Path] | None = None,
              topology: str | Path | None = None, cg_topology: str | Path | None = None, n_frames: int | None = None,
              aliases: Mapping[str, str] | None = None) -> list[FrameSet]:
    """Read all; the first set holds the mapped frames of ``held_out``, or, without, of every other reference structure.

    Parameters
    ----------
    chemistry : Chemistry
    reference, held_out : sequences of paths
        Atomistic structures, see :func:`openmm_backmap.analysis.evaluation.inputs.read_inputs`.
    cg : dict of str to paths
        Coarse-grained frames by label.
    systems : dict of str to path, optional
        Coarse-grained force fields by the labels of ``cg``.
    topology, cg_topology : path, optional
        Structures that name the atoms and beads of trajectories.
    n_frames : int, optional
        At most so many frames of each set, evenly spread.
    aliases : mapping, optional

    Raises
    ------
    InputError
        Files hold different systems or too few structures, or beads without the box that the reference has.
    """
    inputs = read_inputs(chemistry, reference, held_out, topology=topology, n_frames=n_frames if held_out else None,
                         aliases=aliases)
    inputs = inputs if held_out else _thinned(_halved(inputs), n_frames)
    if len(inputs.reference) < 2:
        raise InputError("the reference is a single structure, which does not tell how structures differ: give more")
    sets = [FrameSet(IN_DISTRIBUTION, inputs, [])]
    for label, paths in cg.items():
        frames = read_cg(chemistry, inputs.target, paths, cg_topology, aliases)
        own = _thinned(replace(inputs, frames=frames, paired=None), n_frames)
        _check_frames(label, own)
        given = (systems or {}).get(label)
        system = None if given is None else read_system(given, inputs.target.n_beads)
        order = None if given is None else _order(chemistry, paths, cg_topology, aliases)
        sets.append(FrameSet(label, own, file_hashes(find_files(paths)), system, order))
    return sets


def _halved(inputs: Inputs) -> Inputs:
    """Every other structure becomes held out: halves in time would differ by any drift."""
    n = len(inputs.reference)
    if n < _LEAST:
        raise InputError(f"{n} reference structure(s) cannot be parted into what is compared with and what is "
                         f"backmapped: give at least {_LEAST}, or others by --held-out")
    kept, parted = np.arange(0, n, 2), np.arange(1, n, 2)
    held = replace(inputs.reference.take(parted), name=HELD_OUT, frame=np.arange(len(parted)))
    reference = replace(inputs.reference.take(kept), frame=len(parted) + np.arange(len(kept)))
    return replace(inputs, reference=reference, held_out=held, frames=inputs.frames.take(parted), paired=held)


def _thinned(inputs: Inputs, n_frames: int | None) -> Inputs:
    """At most ``n_frames`` frames, evenly spread; held-out structures stay."""
    if n_frames is None or n_frames >= len(inputs.frames):
        return inputs
    chosen = np.unique(np.linspace(0, len(inputs.frames) - 1, n_frames).round().astype(int))
    return replace(inputs, frames=inputs.frames.take(chosen))


def _check_frames(label: str, inputs: Inputs) -> None:
    frames, cutoff_nm = inputs.frames, inputs.target.chemistry.nonbonded.cutoff_nm
    if (frames.boxes is None) != (inputs.reference.boxes is None):
        lacks, has = (label, "the reference") if frames.boxes is None else ("the reference", label)
        raise InputError(f"{lacks} has no periodic box, and {has} has one: forces cannot be compared; write the box "
                         "into the file")
    for k, name in enumerate(frames.names):
        if not np.isfinite(frames.beads[k]).all():
            raise InputError(f"{name}: has positions that are not finite")
        if frames.boxes is not None:
            try:
                check_box(frames.boxes[k], cutoff_nm)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None


def _order(chemistry: Chemistry, paths: Sequence, cg_topology, aliases) -> np.ndarray:
    file = find_files(paths)[0]
    source = open_cg(file, cg_topology if file.suffix.lower() in TRAJECTORIES else None)
    frame = next(source.frames(0, 0))
    return match_beads(chemistry, source.topology, frame.positions, frame.box, aliases=aliases,
                       where=str(file)).bead_index
