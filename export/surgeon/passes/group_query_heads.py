"""Query heads that share a cached head, at a step of a few tokens: computed as rows over that head, nothing copied.

OpenVINO's rule for Attention copies every cached head to each of its query heads, and its CPU plug-in then scales and
transposes those copies: at each step a pass over ``heads / kv_heads`` times the cache for few rows of queries.

requires: a decoder, and a target that wants it (``TargetSpec.grouped_heads``).
matches: Attention over a cache, heads apart, several query heads a cached one and one mask for all heads.
apply: where a call brings at most ``STEP`` rows, query heads of a group are laid out as the rows of one head and the
mask's rows are repeated for each (one row is every row's); where it brings more, cached heads are copied. Sizes in the
graph say which, once for all layers that bring as many rows. The same numbers in another layout.
ensures: no such Attention is left.
must not touch: Attention in an encoder; one without a mask, whose causality counts rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx_graphsurgeon as gs

from luvc_export.core.graph_io import STEP
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery, strip, up

ORDER = 220

#: What stands between a cache and the Concat that Attention reads, where it holds codes.
_WIDENING = ("DequantizeLinear", "Mul", "Cast")


def requires(surgery: Surgery) -> str | None:
    """A target that wants it, and such an Attention."""
    if surgery.part == "vision":
        return "the vision graph has no cache"
    if not surgery.target.grouped_heads:
        return "the target's Attention reads a shared head once"
    return None if any(map(_fits, surgery.nodes("Attention"))) else "no query heads share a cached head"


def apply(surgery: Surgery) -> int:
    """Attention by attention."""
    nodes = [node for node in surgery.nodes("Attention") if _fits(node)]
    known: dict[Any, Any] = {}
    for node in nodes:
        _group(surgery, node, known)
    return len(nodes)


def ensures(surgery: Surgery, fired: int) -> None:
    """Check that none is left.

    Raises:
        CheckFailed: Names an Attention whose query heads still share cached ones.
    """
    surgery.graph.cleanup()
    if fired and (left := [node.name for node in surgery.nodes("Attention") if _fits(node)]):
        raise CheckFailed("query heads still share a cached head", where=left[0])


def _fits(node: gs.Node) -> bool:
    if "q_num_heads" in node.attrs or len(node.inputs) != 4 or node.attrs.get("is_causal"):
        return False
    shapes = [tensor.shape for tensor in node.inputs]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return False
    fixed = all(isinstance(shape[axis], int) for shape in shapes[:3] for axis in (1, 3))
    shared = fixed and shapes[1][1] == shapes[2][1] < shapes[0][1]
    return bool(shared and shapes[3][1] == 1 and all(map(_is_cache, node.inputs[1:3])))


def _is_cache(tensor: gs.Tensor) -> bool:
    join = up(tensor, "Concat")
    return join is not None and any(not strip(part, *_WIDENING).inputs for part in join.inputs)


@dataclass(frozen=True)
class _Sizes:
    """Sizes in the graph of a call's Attentions: layers that bring as many rows share them.

    Args:
        repeats: How often each cached head is copied, as Tile takes it.
        count: Cached heads that Attention sees, int64 [1].
        times: How often the mask's rows are repeated, as Tile takes it.
    """

    repeats: gs.Tensor
    count: gs.Tensor
    times: gs.Tensor

    @classmethod
    def of(cls, surgery: Surgery, queries: gs.Tensor, kv_heads: int) -> _Sizes:
        """Of queries [B, H, L, D] over ``kv_heads`` cached heads."""
        shared = queries.shape[1] // kv_heads
        rows = surgery.emit("Shape", [queries], start=2, end=3)[0]
        few = surgery.emit("LessOrEqual", [rows, [STEP]])[0]
        copies = surgery.emit("Where", [few, [1], [shared]])[0]
        several = surgery.emit("And", [few, surgery.emit("Greater", [rows, [1]])[0]])[0]
        times = surgery.emit("Where", [several, [shared], [1]])[0]
        return cls(
            surgery.emit("Concat", [[1, 1], copies, [1, 1]], axis=0)[0],
            surgery.emit("Mul", [copies, [kv_heads]])[0],
            surgery.emit("Concat", [[1, 1], times, [1]], axis=0)[0],
        )


def _group(surgery: Surgery, node: gs.Node, known: dict[Any, Any]) -> None:
    """Change one Attention of queries [B, H, L, D] over caches [B, Hkv, S, D]; ``known`` is what others share."""

    def once(key: tuple[Any, ...], emit: Callable[[], Any]) -> Any:
        if key not in known:
            known[key] = emit()
        return known[key]

    queries, mask, out = node.inputs[0], node.inputs[3], node.outputs[0]
    heads, kv_heads = queries.shape[1], node.inputs[1].shape[1]
    call = (queries.shape[2] or queries.name, heads, kv_heads)
    sizes = once(call, partial(_Sizes.of, surgery, queries, kv_heads))
    laid_out = []
    for at, tensor in enumerate(node.inputs[:3]):
        width = tensor.shape[3]
        target = [[0], sizes.count, [-1, width]]
        shape = once((*call, width), partial(surgery.emit, "Concat", target, axis=0))[0]
        copied = surgery.emit("Tile", [surgery.emit("Unsqueeze", [tensor, [2]])[0], sizes.repeats])[0] if at else tensor
        laid_out.append(surgery.emit("Reshape", [copied, shape])[0])
    repeated = once((*call, mask.name), partial(surgery.emit, "Tile", [mask, sizes.times]))[0]
    repeated.dtype, laid_out[0].dtype = mask.dtype, queries.dtype
    attended = surgery.emit("Attention", [*laid_out, repeated], **node.attrs)[0]
    back = surgery.emit("Reshape", [attended, [0, heads, -1, node.inputs[2].shape[3]]], like=[out])[0]
    surgery.replace(out, back)
