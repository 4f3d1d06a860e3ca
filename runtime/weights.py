"""A plan's decoder and its outside weights as arrays: the mapped files themselves, each mapped once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import MANIFEST, Bundle
from luvc_export.bundle.graph_rules import OutsideTensor
from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.bundle.manifest import GraphSet, PlanEntry
from luvc_export.core.element_types import BY_ONNX
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import UsageError


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


def decoder_file(bundle: Bundle, entry: PlanEntry, debug: bool) -> str:
    """Name of a plan's decoder, or of its debug graph.

    Raises:
        UsageError: There is no debug graph.
    """
    name = entry.decoder_debug if debug else entry.decoder
    if name is None:
        raise UsageError("the bundle has no debug graph", where=str(bundle.folder), fix="export it with debug=True")
    return name


def finished_graphs(bundle: Bundle, entry: PlanEntry, target: str, slots: bool) -> GraphSet:
    """The decoders of a plan that were finished for ``target``, with slots for adapters or without.

    Where there are none, as in bundles that older versions wrote, the plan's own decoder takes prompts and steps.
    """
    plan = next((name for name, one in bundle.manifest.plans.items() if one.decoder == entry.decoder), None)
    if plan is None:
        return GraphSet("", target, entry.decoder, entry.decoder, slots=slots)
    return bundle.graph_set(plan, target, slots)


def older_graphs(bundle: Bundle, target: str) -> tuple[str, ...]:
    """A line for users of bundles whose decoders were finished for nothing: they answer, slower."""
    if bundle.manifest.sets:
        return ()
    build = f"luvc-export build {bundle.folder} --target {target}"
    return (f"these graphs are of an older version and slower here: {build} finishes them",)


def check_weights(bundle: Bundle) -> None:
    """Refuse a bundle of graphs alone.

    Raises:
        UsageError: It has no weights.
    """
    if bundle.manifest.weights.mode == "none":
        raise UsageError(
            "this bundle has no weights: it can be timed and inspected, not asked",
            where=str(bundle.folder / MANIFEST),
            fix="export it again without --no-weights",
        )
