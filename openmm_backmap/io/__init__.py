"""Structures, trajectories, topologies and systems: in and out; a file appears whole or not at all."""
