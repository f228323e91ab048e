"""Coarse-grained models made from atomistic frames and run in OpenMM: tables by Boltzmann inversion, learned forces.

A :class:`CGModel` is a value: one tabulated potential for each kind of bond, angle, dihedral, improper and pair of
beads of a chemistry, read from and written to one text file. :func:`fit_model` makes one by direct and iterative
Boltzmann inversion, :func:`create_cg_system` makes an ``openmm.System`` of it for any number of molecules,
:func:`run_model` runs it to a trajectory that backmapping reads. To spoil a model on
purpose, put another term in the place of one of its own (:meth:`CGModel.with_term`, :meth:`CGModel.without`).

A :class:`NeuralModel` is a small network that has learned the forces on the beads of one molecule in solution:
:func:`fit_forces` makes one, :func:`run_copies` runs many molecules at once, a trajectory each.
"""

from openmm_backmap.coarse.copies import CopiesSettings, run_copies
from openmm_backmap.coarse.fit import FitSettings, fit_model
from openmm_backmap.coarse.force_matching import FittedForces, ForceSettings, fit_forces
from openmm_backmap.coarse.model import CGModel, Constraint, Term
from openmm_backmap.coarse.model_text import load_cg_model, save_cg_model
from openmm_backmap.coarse.neural import NetworkSettings
from openmm_backmap.coarse.neural_file import NeuralModel, is_neural_model, load_neural_model, save_neural_model
from openmm_backmap.coarse.system import create_cg_system, time_step
from openmm_backmap.coarse.trajectory import RunSettings, run_model

__all__ = ["CGModel", "Constraint", "CopiesSettings", "FitSettings", "FittedForces", "ForceSettings", "NetworkSettings",
           "NeuralModel", "RunSettings", "Term", "create_cg_system", "fit_forces", "fit_model", "is_neural_model",
           "load_cg_model", "load_neural_model", "run_copies", "run_model", "save_cg_model", "save_neural_model",
           "time_step"]
