"""Rounding of weights: pure functions from arrays to arrays."""
