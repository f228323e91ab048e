"""Coarse-grained structures back to atoms, with generative models and OpenMM."""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

# Loaded on first use, so that importing the package is quick and needs neither torch nor openmm.
_LAZY = {
    "Backmapped": "openmm_backmap.backmapper",
    "Backmapper": "openmm_backmap.backmapper",
    "BackmapError": "openmm_backmap.errors",
    "load_chemistry": "openmm_backmap.chemistry",
    "load_model": "openmm_backmap.model_file",
    "shipped_models": "openmm_backmap.model_file",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
