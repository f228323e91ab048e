"""Generators that follow a trajectory: each frame given the one before."""
