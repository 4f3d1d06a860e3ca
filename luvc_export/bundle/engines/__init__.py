"""Engines in a bundle: their records, and whether they may be loaded."""
