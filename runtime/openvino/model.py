"""A bundle's graph as an OpenVINO model whose weights are the mapped files themselves."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import CheckedGraph, MappedWeights, read_graph
from luvc_export.errors import BundleError, MachineError
from luvc_export.runtime.openvino import device
from luvc_export.runtime.openvino.inline import write_out
from luvc_export.runtime.openvino.rewrites import restore_empty

#: OpenVINO's name, bits and numpy type of a weight, by ONNX element type. numpy has no bf16, fp8 or 4-bit type.
_TYPES: dict[int, tuple[str, int, type[np.generic]]] = {
    1: ("f32", 32, np.float32),
    2: ("u8", 8, np.uint8),
    3: ("i8", 8, np.int8),
    6: ("i32", 32, np.int32),
    7: ("i64", 64, np.int64),
    9: ("boolean", 8, np.uint8),
    10: ("f16", 16, np.float16),
    16: ("bf16", 16, np.uint16),
    17: ("f8e4m3", 8, np.uint8),
    21: ("u4", 4, np.uint8),
    22: ("i4", 4, np.uint8),
}

_REAL = (1, 10, 16)


@dataclass(frozen=True)
class Graph:
    """A graph that can be compiled.

    Args:
        model: ``openvino.Model``.
        where: The graph's file.
        outputs: Names of its outputs, in order.
        weight_bytes: Bytes of the outside weights.
        numbers: How many floating-point numbers they are.
        mapped: What must live as long as anything made of the model: the weights' memory.
        checked: The graph's file and those of its weights, hashed.
    """

    model: Any
    where: str
    outputs: tuple[str, ...]
    weight_bytes: int
    numbers: int
    mapped: tuple[NDArray[Any], ...]
    checked: CheckedGraph


def without_output(graph: Graph, name: str) -> Graph:
    """A graph that does not compute output ``name``; its model is changed."""
    gone = [result for result in graph.model.get_results() if name in result.get_output_tensor(0).get_names()]
    for result in gone:
        graph.model.remove_result(result)
    return replace(graph, outputs=tuple(one for one in graph.outputs if one != name))


class GraphReader:
    """Reads graphs of a plan; files that several graphs share are mapped once.

    Args:
        bundle: A checked bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._mapped = bundle, MappedWeights()

    def read(self, name: str) -> Graph:
        """Read graph file ``name``.

        Raises:
            BundleError: It is no ONNX graph, or its weights are not where it says.
            MachineError: OpenVINO cannot convert it.
        """
        path, checked = self._bundle.path(name), read_graph(self._bundle, name)
        for tensor in checked.outside:
            if tensor.kind not in _TYPES:
                kind = f"ONNX element type {tensor.kind}"
                raise BundleError("unknown weight type", where=f"{path}: {tensor.name}", got=kind)
        try:
            written = write_out(checked, lambda tensor: self._mapped.stored(checked, tensor).tobytes())
        except (ValueError, IndexError) as error:
            raise BundleError("this file is no ONNX graph", where=str(path), got=str(error)) from error
        arrays = {tensor.name: self._mapped.stored(checked, tensor, aligned=True) for tensor in checked.outside}
        size = sum(array.nbytes for array in arrays.values())
        library = device.load_library()
        try:
            model = device.core().read_model(written.data)
        except RuntimeError as error:
            raise MachineError(
                "OpenVINO cannot convert this graph",
                where=str(path),
                got=_short(error),
                fix="choose the cpu back-end (ONNX Runtime), or another plan",
            ) from error
        restore_empty(library, model, written.empty)
        for parameter in list(model.get_parameters()):
            names = parameter.get_output_tensor(0).get_names() & written.weights.keys()
            if names:
                tensor = written.weights[names.pop()]
                constant = library.op.Constant(_tensor(library, arrays[tensor.name], tensor.kind, tensor.shape), True)
                constant.set_friendly_name(tensor.name)
                parameter.output(0).replace(constant.output(0))
                model.remove_parameter(parameter)
        model.validate_nodes_and_infer_types()
        checked.check_files()
        real = sum(tensor.count for tensor in written.weights.values() if tensor.kind in _REAL)
        mapped = tuple(arrays[name] for name in written.weights)
        return Graph(model, str(path), written.outputs, size, real, mapped, checked)


def _tensor(library: Any, array: NDArray[Any], kind: int, shape: tuple[int, ...]) -> Any:
    """An OpenVINO tensor that is the array's memory.

    Its constructors refuse what is read-only, though constants are only read: the same address, seen as writable, is
    what they take.
    """
    name, bits, numpy_type = _TYPES[kind]
    if not array.nbytes:
        return library.Tensor(getattr(library.Type, name), library.Shape(shape))
    memory = (ctypes.c_ubyte * array.nbytes).from_address(array.ctypes.data)
    flat: NDArray[Any] = np.frombuffer(memoryview(memory), numpy_type)
    same = bits == 8 * flat.itemsize and name not in ("bf16", "f8e4m3", "boolean")
    if same:
        return library.Tensor(flat.reshape(shape), True)
    return library.Tensor(flat, library.Shape(shape), getattr(library.Type, name))


def _short(error: Exception) -> str:
    """The end of what OpenVINO says: its summary of operators it has no rule for."""
    text = str(error).strip()
    _, mark, summary = text.partition("Summary:")
    return " ".join((summary if mark else text[-500:]).split())[:500]
