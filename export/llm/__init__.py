"""The LLM half: decoder layers with pruning between them, rotary positions, the debug variant."""
