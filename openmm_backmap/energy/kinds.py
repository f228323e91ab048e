"""What an OpenMM force is called here, and whether it carries energy."""

from __future__ import annotations

from openmm_backmap.energy.expressions import HarmonicTorsion, harmonic_torsion

_KINDS = {"HarmonicBondForce": "bond", "HarmonicAngleForce": "angle", "PeriodicTorsionForce": "torsion",
          "RBTorsionForce": "rb_torsion", "NonbondedForce": "nonbonded"}


def carries_no_energy(force) -> bool:
    """Whether ``force`` only couples to a bath or removes drift."""
    name = type(force).__name__
    return name == "CMMotionRemover" or name.endswith(("Barostat", "Thermostat"))


def kind_of_force(force) -> str | None:
    """The name by which users know a force (``bond``, ``angle``, ..., ``nonbonded``), or None if it is not known."""
    if type(force).__name__ == "CustomTorsionForce":
        return "improper" if harmonic_form(force) else None
    return _KINDS.get(type(force).__name__)


def harmonic_form(force) -> HarmonicTorsion | None:
    """How a CustomTorsionForce writes a harmonic torsion; None where it is another function."""
    return harmonic_torsion(force.getEnergyFunction(), torsion_parameters(force), global_parameters(force))


def torsion_parameters(force) -> tuple[str, ...]:
    """Names of the parameters that each torsion has of its own."""
    return tuple(force.getPerTorsionParameterName(k) for k in range(force.getNumPerTorsionParameters()))


def global_parameters(force) -> dict[str, float]:
    """Global parameters of a force and their default values."""
    return {force.getGlobalParameterName(k): force.getGlobalParameterDefaultValue(k)
            for k in range(force.getNumGlobalParameters())}
