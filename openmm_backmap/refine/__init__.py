"""From a generator's raw atoms to a structure that MD can start from, with the beads where they were given."""

from openmm_backmap.energy.restraints import add_bead_restraints
from openmm_backmap.refine.pipeline import Refiner, refine
from openmm_backmap.refine.projection import project, satisfy_bonds
from openmm_backmap.refine.report import Refined, RefineReport, RefineSettings

__all__ = ["Refined", "RefineReport", "RefineSettings", "Refiner", "add_bead_restraints", "project", "refine",
           "satisfy_bonds"]
