"""What plans cost: FLOPs and KV bytes of the LLM, FLOPs of the encoder."""
