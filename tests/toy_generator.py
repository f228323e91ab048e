"""A generator that draws the conformation its test beads were made of, and those beads as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from openmm_backmap.chemistry import Target, build_target, load_chemistry
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.periodic import wrap

BOX_NM = 2.6
NOISE_NM = 0.002


class ToyGenerator:
    """Every molecule's built conformation, laid over its beads, with a little noise."""

    @classmethod
    def from_model(cls, model, device):
        return cls()

    def generate(self, target, beads, box, *, n_samples=1, rng, progress=None):
        shape = conformation(target)
        inner = target.mapping @ shape
        for m in range(len(target.chains)):
            atoms, own = target.molecule_of_atom == m, target.molecule_of_bead == m
            turn = Rotation.align_vectors(beads[own] - beads[own].mean(0), inner[own] - inner[own].mean(0))[0]
            shape[atoms] = turn.apply(shape[atoms] - inner[own].mean(0)) + beads[own].mean(0)
        if progress:
            progress("drawing", 1, 1)
        return shape + rng.normal(scale=NOISE_NM, size=(n_samples, target.n_atoms, 3))


def conformation(target: Target) -> np.ndarray:
    """Positions (n_atoms, 3), nm: the same for equal targets."""
    return build_coordinates(target, np.random.default_rng(7))


def toy_target(n_chains: int = 2, length: int = 3) -> Target:
    return build_target(load_chemistry("sps"), [["STY"] * length] * n_chains)


def toy_beads(target: Target, box_nm: float = BOX_NM) -> np.ndarray:
    """Bead positions (n_beads, 3), nm: chains side by side in a cubic box."""
    beads = target.mapping @ conformation(target)
    for m in range(len(target.chains)):
        own = target.molecule_of_bead == m
        beads[own] += np.array([0.5 + 1.3 * m, 1.3, 1.3]) - beads[own].mean(0)
    return beads


def write_gro(path: Path, target: Target | None = None, n_frames: int = 1, box_nm: float = BOX_NM) -> Path:
    """Beads of ``target`` as a .gro file, as wrapped as simulation engines leave it; frames drift along z."""
    target = target or toy_target()
    names = [f"{name}{k + 1}" for chain in target.chains for k in range(len(chain)) for name in "BS"]
    box = np.eye(3) * box_nm
    whole, lines = toy_beads(target), []
    for frame in range(n_frames):
        beads = wrap(whole + [0, 0, 0.4 * frame], box)
        lines += [f"toy melt, t= {frame * 10.0:.5f}", f"{len(beads):5d}"]
        lines += [f"{m + 1:5d}{'PS1':<5s}{name:>5s}{b + 1:5d}{x:12.7f}{y:12.7f}{z:12.7f}" for b, (m, name, (x, y, z))
                  in enumerate(zip(target.molecule_of_bead, names, beads, strict=True))]
        lines += [f"{box_nm:10.5f}" * 3]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_pdb(path: Path, target: Target | None = None, n_models: int = 1) -> Path:
    """Beads of ``target`` as a .pdb file of one or several models."""
    target = target or toy_target()
    names = [f"{name}{k + 1}" for chain in target.chains for k in range(len(chain)) for name in "BS"]
    lines = [f"CRYST1{BOX_NM * 10:9.3f}{BOX_NM * 10:9.3f}{BOX_NM * 10:9.3f}  90.00  90.00  90.00 P 1           1"]
    for model in range(n_models):
        lines += [f"MODEL     {model + 1:4d}"] * (n_models > 1)
        lines += [f"ATOM  {b + 1:5d} {name:<4s} PS1 {'ABCDEFG'[m]}{m + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00"
                  for b, (m, name, (x, y, z)) in enumerate(zip(
                      target.molecule_of_bead, names, 10 * toy_beads(target), strict=True))]
        lines += ["ENDMDL"] * (n_models > 1)
    path.write_text("\n".join([*lines, "END"]) + "\n")
    return path
