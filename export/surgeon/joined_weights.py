"""Joining weights that several products share an input with: one Concat of what the files hold, which a back-end folds.

With referenced or copied weights nothing is read here: a fused weight is ``Transpose(Cast(Concat(a, b)))`` of the
stored tensors, in that order, so that each is converted once.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from luvc_export.export.surgeon.graph import Surgery, is_weight, readers, source


@dataclass(frozen=True)
class Projection:
    """``x @ weight (+ bias)`` whose weight is [K, N]; ``out`` is what reads the result."""

    product: gs.Node
    weight: gs.Tensor
    bias: gs.Tensor | None
    out: gs.Tensor
    width: int


def unwanted(surgery: Surgery) -> str | None:
    """Why products stay apart for this target, or None."""
    return (
        None
        if surgery.target.joined_products
        else "the target copies a joined weight when it loads: products stay apart"
    )


def projection(node: gs.Node) -> Projection | None:
    """Read a MatMul with a rank-2 weight and the Add after it, if there is one."""
    weight = node.inputs[1]
    if not is_weight(weight) or len(weight.shape or ()) != 2:
        return None
    out, bias = node.outputs[0], None
    adds = readers(out, "Add")
    if len(adds) == 1 and len(readers(out)) == 1:
        other = next((t for t in adds[0].inputs if t is not out), out)
        if is_weight(other) and len(other.shape or ()) == 1:
            bias, out = other, adds[0].outputs[0]
    return Projection(node, weight, bias, out, int(weight.shape[1]))


def joined(surgery: Surgery, tensors: list[gs.Tensor], axis: int) -> gs.Tensor | None:
    """Concatenate weights along ``axis``, below any Cast and Transpose that all of them have; None if they differ."""
    steps: list[gs.Node] = []
    while True:
        nodes = [source(tensor) for tensor in tensors]
        first = nodes[0]
        if first is None:
            break
        if any(n is None or n.op != first.op or n.attrs != first.attrs for n in nodes):
            return None
        if first.op == "Transpose":
            axis = first.attrs["perm"][axis]
        elif first.op != "Cast":
            return None
        steps.append(first)
        tensors = [node.inputs[0] for node in nodes if node is not None]
    if any(not isinstance(t, gs.Constant) or t.dtype != tensors[0].dtype for t in tensors):
        return None
    shape = list(tensors[0].shape)
    shape[axis] = sum(int(t.shape[axis]) for t in tensors)
    result = surgery.typed("Concat", tensors, tensors[0].dtype, shape, axis=axis)
    for step in reversed(steps):
        if step.op == "Transpose":
            shape = [shape[i] for i in step.attrs["perm"]]
        result = surgery.typed(step.op, [result], step.outputs[0].dtype, shape, **step.attrs)
    return result


def fuse(surgery: Surgery, group: list[Projection]) -> bool:
    """Replace ``group`` by one MatMul, one Add where there are biases, and one Split.

    Returns:
        False, with a reason noted, if the weights cannot be joined.
    """
    if len({item.bias is None for item in group}) > 1:
        surgery.skip("some projections of a group have a bias and some have not")
        return False
    weight = joined(surgery, [item.weight for item in group], 1)
    biases = [item.bias for item in group if item.bias is not None]
    bias = joined(surgery, biases, 0) if biases else None
    if weight is None or (biases and bias is None):
        surgery.skip("the weights of a group are stored or converted differently")
        return False
    shape = group[0].out.shape
    whole = [*shape[:-1], sum(item.width for item in group)] if shape else None
    kind = group[0].out.dtype
    out = surgery.typed("MatMul", [group[0].product.inputs[0], weight], kind, whole)
    if bias is not None:
        out = surgery.typed("Add", [out, bias], kind, whole)
    sizes = surgery.constant([item.width for item in group], "sizes")
    parts = surgery.emit("Split", [out, sizes], like=[item.out for item in group], axis=-1)
    for item, part in zip(group, parts, strict=True):
        surgery.replace(item.out, part)
    return True
