"""Checkpoints of random numbers with the layer shapes of real models: for timing without downloads."""
