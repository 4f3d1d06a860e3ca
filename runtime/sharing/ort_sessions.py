"""ONNX Runtime sessions on the CPU that share weights and scratch memory, so that all buckets of a plan stay open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.bundle.manifest import Manifest, PlanEntry
from luvc_export.runtime.sharing.shared_weights import shared_weights

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
