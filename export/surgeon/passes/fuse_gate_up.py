"""Gate and up projections of a gated MLP become one MatMul, one Add where they have biases, and one Split.

It also removes the trigger of a known miscompile (TensorRT 10.13.3.9 on Thor fuses such products itself, wrongly, at
batch 1).

requires: a target where joined products pay.
matches: a Mul of act(x @ gate) and x @ up, where act is an activation with or without the Mul of SiLU.
apply: as ``fuse_qkv``.
must not touch: two products of different tensors, a plain two-layer MLP, quantised weights.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import joined_weights
from luvc_export.export.surgeon.graph import Surgery, source

ORDER = 70

_ACTIVATIONS = ("Sigmoid", "Gelu", "Tanh", "Relu", "Swish")


def requires(surgery: Surgery) -> str | None:
    """A target that wants joined products."""
    return joined_weights.unwanted(surgery)


def apply(surgery: Surgery) -> int:
    """Fuse block by block."""
    fired = 0
    for node in surgery.nodes("Mul"):
        pair = _pair(node)
        if pair is None:
            continue
        gate, up = joined_weights.projection(pair[0]), joined_weights.projection(pair[1])
        if gate is None or up is None:
            surgery.skip("a gate's or up's weight is computed or quantised")
        elif gate.product.inputs[0] is not up.product.inputs[0]:
            surgery.skip("gate and up read different tensors")
        else:
            fired += joined_weights.fuse(surgery, [gate, up])
    if not fired:
        surgery.skip("there is no gated MLP whose products stand apart")
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """Where something fired, no gate and up of one input are left apart.

    Raises:
        CheckFailed: Names the Mul.
    """
    for node in surgery.nodes("Mul") if fired else ():
        pair = _pair(node)
        if pair is not None and pair[0].inputs[0] is pair[1].inputs[0]:
            raise CheckFailed("gate and up are still projected apart", where=node.name)


def _pair(node: gs.Node) -> tuple[gs.Node, gs.Node] | None:
    """Products of gate and up, if ``node`` multiplies an activated one by a plain one."""
    for a, b in ((0, 1), (1, 0)):
        act, plain = source(node.inputs[a]), _product(node.inputs[b])
        if act is None or plain is None:
            continue
        if act.op == "Mul":
            sides = [_product(t) for t in act.inputs if t is not None]
            inner = [source(t) for t in act.inputs]
            sigmoid = next((n for n in inner if n is not None and n.op in _ACTIVATIONS), None)
            gate = next((p for p in sides if p is not None), None)
            if sigmoid is not None and gate is not None and _product(sigmoid.inputs[0]) is gate and gate is not plain:
                return gate, plain
        elif act.op in _ACTIVATIONS and (gate := _product(act.inputs[0])) is not None and gate is not plain:
            return gate, plain
    return None


def _product(tensor: gs.Tensor) -> gs.Node | None:
    node = source(tensor)
    if node is not None and node.op == "Add":
        node = next((n for n in map(source, node.inputs) if n is not None and n.op == "MatMul"), None)
    return node if node is not None and node.op == "MatMul" else None
