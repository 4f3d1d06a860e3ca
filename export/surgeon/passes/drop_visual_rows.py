"""A decoder for steps, which bring no image: without what it computes of visual rows, of which there are none.

A runtime computes each node of a graph, of no rows too: choosing tokens, moving them, joining them to the text.

requires: a decoder, and a target whose graphs see no image (``TargetSpec.visual_rows``).
matches: sizes that are products with the number of images, which is zero, and sums that lose those products.
apply: a Concat loses inputs without rows; a Concat of one input, and a Slice whose sizes stay the same, hand it on; an
output without rows is made of the batch alone. What nothing reads then goes. Equal.
A fused prune stays, with what it gives: it is one node.
ensures: no Concat joins anything without rows.
must not touch: inputs, which are fed as before, and sizes that are no such sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery, kind_of, source, value

ORDER = 200


def requires(surgery: Surgery) -> str | None:
    """A decoder that sees no image."""
    if surgery.part == "vision" or surgery.target.visual_rows:
        return "the target's graphs see images"
    return None if _images(surgery) else "the number of images is fixed"


def apply(surgery: Surgery) -> int:
    """Take off what joins and cuts visual rows; how many nodes went."""
    before, images = len(surgery.graph.nodes), _images(surgery)
    for node in surgery.nodes("Concat", "Slice"):
        out = node.outputs[0]
        if node.op == "Concat":
            rows = [tensor for tensor in node.inputs if not _empty(tensor, node.attrs["axis"], images)]
            if rows and len(rows) < len(node.inputs):
                node.inputs = rows
        elif not _whole(node, images):
            continue
        if (node.op == "Slice" or len(node.inputs) == 1) and not surgery.gives(out):
            surgery.replace(out, node.inputs[0])
    for out in surgery.graph.outputs:
        sizes = _sizes(out, images)
        producer = source(out)
        if producer and not producer.domain and 0 in sizes and all(isinstance(size, int) for size in sizes[1:]):
            _make_empty(surgery, out, sizes[1:])
    surgery.graph.cleanup()
    return before - len(surgery.graph.nodes)


def ensures(surgery: Surgery, fired: int) -> None:
    """Check the joins.

    Raises:
        CheckFailed: A Concat joins something without rows.
    """
    images = _images(surgery)
    for node in surgery.nodes("Concat"):
        if fired and len(node.inputs) > 1 and any(_empty(one, node.attrs["axis"], images) for one in node.inputs):
            raise CheckFailed("a step joins rows of images, of which there are none", where=node.name)


def _images(surgery: Surgery) -> str:
    """The symbol of the number of images."""
    shapes = (tensor.shape for tensor in surgery.graph.inputs if tensor.name == graph_io.VISUAL_EMBEDS)
    return next((shape[1] for shape in shapes if isinstance(shape[1], str)), "")


def _sizes(tensor: gs.Tensor, images: str) -> list[Any]:
    """A tensor's sizes where there is no image: numbers, or sums as the trace wrote them."""
    return [_size(size, images) for size in tensor.shape or ()]


def _size(size: Any, images: str) -> Any:
    if not isinstance(size, str) or images not in size or set("()/%-") & set(size):
        return size
    terms = [term for term in size.split(" + ") if images not in term.split("*")]
    if len(terms) == 1 and terms[0].isdecimal():
        return int(terms[0])
    return " + ".join(terms) if terms else 0


def _empty(tensor: gs.Tensor, axis: int, images: str) -> bool:
    sizes = _sizes(tensor, images)
    return bool(sizes) and sizes[axis] == 0


def _whole(node: gs.Node, images: str) -> bool:
    """Whether a Slice takes all that there is."""
    steps = value(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    before, after = (_sizes(tensor, images) for tensor in (node.inputs[0], node.outputs[0]))
    return before == after != [] and None not in before and steps is not None and bool((steps == 1).all())


def _make_empty(surgery: Surgery, out: gs.Tensor, sizes: list[int]) -> None:
    """Let an output [B, ...] be zeros of these sizes, one of them 0."""
    ids = next(tensor for tensor in surgery.graph.inputs if tensor.name == graph_io.INPUT_IDS)
    batch = surgery.typed("Shape", [ids], np.int64, [1], start=0, end=1)
    shape = surgery.typed("Concat", [batch, surgery.constant(sizes, "sizes")], np.int64, [1 + len(sizes)], axis=0)
    for node in list(out.inputs):  # whose other outputs stay where they are
        node.outputs = [gs.Variable(surgery.name("unread")) if each is out else each for each in node.outputs]
    zero = surgery.constant([0], "zero", kind_of(out))
    surgery.graph.nodes.append(gs.Node("ConstantOfShape", surgery.name("empty"), {"value": zero}, [shape], [out]))
