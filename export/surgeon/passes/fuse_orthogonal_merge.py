"""Every planned merge pass becomes one node ``luvc::OrthogonalMerge``.

requires: a vision graph with axis passes that tracing marked (``compression.marks``).
apply: a pass over columns and the pass over rows that reads its results are one node; a lone one is the variant along
its axis. A pass inside windows is one node for the windows of each size, which are its batch. Places are composed by a
GatherElements outside, left out where a unit's place before is its own. The bodies do the arithmetic of the marks in
the same order: bit-equal.
ensures: the axis passes of the nodes are the plan's; no mark is left, and no TopK outside but that of a prune in the
encoder.
must not touch: results of a pass over columns that anything else reads too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.core.operators import MARKS, MERGE_AXIS, ORTHOGONAL_MERGE
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import node_order
from luvc_export.export.surgeon.fused import bodies
from luvc_export.export.surgeon.fused.node import FusedNode, emit
from luvc_export.export.surgeon.graph import DOMAIN, Surgery, readers, up, value

ORDER = 20

_SIZES = ("height", "width", "removed_rows", "removed_columns")
#: (Length, removed, along rows) of an axis pass.
_AxisPass = tuple[int, int, bool]


def requires(surgery: Surgery) -> str | None:
    """A vision graph with marked merges."""
    if surgery.part != "vision":
        return "the decoder merges nothing"
    if not any(step.rows or step.columns for step in surgery.plan.encoder.merges):
        return "the plan merges nothing"
    return None if _marked(surgery) else "no merge is marked: done already, or traced without marks"


def apply(surgery: Surgery) -> int:
    """Fuse marks in the order in which they read each other."""
    fired = 0
    node_order.sort(surgery.graph)
    seen = set[int]()
    for mark in _marked(surgery):
        if id(mark.node) not in seen:
            after = _rows_after(mark)
            seen |= {id(item.node) for item in (mark, after) if item is not None}
            _fuse(surgery, mark, after)
            fired += 1
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """The plan's axis passes, each in a node.

    Raises:
        CheckFailed: Nodes and plan differ, or a TopK is left outside.
    """
    node_order.tidy(surgery.graph)
    fused = [FusedNode(node) for node in surgery.graph.nodes if node.domain == DOMAIN]
    sizes = [[int(node.attribute(name)) for name in _SIZES] for node in fused]
    got = sorted(step for each in sizes for step in _axis_passes(*each))
    boxes = [box for planned in surgery.plan.encoder.merge_passes for box in planned.boxes]
    wanted = sorted(step for box in boxes for step in _axis_passes(box.height, box.width, box.rows, box.columns))
    left = [node.name for node in surgery.graph.nodes if node.op in MARKS]
    left += [node.name for node in surgery.nodes("TopK") if surgery.plan.encoder.prune is None]
    if got != wanted or left:
        raise CheckFailed("the fused merges are not the plan's", got=(got, left), expected=wanted)


def _axis_passes(height: int, width: int, rows: int, columns: int) -> Iterator[_AxisPass]:
    if columns:
        yield width, columns, False
    if rows:
        yield height, rows, True


def _marked(surgery: Surgery) -> list[FusedNode]:
    return [FusedNode(node) for node in surgery.nodes(*MARKS) if node.domain == DOMAIN]


def _rows_after(columns: FusedNode) -> FusedNode | None:
    """The pass over rows that reads what a pass over columns gives, where nothing else does."""
    if not columns.attribute("removed_columns"):
        return None
    state = [columns.output(f"merged_{tensor.name}") for tensor in columns.schema.fused.inputs]
    others = {id(node): node for tensor in state for node in tensor.outputs}
    if len(others) != 1:
        return None
    [node] = others.values()
    if node.domain != DOMAIN or node.op not in columns.schema.variants:
        return None
    copies = state.pop()  # where nothing reads them, positions stand for them
    alike = all(a is b for a, b in zip(node.inputs, state, strict=False))
    return FusedNode(node) if alike and any(node.inputs[-1] is part for part in (copies, *state)) else None


def _fuse(surgery: Surgery, first: FusedNode, second: FusedNode | None) -> None:
    """One node in place of ``first`` and of ``second``, the rows after columns."""
    last = second or first
    rows, columns = last.attribute("removed_rows"), first.attribute("removed_columns")
    names = [tensor.name for tensor in ORTHOGONAL_MERGE.fused.outputs]
    fused = emit(
        surgery,
        ORTHOGONAL_MERGE,
        {tensor.name: first.input(tensor.name) for tensor in ORTHOGONAL_MERGE.fused.inputs},
        {name: first.attribute(name) for name in ("height", "width", "mode")}
        | {"removed_rows": rows, "removed_columns": columns},
        like={name: (first if name == "merged_into" else last).output(name) for name in names},
        op=bodies.merge_name(columns > 0, rows > 0),
    )
    for gather in readers(first.output("merged_into"), "GatherElements") if second is not None else ():
        surgery.replace(gather.outputs[0], gather.inputs[1])  # places of the last node are those since the first
    for name in names:
        surgery.replace(last.output(name), fused[name])
    for gather in readers(fused["merged_into"], "GatherElements"):
        if _is_count(gather.inputs[1]):
            surgery.replace(gather.outputs[0], fused["merged_into"])
    body = bodies.orthogonal_merge(columns > 0, rows > 0)
    surgery.functions[body.name] = body
    encoder, slots = surgery.plan.encoder, int(first.input("copies").shape[-1]) // 2
    surgery.functions[MERGE_AXIS.name] = bodies.merge_axis(encoder.merge_mode, slots, encoder.reads_padding)


def _is_count(tensor: gs.Tensor) -> bool:
    """0, 1, 2, ... for every image: gathering by it changes nothing."""
    copy = up(tensor, "Expand")
    array = value(copy.inputs[0]) if copy is not None else None
    return array is not None and array.ndim == 1 and np.array_equal(array, np.arange(array.size))
