"""LUVC as pure functions: merging in the encoder (oim), pruning in the LLM (spu, scores)."""
