"""How methods of choosing and merging compare, ours and others."""
