"""Whether an engine's matrix products are right on this machine."""
