"""Lets the tests import `glyph_search` as `python -m` does from the folder `examples`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
