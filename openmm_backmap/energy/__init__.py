"""Energies of an openmm.System: by OpenMM on the platform chosen, and as a differentiable function in torch."""

from importlib import import_module

from openmm_backmap.energy.openmm_energy import energies_by_force, forces
from openmm_backmap.energy.platforms import best_platform

__all__ = ["LocalEnergy", "TorchEnergy", "best_platform", "energies_by_force", "forces"]


def __getattr__(name: str):
    # torch takes seconds to import, and who only asks OpenMM does not need it.
    if name in ("LocalEnergy", "TorchEnergy"):
        return getattr(import_module("openmm_backmap.energy.bridge"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
