"""Alanine dipeptide with backbone dihedrals as one likes: trajectories whose processes are known."""

from __future__ import annotations

import numpy as np
from mdtraj.formats import DCDTrajectoryFile, XTCTrajectoryFile
from scipy.spatial.transform import Rotation

from openmm_backmap.chemistry import Target, build_target, load_chemistry
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.internal import dihedral_angles

PHI, PSI = (4, 6, 8, 14), (6, 8, 14, 16)
OMEGA, SECOND_OMEGA = (1, 4, 6, 8), (8, 14, 16, 18)
_AFTER = {PHI: [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21], PSI: [15, 16, 17, 18, 19, 20, 21],
          OMEGA: [7, *range(8, 22)], SECOND_OMEGA: [17, 18, 19, 20, 21]}


def dipeptide() -> Target:
    return build_target(load_chemistry("adp"), [("ACE", "ALA", "NME")])


def turned(x: np.ndarray, members: tuple[int, ...], degrees: np.ndarray) -> np.ndarray:
    """Frames (n, 22, 3) with a dihedral set to ``degrees`` (n,)."""
    now = dihedral_angles(x[:, list(members)])
    axis = x[:, members[2]] - x[:, members[1]]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    turn = Rotation.from_rotvec(np.radians(degrees - now)[:, None] * axis).as_matrix()
    origin = x[:, None, members[2]]
    after = _AFTER[members]
    x = x.copy()
    x[:, after] = np.einsum("nij,naj->nai", turn, x[:, after] - origin) + origin
    return x


def frames(target: Target, phi: np.ndarray, psi: np.ndarray, seed: int = 0) -> np.ndarray:
    """Frames (n, 22, 3), nm, trans, with these dihedrals (n,), degrees, and some noise."""
    rng = np.random.default_rng(seed)
    x = np.repeat(build_coordinates(target, np.random.default_rng(0))[None], len(phi), axis=0)
    trans = np.full(len(phi), 180.0)
    for members, degrees in ((OMEGA, trans), (SECOND_OMEGA, trans), (PHI, phi), (PSI, psi)):
        x = turned(x, members, degrees)
    return x + rng.normal(scale=0.001, size=x.shape)


def two_states(n: int, leave: float, seed: int) -> np.ndarray:
    """0 and 1 (n,), each left with a probability ``leave`` a frame: the timescale is -1 / ln(1 - 2 leave) frames."""
    return np.cumsum(np.random.default_rng(seed).random(n) < leave) % 2


def hopping(target: Target, n: int, leave: float, seed: int) -> np.ndarray:
    """A trajectory (n, 22, 3), nm, that hops between psi = 150 and psi = -30 degrees."""
    rng = np.random.default_rng(seed + 1000)
    psi = np.where(two_states(n, leave, seed), -30.0, 150.0) + rng.normal(scale=8.0, size=n)
    return frames(target, -80 + rng.normal(scale=8.0, size=n), psi, seed)


def write_xtc(path, x: np.ndarray, box: np.ndarray | None = None):
    with XTCTrajectoryFile(str(path), "w") as file:
        times, step = np.arange(len(x), dtype=np.float32), np.arange(len(x), dtype=np.int32)
        file.write(x.astype(np.float32), times, step, None if box is None else np.repeat(
            box[None].astype(np.float32), len(x), axis=0))
    return path


def write_dcd(path, x: np.ndarray):
    with DCDTrajectoryFile(str(path), "w") as file:
        file.write((10 * x).astype(np.float32))
    return path
