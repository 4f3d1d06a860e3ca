"""Quantised weights of a checkpoint in a bundle: written to a file of their own, and put into traced graphs."""
