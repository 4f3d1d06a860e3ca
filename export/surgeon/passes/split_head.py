"""The last norm and the head of a decoder apart from it: one engine computes the logits of rows that another gives.

A prompt's decoder and that of its steps, of one model, end in the same norm and head, and the head is a large part of a
decoder's weights.

requires: a decoder, and a target that wants its head apart (``TargetSpec.head``).
matches: the rows of the tokens whose logits are asked for, gathered [N, D] before the last norm; nothing but these and
constants makes logits.
apply: ``rows`` gives them back too, as ``graph_io.HEAD_ROWS``; whoever asks for them instead of the logits computes no
head. ``alone`` leaves norm and head, from those rows to logits [N, vocab]. Equal.
ensures: the rows are an output, or the one input.
must not touch: a decoder whose logits are made of anything else.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery, is_weight, source, strip

ORDER = 230


def requires(surgery: Surgery) -> str | None:
    """A target that wants it, and a head that can be told from the rest."""
    if surgery.part == "vision" or surgery.target.head == "inside":
        return "the head stays in the decoder"
    if any(tensor.name == graph_io.HEAD_ROWS for tensor in (*surgery.graph.inputs, *surgery.graph.outputs)):
        return "done already"
    return None if _rows(surgery) is not None else "logits are made of more than rows that were chosen"


def apply(surgery: Surgery) -> int:
    """Name the rows, and leave what is before them out where the head is wanted alone."""
    rows, logits = _rows(surgery), _logits(surgery)
    assert rows is not None
    if surgery.target.head == "rows":
        output = surgery.emit("Identity", [rows], like=[rows])[0]
        output.name = graph_io.HEAD_ROWS
        surgery.graph.outputs.append(output)
        return 1
    taken, scores = gs.Variable(graph_io.HEAD_ROWS, rows.dtype, rows.shape), _flat(logits)
    surgery.replace(rows, taken)
    if scores is not logits:
        logits.name, scores.name = surgery.name("whole"), graph_io.LOGITS
    scores.dtype, scores.shape = logits.dtype, [rows.shape[0], logits.shape[-1]]
    surgery.graph.inputs, surgery.graph.outputs = [taken], [scores]
    surgery.graph.cleanup()
    return 1


def ensures(surgery: Surgery, fired: int) -> None:
    """Check what is given and taken.

    Raises:
        CheckFailed: A head alone takes more than its rows, or a decoder does not give them.
    """
    alone = surgery.target.head == "alone"
    names = [tensor.name for tensor in (surgery.graph.inputs if alone else surgery.graph.outputs)]
    if fired and (graph_io.HEAD_ROWS not in names or (alone and len(names) != 1)):
        raise CheckFailed("a head is not apart", got=", ".join(names[:5]), expected=graph_io.HEAD_ROWS)


def _logits(surgery: Surgery) -> gs.Tensor:
    return next(tensor for tensor in surgery.graph.outputs if tensor.name == graph_io.LOGITS)


def _flat(logits: gs.Tensor) -> gs.Tensor:
    """What logits are without their last shape [B, n, vocab]."""
    return strip(logits, "Reshape")


def _rows(surgery: Surgery) -> gs.Tensor | None:
    """The rows that logits are made of; None where they are made of several, of inputs or of sizes."""
    waiting, rows, seen = [_flat(_logits(surgery))], list[gs.Tensor](), set[int]()
    while waiting:
        tensor = waiting.pop()
        node = source(tensor)
        if id(tensor) in seen or is_weight(tensor):
            continue
        seen.add(id(tensor))
        if node is None or node.op == "Shape":
            return None
        if node.op == "Gather" and _is_choice(node):
            rows.append(tensor)
        else:
            waiting += node.inputs
    return rows[0] if len(rows) == 1 else None


def _is_choice(gather: gs.Node) -> bool:
    """Whether rows [N, D] are chosen among others that were computed."""
    shape = gather.outputs[0].shape
    flat = shape is not None and len(shape) == 2 and isinstance(shape[1], int)
    return bool(flat and not gather.attrs.get("axis") and not is_weight(gather.inputs[0]))
