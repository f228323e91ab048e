"""Beads and the forces on them, from run folders that ``backmap-openmm reference`` leaves of a molecule in solution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from openmm_backmap.analysis.kinetics.reading import Trajectories, open_trajectories
from openmm_backmap.chemistry import Chemistry, Target
from openmm_backmap.coarse.force_map import force_moments, least_noise_map
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.training.dataset import TOPOLOGY

FORCES = "forces.npy"
_AT_ONCE = 2_000
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ForceData:
    """Beads of one molecule, and the forces on them.

    Attributes
    ----------
    target : Target
    beads : ndarray, shape (n_frames, n_beads, 3), nm, float32
    forces : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm, float32
        Noisy: their mean at fixed beads is what matters.
    lengths : tuple of int
        Frames of each run, one after another.
    """

    target: Target
    beads: np.ndarray = field(repr=False)
    forces: np.ndarray = field(repr=False)
    lengths: tuple[int, ...]


def read_runs(folders: Sequence[str | Path], chemistry: Chemistry, progress: Progress | None = None) -> ForceData:
    """Read ``topology.pdb``, ``forces.npy`` and the trajectory (.xtc) of each folder.

    Of a run that is still being written, as many frames are read as both files have.

    Raises
    ------
    InputError
        A folder or file is missing or damaged, holds more than one molecule, or another one than the first.
    ChemistryError
        Other atoms than the chemistry's.
    """
    progress, folders = progress or (lambda *_: None), [Path(folder) for folder in folders]
    runs = open_trajectories("reference", [_trajectory(folder) for folder in folders], chemistry,
                             topology=folders[0] / TOPOLOGY, strict=True)
    forces = [_open_forces(source.path.with_name(FORCES), runs.target) for source in runs.sources]
    lengths = tuple(min(map(len, pair)) for pair in zip(forces, map(range, runs.lengths), strict=True))
    forces = [found[:n] for found, n in zip(forces, lengths, strict=True)]
    for folder, found in zip(folders, forces, strict=True):
        if not all(np.isfinite(part).all() for part in _parts(found)):
            raise InputError(f"{folder / FORCES}: holds forces that are not finite")
    moments = sum(force_moments(part) for found in forces for part in _parts(found))
    projection = least_noise_map(runs.target, moments / sum(lengths)).astype(np.float32)
    on_beads = np.concatenate([np.einsum("ba,nak->nbk", projection, part) for found in forces
                               for part in _parts(found)])
    return ForceData(runs.target, _beads(runs, lengths, progress), on_beads, lengths)


def _trajectory(folder: Path) -> Path:
    """The trajectory of a run folder, which has all else that is needed, too."""
    found = [file for file in sorted(folder.glob("*.xtc")) if not file.name.startswith(".")]
    lacking = [name for name in (TOPOLOGY, FORCES) if not (folder / name).is_file()] + ["trajectory"] * (not found)
    if lacking:
        raise InputError(f"{folder}: holds no {lacking[0]}; forces are learned from the folders that 'backmap-openmm "
                         "reference' leaves of a peptide (run_1, run_2, ...)")
    if len(found) > 1:
        raise InputError(f"{folder}: {found[0].name} and {found[1].name}: which of them are the forces of?")
    return found[0]


def _open_forces(file: Path, target: Target) -> np.ndarray:
    """Forces (n_frames, n_atoms, 3) as they lie on disk."""
    try:
        forces = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: not readable ({' '.join(str(error).split())})") from None
    if forces.ndim != 3 or forces.shape[1:] != (target.n_atoms, 3) or not len(forces):
        raise InputError(f"{file}: holds an array of shape {forces.shape}; expected (frames, {target.n_atoms}, 3)")
    return forces


def _parts(forces: np.ndarray) -> Iterator[np.ndarray]:
    return (np.asarray(forces[k:k + _AT_ONCE]) for k in range(0, len(forces), _AT_ONCE))


def _beads(runs: Trajectories, lengths: Sequence[int], progress: Progress) -> np.ndarray:
    beads, done = [], 0
    for k, n in enumerate(lengths):
        left = n
        for piece in runs.pieces(k):
            progress("reading frames", done, sum(lengths))
            beads.append(mapped(runs.target, piece.positions[:left]).astype(np.float32))
            left, done = left - len(beads[-1]), done + len(beads[-1])
    progress("reading frames", done, sum(lengths))
    return np.concatenate(beads)
