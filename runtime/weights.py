"""Outside weights of graphs as arrays: the mapped files themselves, each mapped once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.graph_rules import OutsideTensor
from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.core.element_types import BY_ONNX
from luvc_export.core.files.safe_files import open_regular


class MappedWeights:
    """Files of weights, mapped when first asked for; nothing is read yet."""

    def __init__(self) -> None:
        self._files: dict[Path, NDArray[np.uint8]] = {}

    def stored(self, graph: CheckedGraph, tensor: OutsideTensor, aligned: bool = False) -> NDArray[np.uint8]:
        """The bytes of an outside weight of ``graph``, read-only.

        ``aligned``: at an address that its type is read from; one that lies at another in its file is copied.

        Raises:
            BundleError: The file is not the one that was hashed.
        """
        watched, kind = graph.files[tensor.location], BY_ONNX.get(tensor.kind)
        if watched.path not in self._files:
            with open_regular(watched.path) as file:
                self._files[watched.path] = np.memmap(file, np.uint8, "r")
            watched.check()
        part = self._files[watched.path][tensor.offset :][: tensor.bytes or 0]
        apart = aligned and kind is not None and part.nbytes and part.ctypes.data % kind.itemsize
        return part.copy() if apart else part

    def array(self, graph: CheckedGraph, tensor: OutsideTensor, aligned: bool = False) -> NDArray[Any]:
        """``stored`` in its shape, of the numpy type that holds its bits."""
        flat = self.stored(graph, tensor, aligned).view(np.dtype(BY_ONNX[tensor.kind].storage))
        return flat.reshape(tensor.shape)
