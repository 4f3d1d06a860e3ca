"""Quantised graphs of a bundle: ranges from data, explicit Q/DQ, and the search for what must stay high."""
