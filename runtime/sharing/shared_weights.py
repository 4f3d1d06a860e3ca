"""Weights that graphs of several plans read from one place: mapped as they are stored, or widened once."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graph_rules import OutsideTensor
from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.core.element_types import BY_ONNX
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import BundleError
from luvc_export.runtime.openvino import wire

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER = 7, 1, 5
_NODE_INPUT, _NODE_OP = 1, 4
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_LOCATION = 1, 2, 8, 14
_FLOAT, _FP16, _BF16 = 1, 10, 16


@dataclass(frozen=True)
class SharedGraph:
    """A graph whose outside weights are given beside it.

    Args:
        data: ONNX bytes; weights that were widened are float32 in it.
        weights: Arrays and ONNX element types by name.
    """

    data: bytes
    weights: dict[str, tuple[NDArray[Any], int]]


class SharedWeights:
    """Outside weights of a bundle's graphs as a CPU computes with them, each once for all graphs that read it.

    Those stored so are the mapped files; half precision that graphs only widen (``Cast`` to float32) is widened here,
    once, and the graphs are told that it was float32 all along.
    """

    def __init__(self) -> None:
        self._files: dict[Path, NDArray[np.uint8]] = {}
        self._wide: dict[tuple[Path, int, int, int], NDArray[Any]] = {}
        self._changing = threading.Lock()

    def bytes_to_widen(self, checked: CheckedGraph) -> int:
        """Bytes of float32 that ``graph`` allocates at most."""
        new = {_place(checked, one): 4 * one.count for one in checked.outside if one.kind in (_FP16, _BF16)}
        return sum(size for key, size in new.items() if key not in self._wide)

    def graph(self, checked: CheckedGraph, where: str) -> SharedGraph:
        """A graph and its weights.

        Args:
            checked: From ``read_graph``.
            where: Its file, for errors.

        Raises:
            BundleError: It is no ONNX graph, or a file cannot be read.
        """
        data = bytearray(checked.data)
        try:
            shapes = _wide_in_place(memoryview(data))
        except (ValueError, IndexError, KeyError, StopIteration) as error:
            raise BundleError("this file is no ONNX graph", where=where, got=str(error)) from error
        found = {}
        with self._changing:
            for one in checked.outside:
                (shape, widened), key = shapes[one.name], _place(checked, one)
                array = self._stored(*key)
                if widened and key not in self._wide:
                    bits = array.astype(np.uint32) << 16 if one.kind == _BF16 else array.astype(np.float32)
                    self._wide[key] = bits.view(np.float32)
                array = self._wide[key] if widened else array
                found[one.name] = array.reshape(shape), _FLOAT if widened else one.kind
        checked.check_files()
        return SharedGraph(bytes(data), found)

    def _stored(self, path: Path, offset: int, kind: int, count: int) -> NDArray[Any]:
        if path not in self._files:
            with open_regular(path) as opened:
                self._files[path] = np.memmap(opened, np.uint8, "r")
        stored = BY_ONNX[kind]
        part = self._files[path][offset : offset + count * stored.itemsize]
        if part.ctypes.data % stored.itemsize:
            part = part.copy()
        return part.view(np.dtype(stored.storage))


_SHARED: WeakValueDictionary[int, SharedWeights] = WeakValueDictionary()


def shared_weights(bundle: Bundle) -> SharedWeights:
    """Those of this very object, which lives as long as one of its users does; so must ``bundle``."""
    found = _SHARED.get(id(bundle))
    if found is None:
        found = _SHARED[id(bundle)] = SharedWeights()
    return found


def _place(checked: CheckedGraph, one: OutsideTensor) -> tuple[Path, int, int, int]:
    """File, offset, ONNX element type and count of a weight."""
    return checked.folder / one.location, one.offset, one.kind, one.count


def _wide_in_place(data: memoryview) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Call half-precision weights that are only widened float32 in a model; shapes of outside weights, and which."""
    (graph,) = [list(wire.fields(one.message())) for one in wire.fields(data) if one.number == _MODEL_GRAPH]
    cast, otherwise = set[str](), set[str]()
    for node in (list(wire.fields(one.message())) for one in graph if one.number == _GRAPH_NODE):
        op = next(one.text() for one in node if one.number == _NODE_OP)
        (cast if op == "Cast" else otherwise).update(one.text() for one in node if one.number == _NODE_INPUT)
    found = {}
    for tensor in (list(wire.fields(one.message())) for one in graph if one.number == _GRAPH_INITIALIZER):
        if not any(one.number == _TENSOR_LOCATION and one.value == 1 for one in tensor):
            continue
        name = next(one.text() for one in tensor if one.number == _TENSOR_NAME)
        (kind,) = (one for one in tensor if one.number == _TENSOR_TYPE)
        widened = kind.value in (_FP16, _BF16) and name in cast - otherwise
        if widened:
            kind.raw[-1] = _FLOAT  # a key and a number, of a byte each
        shape = tuple(wire.integers([one for one in tensor if one.number == _TENSOR_DIMS]))
        found[name] = shape, widened
    return found
