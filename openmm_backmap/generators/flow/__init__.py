"""Bead-wise conditional flow matching."""

from openmm_backmap.generators.flow.generator import BaseDistribution, FlowGenerator, FlowSampling
from openmm_backmap.generators.flow.network import FlowHyperparameters, FlowNetwork

__all__ = ["BaseDistribution", "FlowGenerator", "FlowHyperparameters", "FlowNetwork", "FlowSampling"]
