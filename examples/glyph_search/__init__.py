"""Retrieval of drawn pages: vectors trained on glyph_deep's encoder, what plans keep of them; see README.md."""
