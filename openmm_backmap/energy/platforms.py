"""Which OpenMM platform runs the energies: CUDA, else OpenCL, else CPU, else Reference; the first that works."""

from __future__ import annotations

from functools import lru_cache

from openmm_backmap.errors import InputError
from openmm_backmap.registry import unknown_name

PREFERENCE = ("CUDA", "OpenCL", "CPU", "Reference")


@lru_cache
def _works(name: str) -> str:
    """Empty where a context on the platform runs, else the reason why not."""
    import openmm as mm

    try:
        system = mm.System()
        system.addParticle(1.0)
        context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName(name))
        context.setPositions([mm.Vec3(0, 0, 0)])
        context.getState(energy=True)
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def best_platform(name: str | None = None):
    """The ``openmm.Platform`` called ``name``, or the fastest that works on this machine.

    Raises
    ------
    UnknownNameError
        Where OpenMM knows no such platform.
    InputError
        Where the platform asked for does not run here; the reason is OpenMM's own.
    """
    import openmm as mm

    if name is None:
        return mm.Platform.getPlatformByName(next(p for p in PREFERENCE if not _works(p)))
    match = {p.lower(): p for p in PREFERENCE}.get(str(name).lower())
    if match is None:
        raise unknown_name("platform", str(name), PREFERENCE)
    reason = _works(match)
    if reason:
        raise InputError(f"platform {match} does not run here: {reason}")
    return mm.Platform.getPlatformByName(match)
