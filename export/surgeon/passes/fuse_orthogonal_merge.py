"""Every planned merge pass becomes one node ``luvc::OrthogonalMerge``.

requires: a vision graph whose plan merges.
matches: per axis, two TopK (largest over neighbour cosines, which know padding where the plan has it, smallest over
integer keys) and the one-hot assignment
they make; axis passes are paired by the plan's rows and columns, and their sizes must agree with it. A pass inside
windows is one node for the windows of each size, which are its batch.
apply: the node takes hidden states, sizes, positions and position copies on the grid and gives them back on the
smaller grid, with the place of every unit; composing places over several passes stays one GatherElements outside. The
body does the same arithmetic in the same order: bit-equal. State that nothing reads later is fed what is at hand and
stays unread.
ensures: one node per merge pass of the plan, and for the windows of each size, with its numbers; no TopK outside.
must not touch: a TopK that belongs to anything else; an assignment whose sizes are not the plan's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.core.operators import DOMAIN as PLUGIN_DOMAIN
from luvc_export.core.operators import MERGE_AXIS, ORTHOGONAL_MERGE
from luvc_export.core.plan.merging import Box, Planned
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.fused import merge_body
from luvc_export.export.surgeon.fused.node import FusedNode, emit
from luvc_export.export.surgeon.graph import DOMAIN, Surgery, readers, source, strip, up, value

ORDER = 20

_INTEGER = ("Add", "Sub", "Mul", "Div", "Mod", "Cast", "And", "Equal", "Less", "Where")
_TO_STATE = ("Reshape", "Transpose", "Cast")
#: Axes of what turns rows and columns of a batch of grids; windows are cut in five and six.
_TURNED_AXES = 4


@dataclass
class Axis:
    """One axis pass as found: the one-hot assignment, its width, how many leave, and what it moves."""

    assignment: gs.Tensor
    width: int
    removed: int
    values: gs.Tensor
    sizes: gs.Tensor | None
    positions: gs.Tensor | None
    copies: gs.Tensor | None
    out: dict[str, gs.Tensor]
    gather: gs.Node


def requires(surgery: Surgery) -> str | None:
    """A vision graph with merges in its plan."""
    if surgery.part != "vision":
        return "the decoder merges nothing"
    if not any(step.rows or step.columns for step in surgery.plan.encoder.merges):
        return "the plan merges nothing"
    return "done already" if any(node.domain in (DOMAIN, PLUGIN_DOMAIN) for node in surgery.graph.nodes) else None


def apply(surgery: Surgery) -> int:
    """Find axis passes, pair them by the plan, replace each pair; then look again, for the next pass reads its node."""
    passes = [_boxes(found) for found in surgery.plan.encoder.merge_passes]
    found = sorted((axis.width, axis.removed) for axis in _axes(surgery))
    wanted = sorted(pair for boxes in passes for box in boxes for pair in _pairs(box))
    if found != wanted:
        counts = [[count for _, count in pairs] for pairs in (found, wanted)]
        widths = [[width for width, _ in pairs] for pairs in (found, wanted)]
        what, (got, planned) = ("remove", counts) if counts[0] != counts[1] else ("are as wide as", widths)
        surgery.skip(f"axis passes {what} {got}, the plan {planned}")
        return 0
    for boxes in passes:
        for box in boxes:
            _replace(surgery, _chosen(_axes(surgery), box), box.rows, box.columns, box.height, box.width)
            surgery.graph.cleanup()
    return sum(map(len, passes))


def ensures(surgery: Surgery, fired: int) -> None:
    """One node a pass, or size of windows, with the plan's numbers.

    Raises:
        CheckFailed: Nodes and plan differ, or a TopK is left outside.
    """
    surgery.graph.cleanup().toposort()
    nodes = [FusedNode(node) for node in surgery.graph.nodes if node.domain == DOMAIN]
    names = ("height", "width", "removed_rows", "removed_columns")
    got = sorted(tuple(int(node.attribute(name)) for name in names) for node in nodes)
    boxes = [box for found in surgery.plan.encoder.merge_passes for box in _boxes(found)]
    wanted = sorted((box.height, box.width, box.rows, box.columns) for box in boxes)
    left = [node.name for node in surgery.graph.nodes if node.op == "TopK"]
    if fired and (got != wanted or (left and surgery.plan.encoder.prune is None)):
        raise CheckFailed("the fused merges are not the plan's", got=(got, left), expected=wanted)


def _boxes(found: Planned) -> list[Box]:
    """What of a pass merges at all; over both axes first, since one axis alone may look like half of such a pass."""
    return sorted(
        (box for box in found.boxes if box.rows or box.columns), key=lambda box: not (box.rows and box.columns)
    )


def _pairs(box: Box) -> list[tuple[int, int]]:
    """(Width, removed) of each axis pass, columns first."""
    return [(size, count) for size, count in ((box.width, box.columns), (box.height, box.rows)) if count]


def _axes(surgery: Surgery) -> list[Axis]:
    """Axis passes that no node stands for yet, in order."""
    surgery.graph.toposort()
    padded = surgery.plan.encoder.reads_padding
    return [axis for top in surgery.nodes("TopK") if (axis := _axis(top, padded)) is not None]


def _chosen(axes: list[Axis], box: Box) -> list[Axis]:
    """The first axis passes that merge like ``box``: over both axes, the second on what the first leaves.

    Raises:
        CheckFailed: There are none.
    """
    pairs = _pairs(box)
    turned = [along_rows for along_rows, count in ((False, box.columns), (True, box.rows)) if count]
    alike = [
        [axis for axis in axes if (axis.width, axis.removed) == pair and _turned(axis) == flipped]
        for pair, flipped in zip(pairs, turned, strict=True)
    ]
    if len(pairs) == 1 and alike[0]:
        return alike[0][:1]
    for first in alike[0] if len(pairs) == 2 else ():
        for second in alike[1]:
            if _to_state(second.values) is first.out.get("values"):
                return [first, second]
    raise CheckFailed("no axis passes merge like the plan's", expected=box)


def _axis(top: gs.Node, padded: bool) -> Axis | None:
    """The axis pass whose integer-key TopK is ``top``; None for any other TopK.

    ``padded``: its cosines know padding, by the sizes.
    """
    key = up(top.inputs[0], "Where")
    count, shape = value(top.inputs[1]), top.inputs[0].shape
    if top.attrs.get("largest", 1) or key is None or count is None or not shape:
        return None
    assignment = next(
        (
            cast.outputs[0]
            for column in readers(top.outputs[0], "Unsqueeze")
            for equal in readers(column.outputs[0], "Equal")
            for cast in readers(equal.outputs[0], "Cast")
        ),
        None,
    )
    ranked = _upstream(key, "TopK")
    if assignment is None or ranked is None:
        return None
    cosine = _before_padding(strip(ranked.inputs[0], "Max", "Slice")) if padded else ranked.inputs[0]
    if cosine is None:
        return None
    x = strip(cosine, "Max", "Slice", "ReduceSum", "Mul", "Div", "Cast", "Reshape")
    moved = _moved(assignment, x)
    return (
        None if moved is None else Axis(assignment, int(shape[-1]), int(shape[-1]) - int(count.ravel()[0]), x, *moved)
    )


def _before_padding(beside: gs.Tensor) -> gs.Tensor | None:
    """The cosines that ``oim._beside_padding`` starts from: a sum, whose first part are they times two masks."""
    node = up(beside, "Add")
    for op in ("Mul", "Mul"):
        node = up(node.inputs[0], op) if node is not None else None
    return node.inputs[0] if node is not None else None


def _moved(
    a: gs.Tensor, x: gs.Tensor
) -> tuple[gs.Tensor | None, gs.Tensor | None, gs.Tensor | None, dict[str, gs.Tensor], gs.Node] | None:
    """What the one-hot products of ``a`` move, and the results on the way out; what nothing reads is not there."""
    products = [node for node in readers(a, "MatMul") if node.inputs[0] is a]
    plain = [n for n in products if value(n.inputs[1]) is None and up(n.inputs[1], "Mul") is None]
    if len(plain) > 1:
        return None
    out = {"sizes": plain[0].outputs[0]} if plain else {}
    positions = copies = None
    for node in products:
        heavy = up(node.inputs[1], "Mul")
        quotient = readers(node.outputs[0], "Div")
        if heavy is not None and quotient:
            if strip(heavy.inputs[0], "Cast", "Reshape") is x:
                out["values"] = quotient[0].outputs[0]
            else:
                positions, out["positions"] = heavy.inputs[0], quotient[0].outputs[0]
        elif value(node.inputs[1]) is not None:
            for hot in _picks(node.outputs[0]):
                for pick in readers(hot, "MatMul"):
                    if strip(pick.inputs[1], "Cast", "Reshape") is x:
                        chosen = _last_where(pick.outputs[0])
                        out["values"] = chosen if chosen is not None else out.get("values", pick.outputs[0])
                    else:
                        copies = strip(pick.inputs[1], "Slice", *_TO_STATE)
                        parts = readers(pick.outputs[0], "Concat")
                        out["copies"] = parts[0].outputs[0] if parts else pick.outputs[0]
    gather = next((g for m in readers(a, "Mul") for g in _downstream(m, "GatherElements")), None)
    if gather is None:
        return None
    sizes = plain[0].inputs[1] if plain else None
    return sizes, positions, copies, out, gather


def _picks(rank: gs.Tensor) -> list[gs.Tensor]:
    """One-hot tensors that select the n-th member of every kept token."""
    return [
        cast.outputs[0]
        for number in readers(rank, "Mul")
        for equal in readers(number.outputs[0], "Equal")
        for cast in readers(equal.outputs[0], "Cast")
    ]


def _last_where(tensor: gs.Tensor) -> gs.Tensor | None:
    """The last of the selections that start from ``tensor`` (the ``max`` mode)."""
    found = None
    while nodes := readers(tensor, "Where"):
        tensor = found = nodes[0].outputs[0]
    return found


def _replace(surgery: Surgery, axes: list[Axis], rows: int, columns: int, height: int, width: int) -> None:
    first, last = axes[0], axes[-1]
    state = {
        "values": _to_state(first.values),
        "sizes": _to_state(first.sizes) if first.sizes is not None else None,
        "positions": _to_state(first.positions) if first.positions is not None else None,
        "copies": _to_state(first.copies) if first.copies is not None else None,
    }
    spare = state["positions"] if state["positions"] is not None else state["copies"]
    if spare is None:
        raise CheckFailed("a merge moves no positions", where=first.gather.name)
    if state["sizes"] is None:
        unread = surgery.emit("Gather", [spare, np.array(0)], axis=-1)[0]
        unread.dtype, unread.shape = spare.dtype, list(spare.shape[:-1])
        state["sizes"] = unread
    channels = int(first.out["values"].shape[-1])  # of a unit: they may have come from its patches, one by one
    planes = {
        kind: int((state[kind] if state[kind] is not None else spare).shape[-1]) for kind in ("positions", "copies")
    }
    tails = {"values": [channels], "sizes": [], "positions": [planes["positions"]], "copies": [planes["copies"]]}
    inputs = {
        kind: _on_grid(surgery, state[kind] if state[kind] is not None else spare, [height, width, *tail])
        for kind, tail in tails.items()
    }
    exits = {kind: _exit(tensor, bool(rows)) for kind, tensor in last.out.items()}
    made = emit(
        surgery,
        ORTHOGONAL_MERGE,
        inputs,
        {
            "height": height,
            "width": width,
            "removed_rows": rows,
            "removed_columns": columns,
            "mode": surgery.plan.encoder.merge_mode,
        },
        op=merge_body.merge_name(columns > 0, rows > 0),
    )
    merged_into, entering = made["merged_into"], inputs["values"]
    images = entering.shape[0] if entering.shape else None
    grid = [images, height - rows, width - columns]
    for kind, tail in tails.items():
        new = made[f"merged_{kind}"]
        new.dtype, new.shape = inputs[kind].dtype, grid + tail
    merged_into.dtype, merged_into.shape = int, [images, height * width]
    for kind in tails:
        for old in exits.get(kind, ()):
            surgery.replace(old, made[f"merged_{kind}"])
    before, after = _leaf(first.gather.inputs[1]), _sink(surgery, last.gather.outputs[0])
    if _is_count(before):
        surgery.replace(after, merged_into)
    else:
        surgery.replace(after, surgery.emit("GatherElements", [merged_into, before], like=[after], axis=1)[0])
    slots, padded = planes["copies"] // 2, surgery.plan.encoder.reads_padding
    body = merge_body.orthogonal_merge(columns > 0, rows > 0)
    surgery.functions[body.name] = body
    surgery.functions[MERGE_AXIS.name] = merge_body.merge_axis(surgery.plan.encoder.merge_mode, slots, padded)


def _turned(axis: Axis) -> bool:
    """Whether the pass is along rows: they change places with columns before it."""
    node = source(axis.values)
    return node is not None and node.op == "Transpose" and len(node.attrs["perm"]) <= _TURNED_AXES


def _to_state(tensor: gs.Tensor) -> gs.Tensor:
    """Up to the state that was merged: past what turns rows and columns, not past what cuts a grid into windows."""
    while (node := source(tensor)) is not None and node.op in _TO_STATE:
        if node.op == "Transpose" and len(node.attrs["perm"]) > _TURNED_AXES:
            break
        tensor = node.inputs[0]
    return tensor


def _is_count(tensor: gs.Tensor) -> bool:
    """0, 1, 2, ... for every image: gathering by it changes nothing."""
    copy = up(tensor, "Expand")
    array = value(copy.inputs[0]) if copy is not None else None
    return array is not None and array.ndim == 1 and np.array_equal(array, np.arange(array.size))


def _on_grid(surgery: Surgery, tensor: gs.Tensor, tail: list[int]) -> gs.Tensor:
    shape = list(tensor.shape or ())
    if shape[1:] == tail:
        return tensor
    out = surgery.emit("Reshape", [tensor, [-1, *tail]])[0]
    node = source(tensor)
    windows = node is not None and node.op == "Transpose" and len(node.attrs["perm"]) > _TURNED_AXES  # a larger batch
    out.dtype, out.shape = tensor.dtype, [shape[0] if shape and not windows else None, *tail]
    return out


def _exit(tensor: gs.Tensor, flipped: bool) -> list[gs.Tensor]:
    """Where a moved tensor is back on the grid: past Cast and Reshape, and past the transposition after rows."""
    tensors = [tensor] + [node.outputs[0] for node in readers(tensor, "Cast")]
    shaped = [node.outputs[0] for t in tensors for node in readers(t, "Reshape")]
    shaped += [node.outputs[0] for t in list(shaped) for node in readers(t, "Cast")]
    if not flipped:
        return shaped
    return [node.outputs[0] for t in shaped for node in readers(t, "Transpose")]


def _upstream(node: gs.Node, op: str) -> gs.Node | None:
    queue, seen = [node], {id(node)}
    while queue:
        for tensor in queue.pop(0).inputs:
            above = source(tensor)
            if above is not None and id(above) not in seen:
                if above.op == op:
                    return above
                seen.add(id(above))
                queue.append(above)
    return None


def _downstream(node: gs.Node, op: str) -> list[gs.Node]:
    """Nodes of ``op`` that read what ``node`` makes as data (input 0), through shape and integer work."""
    for tensor in node.outputs:
        for below in readers(tensor):
            if below.op == op:
                return [below] if below.inputs[0] is tensor else []
            if below.op in ("ReduceSum", "Reshape", "Add", "Cast") and (found := _downstream(below, op)):
                return found
    return []


def _leaf(tensor: gs.Tensor) -> gs.Tensor:
    """The one tensor that integer arithmetic above ``tensor`` starts from."""
    node = source(tensor)
    if node is None or node.op not in _INTEGER:
        return tensor
    leaves = [_leaf(item) for item in node.inputs if value(item) is None]
    if len({id(item) for item in leaves}) != 1:
        raise CheckFailed("places of merged units have more than one origin", where=node.name)
    return leaves[0]


def _sink(surgery: Surgery, tensor: gs.Tensor) -> gs.Tensor:
    """The one tensor that integer arithmetic below ``tensor`` ends in."""
    region, queue, ends = {id(tensor)}, [tensor], []
    while queue:
        item = queue.pop()
        below = readers(item)
        if not below or any(node.op not in _INTEGER for node in below) or any(item is o for o in surgery.graph.outputs):
            ends.append(item)
            continue
        for node in below:
            for out in node.outputs:
                if id(out) not in region:
                    region.add(id(out))
                    queue.append(out)
    if len(ends) != 1:
        raise CheckFailed("places of merged units end in more than one tensor", got=len(ends))
    return ends[0]
