"""Rounding and scaling of weights: pure functions from arrays to arrays."""
