"""Plans with names: how they were searched, and what they keep."""
