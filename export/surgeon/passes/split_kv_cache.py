"""A cache's newest rows apart from those that stand: a step gives back few rows, and copies none of the others.

ONNX Runtime's Attention (1.31) writes all rows of a cache anew at each step, by one thread where query heads share a
cached head; OpenVINO's graph would write a whole cache into fresh memory.

requires: a decoder, and a target that has caches in two inputs (``TargetSpec.split_kv_cache``).
apply: each cache input whose rows the graph gives back with the call's behind them gets a second one behind it
(``graph_io.NEWEST``), and the output becomes the newest rows with the call's. ``joined``: the two are joined inside,
for whoever reads them. ``apart``, of graphs of steps alone: two products over either part as it lies, with one softmax
over both, query heads that share a cached head laid out as its rows; where an Attention is any other than scale, a mask
for all heads and softmax in fp32, or others read its cache, the next form does. Who asks how many rows there are is
told of both. Equal for ``joined``; for ``apart`` the same sums in another order.
ensures: every added input is read, and its output gives rows that are not the whole cache's.
must not touch: states of a fixed size, and caches that are read before rows join them, as codes are.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery, kind_of, readers, source, up

ORDER = 210

_HEADS_FIRST = [0, 2, 1, 3]
#: Axis of a cache [B, heads, rows, width] along which rows are added.
_ROWS = 2
#: What a score that must not be seen becomes: no softmax of such scores alone is not-a-number.
_LEAST = np.finfo(np.float32).min


def requires(surgery: Surgery) -> str | None:
    """A target that wants it, and caches in one piece."""
    if surgery.part == "vision":
        return "the vision graph has no cache"
    if not surgery.target.split_kv_cache:
        return "the target's caches are one input each"
    return "done already" if any(_is_newest(tensor) for tensor in surgery.graph.inputs) else None


def apply(surgery: Surgery) -> int:
    """Attention by attention, then every other state whose rows the graph joins itself."""
    forms, masks = surgery.target.split_kv_cache, dict[tuple[int, int], gs.Tensor]()
    for node in surgery.nodes("Attention"):
        apart = "apart" in forms and _is_plain(surgery, node)
        if len(node.inputs) == 6 and (apart or "joined" in forms) and _sized(node):
            _open(surgery, node)
        elif len(node.inputs) == 6:
            surgery.skip("an Attention is no plain one over a cache of its own")
        if apart and len(node.inputs) != 6:
            parts = [_split(surgery, join) for tensor in node.inputs[1:3] if (join := source(tensor)) is not None]
            _two_products(surgery, node, parts, masks)
    if "joined" in forms:
        joins = [join for tensor in list(surgery.graph.inputs) if (join := _join_of(surgery, tensor)) is not None]
        for join in joins:
            _split(surgery, join)
    return sum(map(_is_newest, surgery.graph.inputs))


def ensures(surgery: Surgery, fired: int) -> None:
    """Check what was added.

    Raises:
        CheckFailed: An input of newest rows is read by nothing, or its output is none of them.
    """
    outputs = {tensor.name: tensor for tensor in surgery.graph.outputs}
    for tensor in filter(_is_newest, surgery.graph.inputs if fired else ()):
        after = up(outputs[graph_io.present_name(tensor.name.removesuffix(graph_io.NEWEST))], "Concat")
        if after is None or after.inputs[0] is not tensor:
            raise CheckFailed("newest rows are not given back with the call's", where=tensor.name)


def _is_newest(tensor: gs.Tensor) -> bool:
    return bool(tensor.name.endswith(graph_io.NEWEST))


def _is_plain(surgery: Surgery, node: gs.Node) -> bool:
    """Whether an Attention is scale, one mask and softmax in fp32 over caches that are inputs and nobody else reads."""
    if len(node.inputs) != 6 or len(node.outputs) != 3 or "softmax_precision" in node.attrs:
        return False
    if any(node.attrs.get(name) for name in ("is_causal", "softcap", "qk_matmul_output_mode")):
        return False
    mask, pasts, presents = node.inputs[3], node.inputs[4:], node.outputs[1:]
    if kind_of(mask) != np.bool_ or mask.shape is None or len(mask.shape) != 4 or mask.shape[1] != 1:
        return False
    own = all(any(past is tensor for tensor in surgery.graph.inputs) for past in pasts)
    alone = all([reader.op for reader in readers(past) if reader is not node] in ([], ["Shape"]) for past in pasts)
    unread = all(surgery.gives(present) and not present.outputs for present in presents)
    return own and alone and unread and all(kind_of(past) == np.float32 for past in pasts)


def _sized(node: gs.Node) -> bool:
    """Whether widths of all that an Attention takes are known: behind codes they may not be."""
    return all(tensor.shape is not None and isinstance(tensor.shape[-1], int) for tensor in node.inputs[:3])


def _open(surgery: Surgery, node: gs.Node) -> None:
    """Heads apart, and the rows of a call behind those of the cache, in front of an Attention that has neither inside.

    Queries [B, L, H * D] and rows [B, L, Hkv * D] become [B, H, L, D].
    """
    counts = [int(node.attrs.pop(name)) for name in ("q_num_heads", "kv_num_heads")]
    mask, pasts, presents = node.inputs[3], node.inputs[4:], node.outputs[1:]
    apart = [_heads(surgery, tensor, counts[at > 0]) for at, tensor in enumerate(node.inputs[:3])]
    for at, (past, present) in enumerate(zip(pasts, presents, strict=True), 1):
        joined = surgery.emit("Concat", [past, apart[at]], like=[present], axis=_ROWS)[0]
        surgery.replace(present, joined)
        apart[at] = joined
    packed = node.outputs[0]
    node.inputs, node.outputs = [*apart, *([mask] if mask.name else [])], [gs.Variable(surgery.name("attended"))]
    node.outputs[0].dtype, node.outputs[0].shape = packed.dtype, [*apart[0].shape[:3], apart[2].shape[3]]
    turned = surgery.emit("Transpose", [node.outputs[0]], perm=_HEADS_FIRST)[0]
    width = counts[0] * apart[2].shape[3]
    surgery.replace(packed, surgery.emit("Reshape", [turned, [0, -1, width]], like=[packed])[0])


def _heads(surgery: Surgery, tensor: gs.Tensor, count: int) -> gs.Variable:
    batch, length, width = tensor.shape
    shaped = surgery.emit("Reshape", [tensor, [0, -1, count, width // count]])[0]
    turned: gs.Variable = surgery.emit("Transpose", [shaped], perm=_HEADS_FIRST)[0]
    turned.dtype, turned.shape = tensor.dtype, [batch, count, length, width // count]
    return turned


def _join_of(surgery: Surgery, past: gs.Tensor) -> gs.Node | None:
    """The Concat that makes an output of an input's rows and a call's, where nothing else asks for more than a size."""
    others = [node for node in readers(past) if node.op != "Shape"]
    if len(others) != 1 or others[0].op != "Concat" or len(others[0].inputs) != 2 or _is_newest(past):
        return None
    join, shape = others[0], past.shape
    fits = join.inputs[0] is past and shape is not None and not isinstance(shape[join.attrs["axis"]], int)
    name = graph_io.present_name(past.name)
    return join if fits and any(out is join.outputs[0] and out.name == name for out in surgery.graph.outputs) else None


def _split(surgery: Surgery, join: gs.Node) -> tuple[gs.Tensor, gs.Tensor]:
    """Give a cache its second input; the rows that stand, and the newest ones with the call's."""
    past, whole = join.inputs[0], join.outputs[0]
    axis = join.attrs["axis"] % len(past.shape)
    newest = gs.Variable(past.name + graph_io.NEWEST, past.dtype, list(past.shape))
    newest.shape[axis] = f"{past.name}.before"
    surgery.graph.inputs.append(newest)
    for size in readers(past, "Shape"):
        _both_sizes(surgery, size, newest, axis)
    after = surgery.emit("Concat", [newest, join.inputs[1]], like=[newest], axis=axis)[0]
    after.shape = list(newest.shape)
    after.shape[axis] = f"{past.name}.after"
    at = next(at for at, out in enumerate(surgery.graph.outputs) if out is whole)
    after.name, whole.name = whole.name, surgery.name("whole")
    surgery.graph.outputs[at], join.inputs[1] = after, after
    return past, after


