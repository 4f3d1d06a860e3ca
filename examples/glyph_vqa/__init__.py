"""Glyph VQA: pictures of coloured digits, questions about them, and the small model that answers."""
