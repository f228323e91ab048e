"""Short trajectories of alanine dipeptide for tests: not dynamics, but frames that follow each other in small steps."""

from functools import cache

import numpy as np

from openmm_backmap.chemistry import build_target, create_system, load_chemistry
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.training.dataset import Dataset, Frames

CHAIN = ("ACE", "ALA", "NME")


def peptide(n_molecules: int = 1):
    return build_target(load_chemistry("adp"), [CHAIN] * n_molecules)


@cache
def walk(n_frames: int, n_molecules: int = 1, seed: int = 1) -> np.ndarray:
    """Positions (n_frames, n_atoms, 3), nm, 20 fs of Langevin dynamics apart."""
    import openmm
    from openmm import unit

    target = peptide(n_molecules)
    rng = np.random.default_rng(seed)
    positions = build_coordinates(target, rng) + 2.0 * target.molecule_of_atom[:, None]
    integrator = openmm.LangevinMiddleIntegrator(300, 5.0, 0.002)
    integrator.setRandomNumberSeed(seed)
    context = openmm.Context(create_system(target, None), integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, 200)
    found = []
    for _ in range(n_frames):
        integrator.step(10)
        found.append(context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    return np.array(found)


def small_trajectories(n: int, n_frames: int, n_molecules: int = 1) -> Dataset:
    """``n`` trajectories of ``n_frames`` each, as one data set."""
    target = peptide(n_molecules)
    positions = np.concatenate([walk(n_frames, n_molecules, seed) for seed in range(1, n + 1)]).astype(np.float32)
    return Dataset(target.chemistry, (Frames(target, positions, None, starts=np.arange(n) * n_frames),))
