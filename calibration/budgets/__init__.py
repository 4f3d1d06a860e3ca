"""Budgets from data: the cheapest plan under which a model still says what it says uncompressed."""
