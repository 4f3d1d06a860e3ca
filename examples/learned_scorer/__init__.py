"""A learned scorer (`--scorer`): a trainer, and what it gains against the scores that need no training."""
