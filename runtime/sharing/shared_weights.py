"""Weights that graphs of several plans read from one place: mapped as they are stored, or widened once.

ONNX Runtime sessions on the CPU share scratch memory too, so that all buckets of a plan stay open.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graph_rules import OutsideTensor
from luvc_export.bundle.graphs import CheckedGraph, MappedWeights
from luvc_export.bundle.manifest import Manifest, PlanEntry
from luvc_export.core.element_types import BY_PRECISION
from luvc_export.errors import BundleError

_FLOAT, _FP16, _BF16 = (BY_PRECISION[name].onnx for name in ("fp32", "fp16", "bf16"))


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
        self._mapped = MappedWeights()
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
        data, halves = bytearray(checked.data), {one.name for one in checked.outside if one.kind in (_FP16, _BF16)}
        try:
            widened = _widen_in_place(memoryview(data), halves)
        except (ValueError, IndexError) as error:
            raise BundleError("this file is no ONNX graph", where=where, got=str(error)) from error
        weights = {}
        with self._changing:
            for one in checked.outside:
                weights[one.name] = self._array(checked, one, one.name in widened)
        checked.check_files()
        return SharedGraph(bytes(data), weights)

    def _array(self, checked: CheckedGraph, tensor: OutsideTensor, widened: bool) -> tuple[NDArray[Any], int]:
        if not widened:
            return self._mapped.array(checked, tensor, aligned=True), tensor.kind
        key = _place(checked, tensor)
        if key not in self._wide:
            stored = self._mapped.array(checked, tensor, aligned=True)
            bits = stored.astype(np.uint32) << 16 if tensor.kind == _BF16 else stored.astype(np.float32)
            self._wide[key] = bits.view(np.float32)
        return self._wide[key].reshape(tensor.shape), _FLOAT


_SHARED: WeakValueDictionary[int, SharedWeights] = WeakValueDictionary()


def shared_weights(bundle: Bundle) -> SharedWeights:
    """Those of this very object, which lives as long as one of its users does; so must ``bundle``."""
    known = _SHARED.get(id(bundle))
    if known is None:
        known = _SHARED[id(bundle)] = SharedWeights()
    return known


def _place(checked: CheckedGraph, one: OutsideTensor) -> tuple[Path, int, int, int]:
    """File, offset, ONNX element type and count of a weight."""
    return checked.folder / one.location, one.offset, one.kind, one.count


def _widen_in_place(data: memoryview, halves: Collection[str]) -> set[str]:
    """Call those of ``halves``, weights in half precision, float32 in a model that it only widens; which they are."""
    (graph,) = (
        list(wire.fields(wire.contents(one.value))) for one in wire.fields(data) if one.number == onnx.MODEL_GRAPH
    )
    cast, otherwise = set[str](), set[str]()
    for node in (wire.part(one.value) for one in graph if one.number == onnx.GRAPH_NODE):
        if not (op := wire.text(node, onnx.NODE_OP)):
            raise ValueError("a node without an operator")
        (cast if op == "Cast" else otherwise).update(wire.texts(node, onnx.NODE_INPUT))
    widened = (cast - otherwise) & set(halves)
    for tensor in (wire.contents(one.value) for one in graph if one.number == onnx.GRAPH_INITIALIZER):
        if wire.text(wire.decode(tensor), onnx.TENSOR_NAME) in widened:
            (kind,) = (one for one in wire.fields(tensor) if one.number == onnx.TENSOR_TYPE)
            kind.raw[-1] = _FLOAT  # a key and a number, of a byte each
    return widened


_arenas: list[bool] = []


def shares(bundle: Bundle, entry: PlanEntry, device: str) -> bool:
    """Whether graphs of a plan and its buckets read the same weights: on the CPU, where products are in fp32.

    Products of codes are not: they are slow with weights as they lie.
    """
    manifest = bundle.manifest
    buckets = any(one.plan.encoder.takes_units for one in manifest.plans.values())
    return buckets and device == "cpu" and manifest.dtype == "fp32" and _plain(manifest, entry)


def _plain(manifest: Manifest, entry: PlanEntry) -> bool:
    return entry.quantised is None and manifest.weights.stored is None


class SharingSessions:
    """Opens sessions of one bundle.

    Packed and folded, as ONNX Runtime would have them, weights are turned copies in every session. Here its matrix
    products read weights as they lie, turned or not, and sessions take scratch memory from one arena.

    Args:
        library: ``onnxruntime``.
        bundle: Whose graphs.
    """

    def __init__(self, library: Any, bundle: Bundle) -> None:
        self._library, self._weights = library, shared_weights(bundle)
        #: What opened sessions read as long as they live.
        self._values: dict[str, list[Any]] = {}

    def new_bytes(self, graphs: Sequence[CheckedGraph]) -> int:
        """Bytes that sessions of ``graphs`` allocate for weights, beyond what others have."""
        return sum(self._weights.bytes_to_widen(graph) for graph in graphs)

    def prepared(self, graph: CheckedGraph, where: str, options: Any, arguments: dict[str, Any]) -> bytes:
        """What ``InferenceSession`` is given in place of ``graph.data``.

        Args:
            graph: From ``read_graph``.
            where: Its file.
            options: ``SessionOptions``, which are added to.
            arguments: Other arguments by name, which are added to.

        Raises:
            BundleError: See ``SharedWeights.graph``.
        """
        shared, make = self._weights.graph(graph, where), self._library.OrtValue.ortvalue_from_numpy_with_onnx_type
        self._values[where] = [make(*one) for one in shared.weights.values()]
        for weight, value in zip(shared.weights, self._values[where], strict=True):
            options.add_initializer(weight, value)
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("session.use_env_allocators", "1")
        self._register_arena()
        arguments["disabled_optimizers"] = ["ConstantFolding"]
        return shared.data

    def _register_arena(self) -> None:
        """Once a process, and for sessions that ask for it alone."""
        if _arenas:
            return
        library = self._library
        kinds = library.OrtAllocatorType.ORT_ARENA_ALLOCATOR, library.OrtMemType.DEFAULT
        library.create_and_register_allocator(library.OrtMemoryInfo("Cpu", kinds[0], 0, kinds[1]), None)
        _arenas.append(True)
