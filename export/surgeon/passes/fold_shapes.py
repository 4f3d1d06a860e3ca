"""What static budgets and sizes make constant is computed now, and what then does nothing goes.

requires: nothing.
apply, until nothing changes: small constants are computed; a Shape of fixed sizes is one; a Reshape to computed sizes
gets constant ones (0 copies, -1 the rest); casts, reshapes, expansions and transpositions that change nothing go, two
in a row become one; equal nodes become one; what depends on nothing but the number of images is computed for one
image and expanded (``fold_batch``). Values are computed by the ONNX reference implementation. Bit-equal, except
for cos and sin folded in float32, which differ from a runtime's own by one unit in the last place.
must not touch: external weights, anything that depends on an input's values, results above ``LIMIT`` elements, a
Reshape whose missing size could be ambiguous because a copied one may be zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import evaluate, node_order
from luvc_export.export.surgeon.graph import Surgery, array_of, is_external, readers, source, strip, up, value

ORDER = 170

#: Elements of a folded constant; the caches of 4,096 patches at head size 80 fit.
LIMIT = 2**20

_SHORT_CIRCUIT = ("Cast", "CastLike", "Identity", "Transpose", "Reshape", "Expand")


def requires(surgery: Surgery) -> str | None:
    """Always."""
    return None


def apply(surgery: Surgery) -> int:
    """Run every rule to a fixed point.

    Returns:
        Nodes that went.
    """
    before = len(surgery.graph.nodes)
    node_order.sort(surgery.graph)
    changed = True
    while changed:
        changed = False
        for rule in (_constants, _shapes, _nothing, _twins):
            changed |= rule(surgery)
            node_order.tidy(surgery.graph)
    if fold_batch(surgery, LIMIT):
        node_order.tidy(surgery.graph)
        _twins(surgery)
        surgery.graph.cleanup()
    return before - len(surgery.graph.nodes)


def ensures(surgery: Surgery, fired: int) -> None:
    """No Identity, and no node whose inputs are all small constants.

    Raises:
        CheckFailed: Names the node.
    """
    for node in surgery.graph.nodes:
        if node.op == "Identity" and not any(out is node.outputs[0] for out in surgery.graph.outputs):
            raise CheckFailed("an Identity is left after folding", where=node.name)


def _constants(surgery: Surgery) -> bool:
    changed = False
    for node in list(surgery.graph.nodes):
        if node.domain or any(out is o for out in node.outputs for o in surgery.graph.outputs):
            continue
        arrays = [value(tensor) for tensor in node.inputs if tensor.name]
        known = [_fixed_shape(node)] if node.op == "Shape" else None
        if known is None or known[0] is None:
            if node.op == "Shape" or any(array is None for array in arrays) or _large(node, arrays):
                continue
            if node.op == "Constant" and isinstance(node.attrs.get("value"), gs.Constant):
                known = [array_of(node.attrs["value"])]
            else:
                known = evaluate.node(node, [a for a in arrays if a is not None], surgery.graph.opset)
        if any(array is None or array.size > LIMIT for array in known):
            continue
        for out, array in zip(node.outputs, known, strict=False):
            _become(surgery, out, array)
        changed = True
    return changed


def _large(node: gs.Node, arrays: list[Any]) -> bool:
    if node.op in ("Range", "ConstantOfShape", "Expand", "Tile"):
        return node.op != "Range" and int(np.prod(arrays[-1], dtype=np.float64)) > LIMIT
    return any(array.size > LIMIT for array in arrays)


def _become(surgery: Surgery, tensor: gs.Tensor, array: Any) -> None:
    constant = surgery.constant(array, "folded", array.dtype)
    for node in list(tensor.outputs):
        for index, item in enumerate(node.inputs):
            if item is tensor:
                node.inputs[index] = constant
    tensor.inputs.clear()


def _fixed_shape(node: gs.Node) -> Any:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    part = shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
    fixed = all(isinstance(size, int | np.integer) for size in part)
    return np.array(part, np.int64) if fixed else None


def _shapes(surgery: Surgery) -> bool:
    """Constant targets for Reshape, where sizes are known or copied."""
    changed = False
    for node in surgery.nodes("Reshape"):
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if value(node.inputs[1]) is not None or before is None or after is None:
            continue
        target = [int(n) if isinstance(n, int | np.integer) else None for n in after]
        copied = [
            number is None
            and index < len(before)
            and before[index] == after[index]
            and _never_zero(surgery, after[index])
            for index, number in enumerate(target)
        ]
        open_ = [i for i, number in enumerate(target) if number is None and not copied[i]]
        if len(open_) > 1 or 0 in target:
            continue
        sizes = [0 if copied[i] else -1 if i in open_ else number for i, number in enumerate(target)]
        node.inputs[1] = surgery.constant(sizes, "sizes")
        node.attrs.pop("allowzero", None)
        changed = True
    return changed


def _never_zero(surgery: Surgery, size: Any) -> bool:
    """Whether a symbolic size is that of the batch: the first axis of an input that is always there."""
    return any(
        tensor.shape and tensor.shape[0] == size for tensor in surgery.graph.inputs if tensor.name == "input_ids"
    ) or (any(tensor.name == "image" and tensor.shape[0] == size for tensor in surgery.graph.inputs))


def _nothing(surgery: Surgery) -> bool:
    changed = False
    for node in surgery.nodes(*_SHORT_CIRCUIT):
        if not node.outputs or not node.inputs:
            continue
        changed |= _merge(node)
        tensor, out = node.inputs[0], node.outputs[0]
        if node.op == "CastLike":
            if tensor.dtype is not None and node.inputs[1].dtype is not None:
                changed |= _cast_like(surgery, node)
            continue
        if not _does_nothing(node) or isinstance(tensor, gs.Constant):
            continue
        is_output = any(out is o for o in surgery.graph.outputs)
        if is_output and (source(tensor) is None or any(tensor is o for o in surgery.graph.outputs)):
            continue
        surgery.replace(out, tensor)
        node.outputs.clear()
        changed = True
    return changed


def _does_nothing(node: gs.Node) -> bool:
    tensor, out = node.inputs[0], node.outputs[0]
    if node.op == "Identity":
        return True
    if node.op == "Cast":
        return tensor.dtype is not None and _code(tensor.dtype) == node.attrs["to"]
    if node.op == "Transpose":
        return list(node.attrs["perm"]) == sorted(node.attrs["perm"])
    same = tensor.shape is not None and out.shape is not None and list(tensor.shape) == list(out.shape)
    return same and all(size is not None for size in tensor.shape)


def _code(dtype: Any) -> int:
    return int(dtype) if isinstance(dtype, int) else int(evaluate.code(dtype))


def _cast_like(surgery: Surgery, node: gs.Node) -> bool:
    """A Cast to the type that is known, or nothing."""
    node.op, to = "Cast", _code(node.inputs[1].dtype)
    del node.inputs[1]
    node.attrs = {"to": to}
    return True


def _merge(node: gs.Node) -> bool:
    """Reshape of Reshape, Transpose of Transpose."""
    above = up(node.inputs[0], node.op) if node.op in ("Reshape", "Transpose") else None
    if above is None:
        return False
    if node.op == "Transpose":
        node.attrs["perm"] = [above.attrs["perm"][i] for i in node.attrs["perm"]]
    else:
        sizes = value(node.inputs[1])
        if sizes is None or 0 in sizes:
            return False
    node.inputs[0] = above.inputs[0]
    return True


def _twins(surgery: Surgery) -> bool:
    """Equal operators on equal inputs become one."""
    seen: dict[Any, gs.Node] = {}
    changed = False
    for node in list(surgery.graph.nodes):
        if any(out is o for out in node.outputs for o in surgery.graph.outputs) or "Random" in node.op:
            continue
        key = (
            node.op,
            node.domain,
            _attributes(node),
            tuple(_identity(tensor) for tensor in node.inputs),
            len(node.outputs),
        )
        twin = seen.setdefault(key, node)
        if twin is not node:
            for out, kept in zip(node.outputs, twin.outputs, strict=True):
                if readers(out):
                    changed = True
                    surgery.replace(out, kept)
    return changed


def _attributes(node: gs.Node) -> str:
    return repr(sorted((key, str(item)) for key, item in node.attrs.items()))


def _identity(tensor: gs.Tensor) -> Any:
    if isinstance(tensor, gs.Constant) and not is_external(tensor):
        array = array_of(tensor)
        if array.size <= 4096:
            return (str(array.dtype), array.shape, array.tobytes())
    return id(tensor)


def fold_batch(surgery: Surgery, limit: int) -> bool:
    """Replace every float or integer tensor on the border of what the batch alone decides.

    The encoder's places, angles and sizes before the first merge are such: dozens of operators over constants that only
    need the batch axis.
    A tensor is replaced when, computed for one, two and three images, it is the same block once per image. Where units
    of whole clips merge, fewer images than a clip's are none, and nothing is replaced.
    """
    if surgery.part != "vision" or surgery.plan.encoder.time is not None:
        return False
    decided = _decided(surgery)
    border = [
        tensor
        for node in surgery.graph.nodes
        if id(node) in decided
        for tensor in node.outputs
        if len(tensor.shape or ()) >= 2 and any(id(reader) not in decided for reader in readers(tensor))
    ]
    outputs = [t for t in surgery.graph.outputs if source(t) is not None and id(source(t)) in decided]
    changed = False
    for tensor in [t for t in border if not any(t is out for out in outputs)]:
        blocks = [_compute(surgery, tensor, decided, images) for images in (1, 2, 3)]
        one = blocks[0]
        if one is None or one.size > limit or not _repeats(blocks):
            continue
        if _replaced(surgery, tensor, one):
            changed = True
    return changed


def _decided(surgery: Surgery) -> set[int]:
    """Nodes that see nothing but constants and the number of images."""
    node_order.sort(surgery.graph)
    image = next(tensor for tensor in surgery.graph.inputs if tensor.name == "image")
    decided: set[int] = set()
    for node in surgery.graph.nodes:
        if node.domain:
            continue
        if (node.op == "Shape" and strip(node.inputs[0], "Cast") is image) or (
            node.op != "RotaryEmbedding" and node.inputs and all(_known(t, decided) for t in node.inputs)
        ):
            decided.add(id(node))
    return decided


def _known(tensor: gs.Tensor, decided: set[int]) -> bool:
    if isinstance(tensor, gs.Constant):
        return not is_external(tensor)
    return not tensor.name or (bool(tensor.inputs) and id(tensor.inputs[0]) in decided)


def _compute(surgery: Surgery, tensor: gs.Tensor, decided: set[int], images: int) -> Any:
    """The tensor's value for a number of images."""
    known: dict[int, Any] = {}

    def run(item: gs.Tensor) -> Any:
        constant = value(item)
        if constant is not None:
            return constant
        if id(item) not in known:
            node = item.inputs[0]
            picture = strip(node.inputs[0], "Cast") if node.op == "Shape" else None
            if picture is not None and picture.name == "image":
                full = np.array([images, *picture.shape[1:]], np.int64)
                results = [full[node.attrs.get("start", 0) : node.attrs.get("end", len(full))]]
            else:
                results = evaluate.node(node, [run(t) for t in node.inputs if t.name], surgery.graph.opset)
            for out, array in zip(node.outputs, results, strict=False):
                known[id(out)] = array
        return known[id(item)]

    return run(tensor)


