"""An instrument whose language model its authors trained on language: SmolLM2-135M behind glyph_deep's encoder."""
