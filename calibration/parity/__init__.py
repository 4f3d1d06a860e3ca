"""Two models on the same cases: every difference measured, gated, located and shown."""
