"""A decoder as ONNX Runtime opens it: without slots that nobody asked for, for steps alone, in blocks, as is asked."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from luvc_export.bundle.graph_rules import OutsideTensor
from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.runtime.ort_graphs.bare_slots import without_slots
from luvc_export.runtime.ort_graphs.blocks import Blocks, in_blocks
from luvc_export.runtime.ort_graphs.two_parts import in_two_parts


@dataclass(frozen=True)
class ReadyDecoder:
    """What a session is made of.

    Args:
        graph: The model.
        blocks: What it must be given beside the graph; None for nothing.
    """

    graph: bytes
    blocks: Blocks | None = None


def ready_decoder(
    data: bytes,
    checked: CheckedGraph,
    bare: Collection[str] = (),
    only_steps: bool = False,
    weights: Callable[[CheckedGraph, OutsideTensor], NDArray[Any]] | None = None,
) -> ReadyDecoder:
    """Prepare a decoder.

    Args:
        data: The model, of ``checked``.
        checked: Says what lies outside of it.
        bare: Inputs of slots to leave out.
        only_steps: It takes no prompt: there are rows in each of its caches.
        weights: Reads an outside weight; given, products of 8 bits are put in blocks.

    Raises:
        ValueError: It is no ONNX graph.
        IndexError: It ends early.
    """
    data = without_slots(data, bare) if bare else data
    data = in_two_parts(data)[0] if only_steps else data
    if weights is None:
        return ReadyDecoder(data)
    read, outside = weights, {tensor.name: tensor for tensor in checked.outside}
    blocks = in_blocks(data, lambda name: read(checked, outside[name]) if name in outside else None)
    return ReadyDecoder(blocks.graph, blocks)
