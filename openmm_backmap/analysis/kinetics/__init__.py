"""Trajectories of one molecule judged against a reference trajectory: what is where, and how it moves."""
