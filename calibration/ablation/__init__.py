"""What to prune: every score, reducer and switch on the same plan, the same model and the same code path."""
