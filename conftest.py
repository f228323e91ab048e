"""Lets tests run from a checkout: ``cli/`` and ``plugins/`` are parts of the package that lie beside it."""

from pathlib import Path

import openmm_backmap

ROOT = str(Path(__file__).parent)
if ROOT not in openmm_backmap.__path__:
    openmm_backmap.__path__.append(ROOT)