def _both_sizes(surgery: Surgery, size: gs.Node, newest: gs.Tensor, axis: int) -> None:
    """A Shape of a cache, told of both parts."""
    rank = len(newest.shape)
    span = slice(size.attrs.get("start", 0), size.attrs.get("end", rank))
    more = surgery.emit("Shape", [newest], **size.attrs)[0]
    here = surgery.emit("Mul", [more, np.eye(rank, dtype=np.int64)[axis][span]])[0]
    alone = gs.Variable(surgery.name("standing"), np.dtype(np.int64), size.outputs[0].shape)
    both, size.outputs = size.outputs[0], [alone]
    surgery.replace(both, surgery.emit("Add", [alone, here], like=[both])[0])


def _two_products(
    surgery: Surgery, node: gs.Node, parts: list[tuple[gs.Tensor, gs.Tensor]], masks: dict[tuple[int, int], gs.Tensor]
) -> None:
    """Queries [B, H, L, D] over caches [B, Hkv, S, D] in two parts, in place of an Attention."""
    queries, mask, out = node.inputs[0], node.inputs[3], node.outputs[0]
    (keys, new_keys), (rows, new_rows) = parts
    heads, kv_heads, width = queries.shape[1], keys.shape[1], queries.shape[3]
    shared, key = heads // kv_heads, (id(mask), heads // kv_heads)
    if key not in masks:
        hidden, seen = (surgery.constant(number, "mask", np.float32) for number in (_LEAST, 0))
        added = surgery.emit("Where", [mask, seen, hidden])[0]
        masks[key] = surgery.emit("Tile", [added, [1, 1, shared, 1]])[0] if shared > 1 else added
    scale = surgery.constant(node.attrs.get("scale", width**-0.5), "scale", np.float32)
    grouped = surgery.emit("Reshape", [queries, [0, kv_heads, -1, width]])[0]
    scaled, scores, counts = surgery.emit("Mul", [grouped, scale])[0], [], []
    for part in (keys, new_keys):
        across = surgery.emit("Transpose", [part], perm=[0, 1, 3, 2])[0]
        scores.append(surgery.emit("MatMul", [scaled, across])[0])
        counts.append(surgery.emit("Shape", [part], start=_ROWS, end=_ROWS + 1)[0])
    masked = surgery.emit("Add", [surgery.emit("Concat", scores, axis=3)[0], masks[key]])[0]
    shares = surgery.emit("Softmax", [masked], axis=3)[0]
    of_parts = surgery.emit("Split", [shares, surgery.emit("Concat", counts, axis=0)[0]], count=2, axis=3)
    sums = [surgery.emit("MatMul", pair)[0] for pair in zip(of_parts, (rows, new_rows), strict=True)]
    attended = surgery.emit("Reshape", [surgery.emit("Add", sums)[0], [0, heads, -1, rows.shape[3]]], like=[out])[0]
    surgery.replace(out, attended)
