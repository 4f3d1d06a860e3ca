"""`python -m glyph_deep.train`."""

from .stages import main

if __name__ == "__main__":
    main()
