"""A bundle's graph as an OpenVINO model whose weights are the mapped files themselves."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import CheckedGraph, read_graph
from luvc_export.bundle.manifest import PlanEntry
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import BundleError, MachineError
from luvc_export.runtime.openvino import device
from luvc_export.runtime.openvino.inline import Outside, write_out
from luvc_export.runtime.weights import reference_arrays

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
        bodies: Functions that were written out, see ``inline.WrittenOut``.
        weight_bytes: Bytes of the outside weights.
        numbers: How many floating-point numbers they are.
        mapped: What must live as long as anything made of the model: the weights' memory.
        checked: The graph's file and those of its weights, hashed.
    """

    model: Any
    where: str
    outputs: tuple[str, ...]
    bodies: dict[str, str]
    weight_bytes: int
    numbers: int
    mapped: tuple[NDArray[Any], ...]
    checked: CheckedGraph


class GraphReader:
    """Reads graphs of a plan; files that several graphs share are mapped once.

    Args:
        bundle: A checked bundle.
        entry: One of its plans.
    """

    def __init__(self, bundle: Bundle, entry: PlanEntry) -> None:
        self._bundle = bundle
        referenced = bundle.manifest.weights.mode == "reference" and entry.quantised is None
        self._references = reference_arrays(bundle) if referenced else None
        self._files: dict[str, NDArray[np.uint8]] = {}

    def read(self, name: str) -> Graph:
        """Read graph file ``name``.

        Raises:
            BundleError: It is no ONNX graph, or its weights are not where it says.
            MachineError: OpenVINO cannot convert it.
        """
        path, checked = self._bundle.path(name), read_graph(self._bundle, name)
        arrays: dict[str, NDArray[Any]] = {}

        def values(weight: str, outside: Outside) -> bytes:
            arrays[weight] = self._array(weight, outside, str(path))
            return arrays[weight].tobytes()

        try:
            written = write_out(checked.data, values)
        except (ValueError, IndexError) as error:
            raise BundleError("this file is no ONNX graph", where=str(path), got=str(error)) from error
        constants = sum(array.nbytes for array in arrays.values())
        arrays = {weight: self._array(weight, outside, str(path)) for weight, outside in written.weights.items()}
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
        for parameter in list(model.get_parameters()):
            names = parameter.get_output_tensor(0).get_names() & written.weights.keys()
            if names:
                weight = names.pop()
                kind = written.weights[weight].kind
                constant = library.op.Constant(
                    _tensor(library, arrays[weight], kind, written.weights[weight].shape), True
                )
                constant.set_friendly_name(weight)
                parameter.output(0).replace(constant.output(0))
                model.remove_parameter(parameter)
        model.validate_nodes_and_infer_types()
        checked.check_files()
        size = constants + sum(array.nbytes for array in arrays.values())
        real = sum(math.prod(item.shape) for item in written.weights.values() if item.kind in _REAL)
        return Graph(model, str(path), written.outputs, written.bodies, size, real, tuple(arrays.values()), checked)

    def _array(self, weight: str, outside: Outside, where: str) -> NDArray[Any]:
        """The mapped bytes of a weight; nothing is read yet.

        Raises:
            BundleError: The manifest does not list its file, or it does not lie in it.
        """
        if outside.kind not in _TYPES:
            raise BundleError(
                "unknown weight type", where=f"{where}: {weight}", got=f"ONNX element type {outside.kind}"
            )
        if self._references is not None:
            found = self._references.get(weight)
            if found is None:
                raise BundleError("the manifest does not say where a weight lies", where=where, got=weight)
            if found[0].shape != outside.shape or found[1] != outside.kind:
                raise BundleError(
                    "the manifest and the graph do not agree on a weight",
                    where=f"{where}: {weight}",
                    got=f"type {found[1]}, {list(found[0].shape)}",
                    expected=f"type {outside.kind}, {list(outside.shape)}",
                )
            return _aligned(found[0], outside.kind)
        if outside.location not in self._bundle.manifest.files:
            raise BundleError(
                "a graph takes a weight from a file the manifest does not list",
                where=where,
                got=f"{weight!r} from {outside.location!r}",
            )
        if outside.location not in self._files:
            watched = self._bundle.watch(outside.location)
            with open_regular(watched.path) as opened:
                self._files[outside.location] = np.memmap(opened, np.uint8, "r")
            watched.check()
        file, needed = self._files[outside.location], (math.prod(outside.shape) * _TYPES[outside.kind][1] + 7) // 8
        if outside.length not in (0, needed) or outside.offset + needed > file.size:
            raise BundleError(
                "a weight does not lie where the graph says",
                where=f"{where}: {weight}",
                got=f"{outside.length} bytes at {outside.offset} of {file.size}",
                expected=f"{needed} bytes for {list(outside.shape)}",
            )
        return _aligned(file[outside.offset : outside.offset + needed], outside.kind)


def _aligned(array: NDArray[Any], kind: int) -> NDArray[Any]:
    """The array itself, or its copy where it lies at an address that its type is not read from."""
    size = max(1, _TYPES[kind][1] // 8)
    return array.copy() if array.nbytes and array.ctypes.data % size else array


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
    _, found, summary = text.partition("Summary:")
    return " ".join((summary if found else text[-500:]).split())[:500]
