"""Query heads that share a cached head, at a step of a few tokens: computed as rows over that head, nothing copied.

OpenVINO's rule for Attention copies every cached head to each of its query heads, and its CPU plug-in then scales and
transposes those copies: at each step a pass over ``heads / kv_heads`` times the cache for few rows of queries.

requires: a decoder, and a target that wants it (``TargetSpec.grouped_heads``).
matches: Attention over a cache, heads apart, several query heads a cached one and one mask for all heads.
apply: where a call brings at most ``STEP`` rows, query heads of a group are laid out as the rows of one head and the
mask's rows are repeated for each (one row is every row's); where it brings more, cached heads are copied. Sizes in the
graph say which. The same numbers in another layout.
ensures: no such Attention is left.
must not touch: Attention in an encoder; one without a mask, whose causality counts rows.
"""

from __future__ import annotations

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
    for node in nodes:
        _group(surgery, node)
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


def _group(surgery: Surgery, node: gs.Node) -> None:
    """Change one Attention of queries [B, H, L, D] over caches [B, Hkv, S, D]."""
    queries, mask, out = node.inputs[0], node.inputs[3], node.outputs[0]
    heads, kv_heads = queries.shape[1], node.inputs[1].shape[1]
    shared = heads // kv_heads
    rows = surgery.emit("Shape", [queries], start=2, end=3)[0]
    few = surgery.emit("LessOrEqual", [rows, [STEP]])[0]
    copies = surgery.emit("Where", [few, [1], [shared]])[0]
    repeats = surgery.emit("Concat", [[1, 1], copies, [1, 1]], axis=0)[0]
    count = surgery.emit("Mul", [copies, [kv_heads]])[0]
    laid_out = []
    for at, tensor in enumerate(node.inputs[:3]):
        target = surgery.emit("Concat", [[0], count, [-1, tensor.shape[3]]], axis=0)[0]
        copied = surgery.emit("Tile", [surgery.emit("Unsqueeze", [tensor, [2]])[0], repeats])[0] if at else tensor
        laid_out.append(surgery.emit("Reshape", [copied, target])[0])
    several = surgery.emit("And", [few, surgery.emit("Greater", [rows, [1]])[0]])[0]
    times = surgery.emit("Where", [several, [shared], [1]])[0]
    repeated = surgery.emit("Tile", [mask, surgery.emit("Concat", [[1, 1], times, [1]], axis=0)[0]])[0]
    repeated.dtype, laid_out[0].dtype = mask.dtype, queries.dtype
    attended = surgery.emit("Attention", [*laid_out, repeated], **node.attrs)[0]
    back = surgery.emit("Reshape", [attended, [0, heads, -1, node.inputs[2].shape[3]]], like=[out])[0]
    surgery.replace(out, back)
