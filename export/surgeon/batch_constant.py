"""What depends on the number of images alone is computed for one image and expanded.

The encoder's places, angles and sizes before the first merge are such: dozens of operators over constants that only
need the batch axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.export.surgeon import evaluate, node_order
from luvc_export.export.surgeon.graph import Surgery, is_external, readers, source, strip, value


def fold(surgery: Surgery, limit: int) -> bool:
    """Replace every float or integer tensor on the border of what the batch alone decides.

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
    count = surgery.emit("Shape", [casts[0].outputs[0] if casts else image], start=0, end=1)[0]
    count.dtype, count.shape = np.int64, [1]
    block = surgery.constant(one if one.shape[0] == 1 else one[None], "block", one.dtype)
    sizes = surgery.emit("Concat", [count, np.array(block.shape[1:], np.int64)], axis=0)[0]
    sizes.dtype, sizes.shape = np.int64, [len(block.shape)]
    out = surgery.emit("Expand", [block, sizes])[0]
    out.dtype, out.shape = one.dtype, [image.shape[0], *block.shape[1:]]
    if one.shape[0] != 1:
        out = surgery.emit("Reshape", [out, [-1, *one.shape[1:]]], like=[tensor])[0]
    surgery.replace(tensor, out)
    return True
