"""DeepBackmap: a conditional voxel GAN that places atoms one by one."""

from openmm_backmap.generators.dbm.generator import DBMGenerator
from openmm_backmap.generators.dbm.network import PRESETS, DBMCritic, DBMHyperparameters, DBMNetwork
from openmm_backmap.generators.dbm.sweep import DBMSampling

__all__ = ["PRESETS", "DBMCritic", "DBMGenerator", "DBMHyperparameters", "DBMNetwork", "DBMSampling"]
