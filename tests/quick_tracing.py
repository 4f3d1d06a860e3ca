"""Tracing many small graphs in one process: the collector passes by what is there already.

It walks what importing torch made, over and over, while tracing makes many objects. And before Python 3.12 a protocol's
names are looked up at every ``isinstance``, of which onnx_ir asks for every value.
"""

from __future__ import annotations

import functools
import gc
import sys
import typing

#: Objects made before the collector looks at them; 700 by default.
_YOUNG = 50_000


def quicken() -> None:
    """Let the collector pass by what is there already, and look seldom; look a protocol's names up once."""
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)
    if sys.version_info < (3, 12):
        typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)  # type: ignore[attr-defined]
