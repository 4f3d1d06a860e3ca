"""Tracing many small graphs in one process: what torch makes anew for each of them is made once.

Nothing here is in a graph. The exporter reads the whole of torchlib for every graph (0.8 s of some ten), though it is
the same for all; and the collector walks what importing torch made, over and over, while tracing makes many objects.
"""

from __future__ import annotations

import functools
import gc

from torch.onnx._internal.exporter._registration import ONNXRegistry

#: Objects made before the collector looks at them; 700 by default.
_YOUNG = 50_000


def quicken() -> None:
    """Keep the exporter's registry, which it only reads, and let the collector pass by what is there already."""
    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)
