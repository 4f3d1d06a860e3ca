"""Work of a stream that is the same again and again, as a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable

from luvc_export.errors import LuvcError
from luvc_export.runtime.cuda.device import Gpu, Graph


class Replay:
    """Runs work of a stream, as a CUDA graph from the second time it is the same.

    TensorRT's first run with new shapes may do what cannot be captured, and a context that runs with other shapes
    makes a graph of it worthless (TensorRT developer guide, "CUDA Graphs"): so one graph, captured at the second run.
    Where the driver or the engine refuses, it warns once and runs plainly from then on.
    """

    def __init__(self, gpu: Gpu, stream: int, enabled: bool) -> None:
        self._gpu, self._stream, self._enabled = gpu, stream, enabled
        self._key: Hashable = None
        self.graph: Graph | None = None

    def run(self, key: Hashable, work: Callable[[], object]) -> None:
        """Run ``work``; an equal ``key`` promises equal shapes and addresses."""
        if key != self._key:
            self._drop()
            self._key = key
            return self._plain(work)
        if self.graph is None and self._enabled:
            try:
                self.graph = self._gpu.capture(self._stream, work)
            except LuvcError as error:
                self._enabled = False
                warnings.warn(f"no CUDA graph, steps are launched one by one: {error}", RuntimeWarning, stacklevel=5)
        if self.graph is None:
            return self._plain(work)
        return self.graph.launch(self._stream)

    def _drop(self) -> None:
        if self.graph is not None:
            self._gpu.synchronize(self._stream)  # it may still run
            self.graph = None

    @staticmethod
    def _plain(work: Callable[[], object]) -> None:
        work()