def _repeats(blocks: list[Any]) -> bool:
    one = blocks[0]
    return all(
        block.shape == (count * one.shape[0], *one.shape[1:])
        and np.array_equal(block.reshape(count, *one.shape), np.broadcast_to(one, (count, *one.shape)))
        for count, block in enumerate(blocks, 1)
    )


def _replaced(surgery: Surgery, tensor: gs.Tensor, one: Any) -> bool:
    """Expand the block along a new first axis, then join it with the block's own where that is not one."""
    image = next(item for item in surgery.graph.inputs if item.name == "image")
    casts = [] if surgery.target.bytes else readers(image, "Cast")  # nothing else may read bytes then
    count = surgery.typed("Shape", [casts[0].outputs[0] if casts else image], np.int64, [1], start=0, end=1)
    block = surgery.constant(one if one.shape[0] == 1 else one[None], "block", one.dtype)
    sizes = surgery.typed("Concat", [count, np.array(block.shape[1:], np.int64)], np.int64, [len(block.shape)], axis=0)
    out = surgery.typed("Expand", [block, sizes], one.dtype, [image.shape[0], *block.shape[1:]])
    if one.shape[0] != 1:
        out = surgery.emit("Reshape", [out, [-1, *one.shape[1:]]], like=[tensor])[0]
    surgery.replace(tensor, out)
    return True
