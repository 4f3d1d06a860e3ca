"""cos and sin are computed once, of all positions, and gathered at prunes.

requires: nothing.
matches: a Concat of two tensors that equal chains of element-wise operators, gathers of frequencies and transposes
make of two graph inputs: the visual and the text span, each with its own cos and sin.
apply: the positions are concatenated instead and one chain follows. The text spans that a drop leaves are the drop's
own outputs. Every operator of the chain works element by element along the joined axis: bit-equal.
must not touch: chains that differ in an operator, an attribute or a constant, or that mix positions along the axis.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.core.operators import SPECTRUM_DROP
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.fused.node import FusedNode
from luvc_export.export.surgeon.graph import DOMAIN, Surgery, readers, source, value

ORDER = 40

_ELEMENTWISE = ("Mul", "Cos", "Sin", "Cast", "Add")


def requires(surgery: Surgery) -> str | None:
    """A RotaryEmbedding with caches."""
    if not any(node.op == "RotaryEmbedding" for node in surgery.graph.nodes):
        return "there is no RotaryEmbedding"
    if any(tensor.name.startswith("forced_indices.") for tensor in surgery.graph.inputs):
        return "prunes by given indices are not fused, so the text angles of every stage stand apart"
    return None


def apply(surgery: Surgery) -> int:
    """Join chains, then let what follows a drop read the drop's rows."""
    fired = 0
    for join in surgery.nodes("Concat"):
        if len(join.inputs) != 2 or not _is_cache(join.outputs[0]):
            continue
        axis = int(join.attrs["axis"])
        if (chain := _chains(join.inputs[0], join.inputs[1], axis)) is None:
            surgery.skip("two parts of a cache are not made alike")
            continue
        steps, first, second, axis = chain
        if first is second:
            continue
        _after_drop(surgery, join)
        surgery.replace(join.outputs[0], _rebuild(surgery, steps, first, second, axis, join.outputs[0]))
        fired += 1
    if not fired:
        surgery.skip("every cos and sin is computed once already")
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """No cache is left whose two parts are made alike.

    Raises:
        CheckFailed: Names its Concat.
    """
    surgery.graph.cleanup()
    for join in surgery.nodes("Concat") if fired else ():
        if len(join.inputs) == 2 and _is_cache(join.outputs[0]):
            chain = _chains(join.inputs[0], join.inputs[1], int(join.attrs["axis"]))
            if chain is not None and chain[1] is not chain[2]:
                raise CheckFailed("a cache is still computed in two parts", where=join.name)


def _is_cache(tensor: gs.Tensor) -> bool:
    for node in readers(tensor):
        if node.op == "RotaryEmbedding" or node.domain == DOMAIN:
            return True
        if node.op in ("Cast", "Slice") and _is_cache(node.outputs[0]):
            return True
    return False


def _chains(a: gs.Tensor, b: gs.Tensor, axis: int) -> tuple[list[gs.Node], gs.Tensor, gs.Tensor, int] | None:
    """Equal operators above ``a`` and ``b``, last first, down to two tensors nothing makes; and their joined axis."""
    steps: list[gs.Node] = []
    while (x := source(a)) is not None:
        y = source(b)
        if y is None or x.op != y.op or x.attrs != y.attrs or not _constants_equal(x, y):
            return None
        if x.op == "Transpose":
            axis = x.attrs["perm"][axis]
        elif x.op == "Gather":
            picked = value(x.inputs[1])
            if x.attrs.get("axis", 0) == axis or picked is None or picked.ndim != 1:
                return None
        elif x.op not in _ELEMENTWISE:
            return None
        steps.append(x)
        a, b = x.inputs[0], y.inputs[0]
    return (steps, a, b, axis) if source(b) is None and steps else None


def _constants_equal(x: gs.Node, y: gs.Node) -> bool:
    if len(x.inputs) != len(y.inputs):
        return False
    for p, q in zip(x.inputs[1:], y.inputs[1:], strict=True):
        v, w = value(p), value(q)
        if v is None or w is None or not np.array_equal(v, w):
            return False
    return True


def _rebuild(
    surgery: Surgery, steps: list[gs.Node], first: gs.Tensor, second: gs.Tensor, axis: int, like: gs.Tensor
) -> gs.Variable:
    """One chain over the joined positions; steps that another joined cache already has are shared."""
    tensor: gs.Tensor = _known(first, second, axis) or surgery.emit("Concat", [first, second], axis=axis)[0]
    tensor.dtype = first.dtype
    for step in reversed(steps):
        twin = next((n for n in readers(tensor, step.op) if n.attrs == step.attrs and _constants_equal(n, step)), None)
        if twin is None:
            out = surgery.typed(step.op, [tensor, *step.inputs[1:]], step.outputs[0].dtype, **step.attrs)
        else:
            out = twin.outputs[0]
        tensor = out
    assert isinstance(tensor, gs.Variable)
    tensor.shape = like.shape
    return tensor


def _known(first: gs.Tensor, second: gs.Tensor, axis: int) -> gs.Tensor | None:
    for node in readers(first, "Concat"):
        if len(node.inputs) == 2 and node.inputs[1] is second and node.attrs["axis"] == axis:
            joined: gs.Tensor = node.outputs[0]
            return joined
    return None


def _after_drop(surgery: Surgery, join: gs.Node) -> None:
    """The text part of a cache, where a drop leaves nothing else, is the drop's output."""
    drops = [FusedNode(node) for node in surgery.nodes(SPECTRUM_DROP.name) if node.domain == DOMAIN]
    if len(drops) != 1:
        return
    text, joined = join.inputs[1], join.outputs[0]
    which = next((name for name in ("cos", "sin") if _comes_from(drops[0].input(name), joined)), None)
    if which is None:
        return
    dropped = drops[0].output(f"kept_{which}")
    for node in readers(text):
        if node is not join and not (node.op == "Concat" and node.inputs[1] is text):
            for index, tensor in enumerate(node.inputs):
                if tensor is text:
                    node.inputs[index] = dropped
    dropped.dtype, dropped.shape = text.dtype, text.shape


def _comes_from(tensor: gs.Tensor, root: gs.Tensor) -> bool:
    """Through prunes, which give what travels back with fewer rows."""
    while tensor is not root:
        node = source(tensor)
        if node is None or node.domain != DOMAIN:
            return False
        tensor = next(before for before, after in FusedNode(node).travellers() if after is tensor)
    return True
