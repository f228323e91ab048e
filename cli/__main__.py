"""``python -m openmm_backmap.cli`` is ``backmap-openmm``."""

from openmm_backmap.cli import main

main()
