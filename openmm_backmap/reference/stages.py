"""What the recipes have in common: folders that belong to one set of settings, growth, dynamics, what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Target, create_system
from openmm_backmap.errors import RefinementError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.checks import inverted_centres, pierced_rings
from openmm_backmap.geometry.internal import dihedral_angles
from openmm_backmap.geometry.tables import neighbour_lists
from openmm_backmap.io import folders

#: dalton; with it steps of 4 fs are stable
HYDROGEN_MASS = 3.0
GROWTHS = 20
_BUILDS = 200
_LOCAL_BONDS = 9
#: with fewer atoms the Reference platform is the fastest: 22 atoms make 22,000 steps in a second of one core, 5,800 on
#: the CPU platform; 166 atoms 510 and 870
_FEW_ATOMS = 60

Progress = Callable[[str, int, int], None]


def claim(settings, out: Path) -> None:
    """Make ``out`` the folder of these settings; ``InputError`` if it is that of others.

    The number of snapshots may change: a run can be made longer.
    """
    folders.claim(out / "settings.json", asdict(settings), "{record} belongs to a run with other settings; use another "
                  "--out or the same settings", length="n_snapshots")


def grow(target: Target, rng: np.random.Generator, settle: Callable[[np.ndarray], np.ndarray],
         progress: Progress) -> np.ndarray:
    """Positions (n_atoms, 3), nm, of molecules without defects, grown at random and settled by a minimiser.

    What a minimiser has inverted or pierced, or a peptide bond that is cis, dynamics do not mend: it is grown again.
    """
    from openmm import OpenMMException

    for k in range(GROWTHS):
        progress("growing chains", k, GROWTHS)
        try:
            positions = settle(_built(target, rng))
        except OpenMMException:
            # Atoms so close that a minimiser throws them out of sight.
            found = "overlaps"
            continue
        found = defects(target, positions, None)
        if not found:
            progress("growing chains", GROWTHS, GROWTHS)
            return positions
    raise RefinementError(f"no chains without {found} in {GROWTHS} attempts; try another seed or fewer chains")


def _built(target: Target, rng: np.random.Generator) -> np.ndarray:
    """Coordinates without cis peptide bonds, if any that are built at random have none."""
    for _ in range(_BUILDS):
        positions = build_coordinates(target, rng)
        if (np.abs(peptide_torsions(target, positions)) > 90).all():
            break
    return positions


def local_system(target: Target):
    """Bonded terms, Lennard-Jones between atoms up to ``_LOCAL_BONDS`` bonds apart in one chain, and repulsion beyond.

    Attraction along the whole chain would collapse it; with no repulsion either, its rings would pass each other. The
    parameter ``soft`` (1 and less) softens the Lennard-Jones terms, 0 is the plain potential.
    """
    from openmm import CustomBondForce, CustomNonbondedForce, NonbondedForce, unit

    system = create_system(target, None, hydrogen_mass=HYDROGEN_MASS)
    index = next(k for k, f in enumerate(system.getForces()) if isinstance(f, NonbondedForce))
    nonbonded = system.getForce(index)
    sigma, epsilon = np.array([[p[1].value_in_unit(unit.nanometer), p[2].value_in_unit(unit.kilojoule_per_mole)]
                               for p in map(nonbonded.getParticleParameters, range(target.n_atoms))]).T
    local = CustomBondForce("4*epsilon*(x^2 - x); x = 1/(soft + (r/sigma)^6)")
    # Lennard-Jones up to its minimum, as Weeks, Chandler and Andersen (J. Chem. Phys. 54, 5237, 1971) cut it.
    core = CustomNonbondedForce("step(x - 0.5)*(4*(x^2 - x) + 1)*sqrt(epsilon1*epsilon2); "
                                "x = 1/(soft + (2*r/(sigma1 + sigma2))^6)")
    core.setNonbondedMethod(CustomNonbondedForce.CutoffNonPeriodic)
    core.setCutoffDistance(float(2 ** (1 / 6) * sigma.max()))
    for force in (local, core):
        force.addGlobalParameter("soft", 0.0)
    for name in ("sigma", "epsilon"):
        core.addPerParticleParameter(name)
    for row in zip(sigma.tolist(), epsilon.tolist()):
        core.addParticle(row)
    local.addPerBondParameter("sigma")
    local.addPerBondParameter("epsilon")
    excluded = {tuple(sorted(pair)) for pair in target.excluded.tolist()}
    distances = target.graph_distances(_LOCAL_BONDS).tocoo()
    for i, j, d in zip(distances.row.tolist(), distances.col.tolist(), distances.data.tolist()):
        if i < j:
            core.addExclusion(i, j)
        if i < j and d > 2 and (i, j) not in excluded:
            local.addBond(i, j, [(sigma[i] + sigma[j]) / 2, float(np.sqrt(epsilon[i] * epsilon[j]))])
    system.removeForce(index)
    system.addForce(local)
    system.addForce(core)
    return system


def minimise_softly(simulation) -> None:
    """Minimise a simulation of a :func:`local_system` whose atoms may lie on top of each other."""
    for soft in (0.5, 0.05, 0.0):
        # The plain potential has no usable slope there.
        simulation.context.setParameter("soft", soft)
        simulation.minimizeEnergy(maxIterations=1000)


def defects(target: Target, positions: np.ndarray, box: np.ndarray | None) -> str:
    """What is wrong with the stereochemistry or topology of ``positions``, in words; empty where nothing is."""
    counts = {"inverted stereocentres": int(inverted_centres(target, positions).sum()),
              "pierced rings": len(pierced_rings(target, positions, box)),
              "cis peptide bonds": int((np.abs(peptide_torsions(target, positions)) < 90).sum())}
    return " and ".join(f"{n} {what}" for what, n in counts.items() if n)


def peptide_torsions(target: Target, positions: np.ndarray) -> np.ndarray:
    """Torsions (..., n_bonds), degrees, of the bonds C-N between residues, along their carbons; 180 is trans."""
    table = neighbour_lists(target.n_atoms, target.bonds)
    name, element, residue = target.atom_names, target.elements, target.residue_of_atom
    rows = []
    for c, n in target.bonds.tolist():
        if residue[c] != residue[n] and (name[c], name[n]) == ("C", "N"):
            before = next(a for a in table[c] if element[a] == "C")
            # Proline has two carbons there; the alpha carbon, as every residue but the cap, has the name CA.
            after = sorted((a for a in table[n] if a != c and element[a] == "C"), key=lambda a: name[a] != "CA")[0]
            rows.append((before, c, n, after))
    return dihedral_angles(positions[..., np.array(rows, dtype=np.int64).reshape(-1, 4), :])


def scale_molecules(molecule: np.ndarray, positions: np.ndarray, factor: float) -> np.ndarray:
    """Move the centres of molecules (``molecule[i]`` is that of atom i) by ``factor``, each molecule as it is."""
    counts = np.bincount(molecule)[:, None]
    centres = np.stack([np.bincount(molecule, positions[:, k]) for k in range(3)], axis=1) / counts
    return positions + (centres * (factor - 1))[molecule]


def dynamics(topology, system, temperature: float, friction_per_ps: float, timestep_ps: float, seed: int,
             platform: str | None):
    """An ``openmm.app.Simulation`` at constant temperature (K), on the fastest platform where none is named."""
    from openmm import LangevinMiddleIntegrator, app

    from openmm_backmap.energy.platforms import best_platform

    integrator = LangevinMiddleIntegrator(temperature, friction_per_ps, timestep_ps)
    integrator.setRandomNumberSeed(seed)
    if platform is None and system.getNumParticles() < _FEW_ATOMS:
        platform = "Reference"
    return app.Simulation(topology, system, integrator, best_platform(platform))


def snapshot(simulation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (nm), velocities (nm/ps) and box (nm) of a simulation."""
    from openmm import unit

    state = simulation.context.getState(positions=True, velocities=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
    box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
    return np.array(positions), np.array(velocities), np.array(box)


def save(file: Path, **arrays) -> None:
    """Write ``file`` (.npz) so that it is there whole or not at all."""
    part = file.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.replace(file)
