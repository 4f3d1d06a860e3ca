"""Operators the target's parser lacks become ones it has; opset and IR version become the target's.

requires: nothing for the ``onnx`` dialect but versions, and Attention with softcap where the parser refuses that; for
``primitive`` (TensorRT 10.3) also rewriting.
apply, primitive: Attention becomes products and a Softmax in fp32, with grouped queries side by side (keys and values
are never repeated) and the mask made additive once for all layers that share it; RotaryEmbedding a split, a swap and
two products with caches doubled once; RMSNormalization its arithmetic in fp32; Clip of integers Max and Min; the
Shape of a byte tensor that of its Cast. Then opset 20. The sums are the same in another order: equal within the
tolerance.
ensures, primitive: every operator, version and attribute is on the list of the parser (``allow_list``).
must not touch: RotaryEmbedding over part of a head or interleaved: refused by name.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import allow_list, evaluate
from luvc_export.export.surgeon.graph import Surgery, kind_of, readers, value

ORDER = 160

#: Added to masked scores: exp() of it is 0, and a row with nothing to see gives a mean and no NaN.
_NEVER = -1e30


def requires(surgery: Surgery) -> str | None:
    """Versions or operators differ."""
    if surgery.target.dialect == "primitive" or surgery.graph.opset != surgery.target.opset or _capped(surgery):
        return None
    return f"the graph is opset {surgery.graph.opset} already"


def apply(surgery: Surgery) -> int:
    """Rewrite, then set the opset."""
    fired = 0
    if surgery.target.dialect == "primitive":
        rules = {"Attention": _attention, "RotaryEmbedding": _rotary, "RMSNormalization": _rms_norm}
        rules |= {"Clip": _clip, "Shape": _shape}
        for node in surgery.nodes(*rules):
            fired += rules[node.op](surgery, node)
    for node in _capped(surgery):
        fired += _attention(surgery, node)
    surgery.graph.opset = surgery.target.opset
    if surgery.graph.import_domains is not None:
        for item in surgery.graph.import_domains:
            if item.domain == "":
                item.version = surgery.target.opset
    return fired + 1


def ensures(surgery: Surgery, fired: int) -> None:
    """Nothing the parser does not know.

    Raises:
        CheckFailed: Lists what it does not know.
    """
    if surgery.target.dialect == "primitive" and (problems := list(allow_list.problems(surgery.close()))):
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise CheckFailed(f"operators that TensorRT 10.3's parser lacks:\n{lines}")


def _capped(surgery: Surgery) -> list[gs.Node]:
    """Attention whose soft cap the target does not compute."""
    return [] if surgery.target.softcap else [node for node in surgery.nodes("Attention") if node.attrs.get("softcap")]


def _attention(surgery: Surgery, node: gs.Node) -> bool:
    query, key, val = node.inputs[:3]
    if "q_num_heads" in node.attrs or len(node.outputs) > 1 or node.attrs.get("is_causal"):
        raise CheckFailed("Attention is packed, cached or causal by position", where=node.name)
    heads, kv_heads, size = int(query.shape[1]), int(key.shape[1]), int(query.shape[3])
    group = heads // kv_heads
    scale = float(node.attrs.get("scale") or size**-0.5)
    kind = kind_of(query)
    assert kind is not None
    factor = surgery.constant(scale, "scale", kind)
    scaled = surgery.emit("Mul", [query, factor], like=[query])[0]
    length = query.shape[2]
    if group > 1:
        rows = group * length if isinstance(length, int) else -1
        sizes = [-1, kv_heads, rows, size] if rows > 0 else [0, kv_heads, -1, size]
        scaled = surgery.typed("Reshape", [scaled, sizes], kind, [query.shape[0], kv_heads, None, size])
    turned = surgery.typed("Transpose", [key], kind, perm=[0, 1, 3, 2])
    scores = surgery.typed("MatMul", [scaled, turned], kind)
    scores = _cast(surgery, scores, np.dtype(np.float32))
    if cap := float(node.attrs.get("softcap") or 0):
        for step, operands in (("Div", [cap]), ("Tanh", []), ("Mul", [cap])):
            limits = [surgery.constant(number, "cap", np.float32) for number in operands]
            scores = surgery.typed(step, [scores, *limits], np.dtype(np.float32))
    if len(node.inputs) > 3:
        scores = surgery.emit("Add", [scores, _bias(surgery, node.inputs[3], group)])[0]
    chances = surgery.typed("Softmax", [scores], np.dtype(np.float32), axis=-1)
    seen = surgery.emit("MatMul", [_cast(surgery, chances, kind), val])[0]
    if group > 1:
        sizes = [-1, heads, length, size] if isinstance(length, int) else [0, heads, -1, size]
        seen = surgery.emit("Reshape", [seen, sizes])[0]
    surgery.replace(node.outputs[0], _out(seen, node.outputs[0]))
    return True


def _bias(surgery: Surgery, mask: gs.Tensor, group: int) -> gs.Tensor:
    """fp32 bias [B, 1, group * S, L] of a mask, once for every layer that uses it (equal nodes are joined later)."""
    if kind_of(mask) == np.bool_:
        zero, never = surgery.constant(0, "zero", np.float32), surgery.constant(_NEVER, "never", np.float32)
        bias = surgery.typed("Where", [mask, zero, never], np.dtype(np.float32))
    else:
        bias = _cast(surgery, mask, np.dtype(np.float32))
    broadcast = mask.shape is not None and mask.shape[2] == 1
    if group > 1 and not broadcast:
        bias = surgery.typed("Concat", [bias] * group, np.dtype(np.float32), axis=2)
    return bias


def _rotary(surgery: Surgery, node: gs.Node) -> bool:
    if node.attrs.get("interleaved") or node.attrs.get("rotary_embedding_dim") or len(node.inputs) > 3:
        raise CheckFailed("RotaryEmbedding is interleaved, partial or takes position ids", where=node.name)
    x, cos, sin = node.inputs
    half = int(x.shape[3]) // 2
    heads_axis = surgery.constant([1], "axis")
    doubled = surgery.emit("Concat", [cos, cos], axis=-1)[0]
    negative = surgery.emit("Neg", [sin])[0]
    signed = surgery.emit("Concat", [negative, sin], axis=-1)[0]
    wide = [surgery.emit("Unsqueeze", [cache, heads_axis])[0] for cache in (doubled, signed)]
    first, second = surgery.emit("Split", [x, [half, half]], count=2, axis=-1)
    swapped = surgery.emit("Concat", [second, first], axis=-1)[0]
    for tensor in (doubled, negative, signed, *wide, first, second, swapped):
        tensor.dtype = x.dtype
    kept = surgery.emit("Mul", [x, wide[0]], like=[x])[0]
    turned = surgery.emit("Mul", [swapped, wide[1]], like=[x])[0]
    surgery.replace(node.outputs[0], surgery.emit("Add", [kept, turned], like=[x])[0])
    return True


def _rms_norm(surgery: Surgery, node: gs.Node) -> bool:
    if node.attrs.get("axis", -1) not in (-1, len(node.inputs[0].shape or ()) - 1):
        raise CheckFailed("RMSNormalization over more than the last axis", where=node.name)
    x, weight = node.inputs
    kind, wide = kind_of(x), np.dtype(np.float32)
    assert kind is not None
    high = _cast(surgery, x, wide)
    square = surgery.emit("Mul", [high, high], like=[high])[0]
    mean = surgery.emit("ReduceMean", [square, [-1]], keepdims=1)[0]
    safe = surgery.emit("Add", [mean, surgery.constant(node.attrs.get("epsilon", 1e-5), "epsilon", wide)])[0]
    root = surgery.emit("Sqrt", [safe])[0]
    for tensor in (mean, safe, root):
        tensor.dtype = wide
    normed = surgery.emit("Div", [high, root], like=[high])[0]
    low = _cast(surgery, normed, kind)
    surgery.replace(node.outputs[0], surgery.emit("Mul", [low, weight], like=[node.outputs[0]])[0])
    return True


def _clip(surgery: Surgery, node: gs.Node) -> bool:
    """The parser clips floats only."""
    bounds = [value(tensor) for tensor in node.inputs[1:]]
    kind = kind_of(node.outputs[0])
    if kind is None or kind.kind in "fV":
        return False
    tensor = node.inputs[0]
    for op, bound in zip(("Max", "Min"), bounds, strict=False):
        if bound is not None:
            tensor = surgery.typed(op, [tensor, surgery.constant(bound, "bound", bound.dtype)], node.outputs[0].dtype)
    assert isinstance(tensor, gs.Variable)
    surgery.replace(node.outputs[0], _out(tensor, node.outputs[0]))
    return True


def _shape(surgery: Surgery, node: gs.Node) -> bool:
    """Nothing but a Cast may read bytes: the size is taken of what it makes."""
    casts = readers(node.inputs[0], "Cast")
    if kind_of(node.inputs[0]) != np.uint8 or not casts:
        return False
    node.inputs[0] = casts[0].outputs[0]
    return True


def _cast(surgery: Surgery, tensor: gs.Tensor, dtype: np.dtype) -> gs.Tensor:
    if kind_of(tensor) == dtype:
        return tensor
    return surgery.typed("Cast", [tensor], dtype, tensor.shape, to=evaluate.code(dtype))


def _out(tensor: gs.Variable, like: gs.Tensor) -> gs.Variable:
    tensor.dtype, tensor.shape = like.dtype, like.shape
    return tensor
