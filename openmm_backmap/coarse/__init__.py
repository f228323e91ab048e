"""Coarse-grained models: tabulated force fields made from atomistic frames by Boltzmann inversion, and run in OpenMM.

A :class:`CGModel` is a value: one tabulated potential for each kind of bond, angle, dihedral, improper and pair of
beads of a chemistry, read from and written to one text file. :func:`fit_model` makes one by direct and iterative
Boltzmann inversion, :func:`create_cg_system` makes an ``openmm.System`` of it for any number of molecules,
:func:`run_model` runs it to a trajectory that backmapping reads. To spoil a model on
purpose, put another term in the place of one of its own (:meth:`CGModel.with_term`, :meth:`CGModel.without`).
"""

from openmm_backmap.coarse.fit import FitSettings, fit_model
from openmm_backmap.coarse.model import CGModel, Constraint, Term
from openmm_backmap.coarse.model_text import load_cg_model, save_cg_model
from openmm_backmap.coarse.system import create_cg_system, time_step
from openmm_backmap.coarse.trajectory import RunSettings, run_model

__all__ = ["CGModel", "Constraint", "FitSettings", "RunSettings", "Term", "create_cg_system", "fit_model",
           "load_cg_model", "run_model", "save_cg_model", "time_step"]
