"""One file of weights for both graphs of a variant: each tensor is written once, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

#: Larger tensors lie in the file, each at a page's start as runtimes that map files want; others in the graphs.
INLINE_BYTES = 1024
ALIGNMENT = 4096


class Shelf:
    """Tensors in ``folder / name``.

    Args:
        folder: Where the graphs will lie.
        name: Of the file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.end = 0
        self._placed: dict[str, ir.Tensor | ir.ExternalTensor] = {}
        (folder / name).touch()

    def put(self, name: str, make: Callable[[], ir.TensorProtocol]) -> ir.Tensor | ir.ExternalTensor:
        """The tensor called ``name``, made and written if it is not there yet."""
        if name in self._placed:
            return self._placed[name]
        tensor = make()
        shape = ir.Shape([int(size) for size in tensor.shape.numpy()])
        if tensor.nbytes < INLINE_BYTES:
            small = self._placed[name] = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=shape, name=name)
            return small
        offset = -(-self.end // ALIGNMENT) * ALIGNMENT
        with (self.folder / self.name).open("r+b") as file:
            file.seek(offset)
            file.write(contents(tensor))
        self.end = offset + tensor.nbytes
        large = self._placed[name] = ir.ExternalTensor(
            self.name, offset, tensor.nbytes, tensor.dtype, shape=shape, name=name, base_dir=self.folder
        )
        return large

    def array(self, name: str) -> NDArray[Any]:
        """The tensor called ``name``, read."""
        return self._placed[name].numpy()

    def take(self, graph: ir.Graph, name: str) -> ir.Value:
        """An initializer of ``graph`` with the tensor called ``name``."""
        if name not in graph.initializers:
            tensor = self._placed[name]
            value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
            graph.register_initializer(value)
        return graph.initializers[name]


def contents(tensor: ir.TensorProtocol) -> bytes:
    """Bytes as a file holds them. ``onnx_ir`` refuses files with several hard links, which bundles may well have."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.tobytes()
    with Path(tensor.path).open("rb") as file:
        file.seek(tensor.offset or 0)
        return file.read(tensor.length or tensor.nbytes)


def read(tensor: ir.ExternalTensor) -> ir.Tensor:
    """An external tensor of whole bytes an element, read."""
    array = np.frombuffer(contents(tensor), tensor.dtype.numpy()).reshape(tensor.shape.numpy())
    return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)
