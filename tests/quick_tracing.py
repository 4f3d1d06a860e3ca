"""Tracing many small graphs in one process: the collector passes by what is there already.

It walks what importing torch made, over and over, while tracing makes many objects.
"""

from __future__ import annotations

import gc

#: Objects made before the collector looks at them; 700 by default.
_YOUNG = 50_000


def quicken() -> None:
    """Let the collector pass by what is there already, and look seldom."""
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)
