"""How far to refine, and what refinement found and did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_backmap.errors import InputError

MODES = ("none", "minimize", "equilibrate")


@dataclass(frozen=True)
class RefineSettings:
    """How far to refine.

    Parameters
    ----------
    mode : "none", "minimize" or "equilibrate"
        Beads and bonds exact only; energy minimised with the beads restrained; and dynamics with the beads restrained.
        A minimum is over-stable (the Lennard-Jones energy of a polystyrene chain of ten monomers in its melt at 568 K
        falls from -224 to -279 kJ/mol): dynamics undo that.
    temperature_K : float or None
        None takes the chemistry's own.
    timestep_ps, equilibrate_ps : float
    restraint_k : float, kJ/mol/nm^2, or None
        A bead strays by at most sqrt(3 k_B T / restraint_k), 0.017 nm at 568 K, where atoms have room. None takes the
        stiffest springs that time steps can follow: some 1e7, and beads stay within 0.002 nm.
    seed : int
        Velocities and noise.
    reproducible : bool
        The same seed gives the same atoms to the last bit. OpenMM's CPU platform adds forces in the order in which
        threads finish, so that it runs on one thread then.
    strict : bool
        Refuse what MD cannot start from. Otherwise it is given back as far as it came, with the reasons in the report:
        for those who judge beads, to whom such atoms tell most.
    """

    mode: str = "equilibrate"
    temperature_K: float | None = None
    timestep_ps: float = 0.001
    equilibrate_ps: float = 2.0
    restraint_k: float | None = 50_000.0
    seed: int = 0
    reproducible: bool = False
    strict: bool = True

    def __post_init__(self):
        if self.mode not in MODES:
            raise InputError(f"refinement mode {self.mode!r} is unknown; choose from {', '.join(MODES)}")
        for name in ("timestep_ps", "equilibrate_ps", "restraint_k", "temperature_K"):
            value = getattr(self, name)
            if not (value is None and name in ("restraint_k", "temperature_K") or value > 0):
                raise InputError(f"refinement setting {name} is {value}; it must be positive")


@dataclass(frozen=True)
class RefineReport:
    """What refinement found and did; energies in kJ/mol, forces in kJ/mol/nm, lengths in nm.

    "Before" is the generator's output with beads and bonds made exact. Counts of defects are (before, after). There are
    no energies, and forces are not a number, where a large melt was not refined: OpenMM was not asked.
    ``faults`` says why MD cannot start from the result; it is empty unless settings are not strict.
    """

    mode: str
    energies_before: dict[str, float]
    energies_after: dict[str, float]
    largest_force_before: float
    largest_force_after: float
    bead_rmsd_given: float
    bead_rmsd_projected: float
    bead_rmsd: float
    bond_error: float
    largest_displacement: float
    inverted_centres: tuple[int, int]
    pierced_rings: tuple[int, int]
    close_contacts: tuple[int, int]
    seconds: dict[str, float]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refined:
    """Positions (n_atoms, 3), nm; velocities (n_atoms, 3), nm/ps, or None without dynamics; box (3, 3), nm, or None."""

    positions: np.ndarray
    velocities: np.ndarray | None
    box: np.ndarray | None
    report: RefineReport
