"""Small polystyrene systems, made of chains that the builder grows, for tests of the bead-wise generators."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Target, build_target, load_chemistry
from openmm_backmap.generators.flow import FlowHyperparameters
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.io.writers import write_structure
from openmm_backmap.training.dataset import Dataset, Frames
from openmm_backmap.training.flow import FlowTraining

BOX = np.diag([3.0, 2.6, 2.6])
TRICLINIC = np.array([[3.0, 0.0, 0.0], [1.2, 2.6, 0.0], [-1.1, 1.0, 2.6]])
TINY = FlowHyperparameters(width=16, heads=2, layers=1, context_atoms=8, context_beads=4)


def small_target(n_chains: int = 3, n_monomers: int = 3) -> Target:
    return build_target(load_chemistry("sps"), [["STY"] * n_monomers] * n_chains)


def small_positions(target: Target, seed: int = 1) -> np.ndarray:
    """Whole molecules (n_atoms, 3), nm, side by side along x, 0.9 nm apart; no two atoms as near to any third."""
    rng = np.random.default_rng(seed)
    x = build_coordinates(target, rng)
    x += rng.normal(scale=0.003, size=x.shape)
    for m in range(len(target.chains)):
        own = target.molecule_of_atom == m
        x[own] += np.array([0.9 * m + 0.5, 1.3, 1.3]) - x[own].mean(0)
    return x


def small_dataset(n_frames: int = 2, first_seed: int = 1, target: Target | None = None) -> Dataset:
    target = target or small_target(2, 3)
    positions = np.stack([small_positions(target, first_seed + k) for k in range(n_frames)]).astype(np.float32)
    return Dataset(target.chemistry, (Frames(target, positions, np.stack([BOX] * n_frames)),))


def tiny_training(**changes) -> FlowTraining:
    return FlowTraining(**{"steps": 40, "beads": 12, "times": 2, "warmup": 5, "network": TINY, **changes})


def write_snapshots(folder: Path, n_frames: int, first_seed: int = 1) -> Path:
    """``folder`` with frame_0001.gro, ...: as a reference run leaves them."""
    folder.mkdir()
    target = small_target(2, 3)
    for k in range(n_frames):
        x = small_positions(target, first_seed + k)
        write_structure(folder / f"frame_{k + 1:04d}.gro", target.topology, x, BOX, gro_precision=6)
    return folder
