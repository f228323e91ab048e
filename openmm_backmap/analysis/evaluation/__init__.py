"""The pieces of :func:`openmm_backmap.analysis.evaluate.evaluate`."""
