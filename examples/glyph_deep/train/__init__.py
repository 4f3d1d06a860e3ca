"""The model and the stages that train it: `python -m glyph_deep.train`."""
