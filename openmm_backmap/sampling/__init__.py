"""The outer loop of bead-wise generators."""

from openmm_backmap.sampling.sweeps import SweepSettings, sample_beads

__all__ = ["SweepSettings", "sample_beads"]
