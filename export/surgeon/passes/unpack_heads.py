"""Packed heads and caches inside Attention are laid out again for a target that has neither.

A bundle's graphs are made for ONNX Runtime; this is the way back for the others, before ``pack_heads`` lays heads out
in the target's way.

requires: an Attention with packed heads on a target without them.
apply: Reshape and Transpose around RotaryEmbedding and Attention, Concat for past and present. Only layout moves:
bit-equal.
must not touch: Attention whose heads stand apart already.
"""

from __future__ import annotations

import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery, readers, strip, up, value

ORDER = 110

_HEADS_FIRST = [0, 2, 1, 3]
#: What keeps [B, S, heads * Dh]; a second input has a factor for each of heads * Dh.
_CHANNELWISE = ("Cast", "Div", "Mul")


def requires(surgery: Surgery) -> str | None:
    """Packed heads where the target cannot take them."""
    packed = [node for node in surgery.nodes("Attention") if "q_num_heads" in node.attrs]
    if not packed:
        return "no Attention has packed heads"
    cached = any(len(node.outputs) > 1 for node in packed)
    if surgery.target.packed_heads and (surgery.target.kv == "attention" or not cached):
        return "the target takes packed heads"
    return None


def apply(surgery: Surgery) -> int:
    """Lay heads out again, attention by attention."""
    if any("q_num_heads" in node.attrs and node.inputs[0].shape is None for node in surgery.nodes("Attention")):
        # codes of caches scale what enters it, and a graph traced in 16 bits was not retyped since
        surgery.reload(onnx.shape_inference.infer_shapes(surgery.close(), data_prop=True))
    packed = [node for node in surgery.nodes("Attention") if "q_num_heads" in node.attrs]
    for node in packed:
        _unpack(surgery, node)
    return len(packed)


def ensures(surgery: Surgery, fired: int) -> None:
    """No packed Attention is left.

    Raises:
        CheckFailed: Names one.
    """
    surgery.graph.cleanup()
    for node in surgery.nodes("Attention", "RotaryEmbedding") if fired else ():
        if "q_num_heads" in node.attrs or "num_heads" in node.attrs:
            raise CheckFailed("heads are still packed", where=node.name)


def _unpack(surgery: Surgery, node: gs.Node) -> None:
    heads, kv_heads = int(node.attrs["q_num_heads"]), int(node.attrs["kv_num_heads"])
    size = int(node.inputs[0].shape[2]) // heads
    fresh = [_apart(surgery, node.inputs[i], heads if i == 0 else kv_heads, size) for i in range(3)]
    for packed, apart in zip(node.inputs[1:3], fresh[1:], strict=True):
        _read_apart(surgery, packed, apart)
    inputs = [*fresh, *node.inputs[3:4]]
    presents = node.outputs[1:3]
    for index, present in enumerate(presents):
        joined = surgery.emit("Concat", [node.inputs[4 + index], fresh[1 + index]], like=[present], axis=2)[0]
        surgery.replace(present, joined)
        inputs[1 + index] = joined
    inputs = [tensor for tensor in inputs if tensor.name]
    attrs = {key: item for key, item in node.attrs.items() if not key.endswith("_num_heads")}
    out = surgery.emit("Attention", inputs, **attrs)[0]
    batch, length = fresh[0].shape[0], fresh[0].shape[2]
    out.dtype, out.shape = node.outputs[0].dtype, [batch, heads, length, size]
    turned = surgery.typed("Transpose", [out], out.dtype, [batch, length, heads, size], perm=_HEADS_FIRST)
    flat = surgery.emit("Reshape", [turned, [-1, *_inner(node.outputs[0], heads * size)]], like=[node.outputs[0]])[0]
    if not isinstance(node.outputs[0].shape[1], int):
        flat.inputs[0].inputs[1] = surgery.constant([0, -1, heads * size], "sizes")
    surgery.replace(node.outputs[0], flat)


def _inner(tensor: gs.Tensor, width: int) -> list[int]:
    return [tensor.shape[1] if isinstance(tensor.shape[1], int) else -1, width]


def _apart(surgery: Surgery, tensor: gs.Tensor, heads: int, size: int) -> gs.Tensor:
    """[B, S, heads * Dh] -> [B, heads, S, Dh], below a rotation and what scales its channels."""
    rotary = up(tensor, "RotaryEmbedding")
    if rotary is not None:
        inner = _apart(surgery, rotary.inputs[0], heads, size)
        attrs = {key: item for key, item in rotary.attrs.items() if key != "num_heads"}
        return surgery.emit("RotaryEmbedding", [inner, *rotary.inputs[1:]], like=[inner], **attrs)[0]
    scaled = up(tensor, *_CHANNELWISE)
    if scaled is not None and _is_rotated(scaled.inputs[0]):
        inner = _apart(surgery, scaled.inputs[0], heads, size)
        factors = [surgery.emit("Reshape", [factor, [heads, 1, size]])[0] for factor in scaled.inputs[1:]]
        for new, old in zip(factors, scaled.inputs[1:], strict=True):
            new.dtype, new.shape = old.dtype, [heads, 1, size]
        out = surgery.emit(scaled.op, [inner, *factors], like=[inner], **scaled.attrs)[0]
        out.dtype = tensor.dtype
        return out
    batch, length = tensor.shape[:2]
    sizes = [-1, length, heads, size] if isinstance(length, int) else [0, -1, heads, size]
    shaped = surgery.typed("Reshape", [tensor, sizes], tensor.dtype, [batch, length, heads, size])
    return surgery.typed("Transpose", [shaped], tensor.dtype, [batch, heads, length, size], perm=_HEADS_FIRST)


def _read_apart(surgery: Surgery, packed: gs.Tensor, apart: gs.Tensor) -> None:
    """Give those who take heads apart themselves, as codes of caches do, what is apart already."""
    for shaped in readers(packed, "Reshape"):
        for turned in readers(shaped.outputs[0], "Transpose"):
            sizes = value(shaped.inputs[1])
            same = sizes is not None and list(sizes[2:]) == [apart.shape[1], apart.shape[3]]
            if same and list(turned.attrs["perm"]) == _HEADS_FIRST and turned.outputs[0] is not apart:
                surgery.replace(turned.outputs[0], apart)
    before, after = up(packed, "Cast"), up(apart, "Cast")
    if before is not None and after is not None:
        _read_apart(surgery, before.inputs[0], after.inputs[0])


def _is_rotated(tensor: gs.Tensor) -> bool:
    """Whether a rotation lies below what scales channels: caches in codes have factors there."""
    return up(strip(tensor, *_CHANNELWISE), "RotaryEmbedding") is not None
