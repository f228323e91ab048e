"""What the molecules are: residue templates, the bead mapping M, and the atomistic target of a CG system."""

from openmm_backmap.chemistry.aliases import parse_aliases
from openmm_backmap.chemistry.cg import CGTopology, as_cg_topology
from openmm_backmap.chemistry.match import Match, match_atoms, match_beads, whole_beads
from openmm_backmap.chemistry.spec import Chemistry, load_chemistry, parse_chemistry
from openmm_backmap.chemistry.system import create_flexible_system, create_system, with_box, with_solvent
from openmm_backmap.chemistry.target import Target, build_target

__all__ = ["CGTopology", "Chemistry", "Match", "Target", "as_cg_topology", "build_target", "create_flexible_system",
           "create_system", "load_chemistry", "match_atoms", "match_beads", "parse_aliases", "parse_chemistry",
           "whole_beads", "with_box", "with_solvent"]
