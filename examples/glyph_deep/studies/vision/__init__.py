"""What a cheaper encoder costs in answers."""
