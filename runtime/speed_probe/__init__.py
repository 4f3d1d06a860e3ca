"""How fast this machine computes a model's products, and what a plan's first token should take on it."""
