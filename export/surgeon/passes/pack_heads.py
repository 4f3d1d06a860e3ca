"""Heads stay packed in the last axis, or are split off once for query, key and value together.

requires: Attention in the graph.
matches: query, key and value that each are reshaped to heads and transposed, and a result that is transposed back.
apply, where the target takes packed heads: RotaryEmbedding and Attention read [B, S, heads * Dh], and the
transpositions go; with the KV form ``attention`` the cache's Concat goes into Attention as past and present.
Otherwise: one Reshape and one Transpose before the Split instead of one each after it. Only layout moves: bit-equal.
must not touch: a norm over heads stays on [B, S, heads, Dh]; other transpositions; caches with other readers.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery, readers, source, up, value

ORDER = 140

_HEADS_FIRST = [0, 2, 1, 3]


def requires(surgery: Surgery) -> str | None:
    """Attention with four axes."""
    if not any("q_num_heads" not in node.attrs for node in surgery.nodes("Attention")):
        return "there is no Attention whose heads stand apart"
    return None


def apply(surgery: Surgery) -> int:
    """Rewrite attention by attention."""
    packed = surgery.target.packed_heads
    return sum(_pack(surgery, node) if packed else _split_once(surgery, node) for node in surgery.nodes("Attention"))


def ensures(surgery: Surgery, fired: int) -> None:
    """Packed attentions have both head counts.

    Raises:
        CheckFailed: Names the node that lacks one.
    """
    for node in surgery.nodes("Attention"):
        if ("q_num_heads" in node.attrs) != ("kv_num_heads" in node.attrs):
            raise CheckFailed("an Attention has one head count of two", where=node.name)


def _pack(surgery: Surgery, node: gs.Node) -> bool:
    if "q_num_heads" in node.attrs:
        return False
    q, k, v = node.inputs[:3]
    past = [_cache(tensor) for tensor in (k, v)]
    cached = all(past) and surgery.target.kv == "attention"
    if any(past) and not cached:
        surgery.skip("keys and values stay apart: the target's Attention takes no cache")
        return _split_once(surgery, node)
    fresh = [node.inputs[1] for node in past if node is not None] if cached else [k, v]
    plain = [_unpacked(tensor) for tensor in (q, *fresh)]
    back = [t for t in readers(node.outputs[0], "Transpose") if list(t.attrs["perm"]) == _HEADS_FIRST]
    if any(item is None for item in plain) or not back or len(readers(node.outputs[0])) != 1:
        surgery.skip("an Attention's heads are laid out otherwise")
        return False
    heads, kv_heads, size = int(q.shape[1]), int(k.shape[1]), int(q.shape[3])
    inputs = [_packed(surgery, tensor) for tensor in (q, *fresh)]
    outputs = [gs.Variable(surgery.name("attention"), dtype=node.outputs[0].dtype)]
    mask = list(node.inputs[3:4])
    if cached:
        mask = mask or [gs.Variable.empty()]
        inputs += mask + [item.inputs[0] for item in past if item is not None]
        presents = [gs.Variable(surgery.name("present"), dtype=k.dtype, shape=list(t.shape)) for t in (k, v)]
        outputs += presents
    else:
        inputs += mask
    shape = node.outputs[0].shape
    outputs[0].shape = [shape[0], shape[2], heads * size]
    attrs = {**node.attrs, "q_num_heads": heads, "kv_num_heads": kv_heads}
    surgery.graph.nodes.append(gs.Node("Attention", surgery.name("Attention"), attrs, inputs, outputs))
    if cached:
        for old, new in zip((k, v), presents, strict=True):
            surgery.replace(old, new)
    _unlayout(surgery, back[0], outputs[0])
    return True


def _cache(tensor: gs.Tensor) -> gs.Node | None:
    """What joins past and new rows, if ``tensor`` comes from it."""
    node = up(tensor, "Concat", "TensorScatter")
    if node is None or node.op == "TensorScatter":
        return node
    if len(node.inputs) != 2 or node.attrs.get("axis") not in (2, -2) or source(node.inputs[0]):
        return None
    return node


def _unpacked(tensor: gs.Tensor) -> gs.Tensor | None:
    """The [B, S, heads * Dh] tensor below rotation, norm, transposition and reshape; None if it is not one."""
    node = source(tensor)
    if node is not None and node.op in ("RotaryEmbedding", "RMSNormalization"):
        return _unpacked(node.inputs[0])
    turn = node if node is not None and node.op == "Transpose" else None
    shaped = up(turn.inputs[0], "Reshape") if turn is not None and list(turn.attrs["perm"]) == _HEADS_FIRST else None
    if shaped is None or len(shaped.inputs[0].shape or ()) != 3 or not shaped.outputs[0].shape:
        return None
    heads, size = shaped.outputs[0].shape[2:]
    packed = shaped.inputs[0].shape[2]
    same = all(isinstance(n, int) for n in (heads, size, packed)) and heads * size == packed
    result: gs.Tensor = shaped.inputs[0]
    return result if same else None


def _packed(surgery: Surgery, tensor: gs.Tensor) -> gs.Tensor:
    """Rebuild what stands between the projection and Attention, heads packed."""
    node = source(tensor)
    assert node is not None
    if node.op == "RotaryEmbedding":
        inner = _packed(surgery, node.inputs[0])
        heads = int(tensor.shape[1])
        out = surgery.emit("RotaryEmbedding", [inner, *node.inputs[1:]], **{**node.attrs, "num_heads": heads})[0]
    elif node.op == "RMSNormalization":
        turn = up(node.inputs[0], "Transpose")
        assert turn is not None
        normed = surgery.emit(node.op, [turn.inputs[0], node.inputs[1]], like=[turn.inputs[0]], **node.attrs)[0]
        inner = _unpacked(tensor)
        assert inner is not None
        out = surgery.emit("Reshape", [normed, [0, -1, int(inner.shape[2])]])[0]
    else:
        inner = _unpacked(tensor)
        assert inner is not None
        return inner
    out.dtype, out.shape = tensor.dtype, list(inner.shape)
    return out


def _unlayout(surgery: Surgery, back: gs.Node, packed: gs.Variable) -> None:
    """[B, S, heads * Dh] stands where [B, S, heads, Dh] was reshaped from."""
    for node in readers(back.outputs[0]):
        sizes = value(node.inputs[1]) if node.op == "Reshape" else None
        if node.op != "Reshape" or (sizes is not None and 0 in sizes):
            raise CheckFailed("heads are read apart after Attention", where=node.name)
        node.inputs[0] = packed
        if node.outputs[0].shape == packed.shape:
            surgery.replace(node.outputs[0], packed)


def _split_once(surgery: Surgery, node: gs.Node) -> bool:
    """One Reshape and one Transpose for the whole product."""
    fresh = [node.inputs[0]]
    for tensor in node.inputs[1:3]:
        cache = _cache(tensor)
        fresh.append(cache.inputs[1] if cache is not None else tensor)
    turns = [_turn(tensor) for tensor in fresh]
    packed = [up(turn.inputs[0], "Reshape").inputs[0] for turn in turns if turn is not None]  # type: ignore[union-attr]
    splits = [up(tensor, "Split") for tensor in packed]
    if len(packed) != 3 or splits[0] is None or any(item is not splits[0] for item in splits):
        surgery.skip("query, key and value come from no common Split")
        return False
    split = splits[0]
    if [id(t) for t in split.outputs] != [id(t) for t in packed]:
        return False
    heads = [int(turn.outputs[0].shape[1]) for turn in turns if turn is not None]
    size = int(fresh[0].shape[3])
    whole = split.inputs[0]
    shape = list(whole.shape)
    shaped = surgery.typed("Reshape", [whole, [0, -1, sum(heads), size]], whole.dtype, [*shape[:2], sum(heads), size])
    turned = surgery.emit("Transpose", [shaped], perm=_HEADS_FIRST)[0]
    turned.dtype, turned.shape = whole.dtype, [shape[0], sum(heads), shape[1], size]
    counts = surgery.constant(heads, "heads")
    old = [turn.outputs[0] for turn in turns if turn is not None]
    for before, part in zip(old, surgery.emit("Split", [turned, counts], like=old, axis=1), strict=True):
        surgery.replace(before, part)
    return True


def _turn(tensor: gs.Tensor) -> gs.Node | None:
    """The transposition to heads first below rotation and norm."""
    if _unpacked(tensor) is None:
        return None
    node = source(tensor)
    while node is not None and node.op in ("RotaryEmbedding", "RMSNormalization"):
        node = source(node.inputs[0])
    return node
