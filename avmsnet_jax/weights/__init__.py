"""Weights: the bijection between published names and ours, safe readers, Orbax checkpoints, export."""
