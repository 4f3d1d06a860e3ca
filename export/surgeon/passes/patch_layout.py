"""A picture is laid out as patches with fewer axes, and where bytes may move, while it is still bytes.

requires: a vision graph.
matches: image -> Cast, Mul, Sub, Div, Add, Clip, Max by scalars or by colours -> Expand of one frame to several, if
any -> Reshape -> Transpose -> Reshape.
apply: the frame axis leaves the transposition (frames are copied after it), batch and rows become one axis: 7 axes in
place of 9, and TensorRT has 8 at most. With the capability ``bytes``, reshaping and transposing come before the Cast
(a quarter of the memory moved) and colours are no longer the innermost axis of every product. A graph laid out for such
a target gets its Cast back in front for one without the capability. Real frames (F > 1) arrive as two transpositions,
the second of colours alone: both come before the Cast where bytes may move. Element by element the same arithmetic:
bit-equal.
ensures: no tensor of the graph has more than eight axes where it fired.
must not touch: constants that are not per colour, readers that count axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery, readers, source, up, value

ORDER = 10

_ARITHMETIC = ("Cast", "Mul", "Sub", "Div", "Add", "Clip", "Max")
_AXES = 8


@dataclass
class PatchChain:
    """The chain as found: arithmetic from image on, frames to copy, sizes and order of the transposition."""

    chain: list[gs.Node]
    frames: int
    sizes: list[int]
    perm: list[int]
    turn: gs.Node


def requires(surgery: Surgery) -> str | None:
    """A vision graph."""
    return None if surgery.part == "vision" else "the decoder sees no picture"


def apply(surgery: Surgery) -> int:
    """Rewrite the one place where the picture becomes patches."""
    if not surgery.target.bytes and (late := _late_cast(surgery)):
        _cast_first(surgery, *late)
        return 1
    if surgery.target.bytes and (frames := _frames(surgery)):
        _arithmetic_last(surgery, *frames)
        return 1
    layouts = [layout for turn in surgery.nodes("Transpose") if (layout := _layout(turn)) is not None]
    if len(layouts) != 1:
        surgery.skip("the picture becomes patches in another way")
        return 0
    layout = layouts[0]
    done = layout.chain[0].op != "Cast" or len(layout.sizes) <= 7
    if done:
        surgery.skip("the picture is laid out already")
        return 0
    _rewrite(surgery, layout)
    return 1


def ensures(surgery: Surgery, fired: int) -> None:
    """At most eight axes.

    Raises:
        CheckFailed: Names the node that makes more.
    """
    surgery.graph.cleanup()
    for node in surgery.graph.nodes if fired else ():
        for tensor in node.outputs:
            if tensor.shape is not None and len(tensor.shape) > _AXES:
                raise CheckFailed("a tensor has more axes than TensorRT takes", where=node.name, got=len(tensor.shape))


def _layout(turn: gs.Node) -> PatchChain | None:
    shaped = up(turn.inputs[0], "Reshape")
    sizes = value(shaped.inputs[1]) if shaped is not None else None
    after = readers(turn.outputs[0])
    if shaped is None or sizes is None or not after or any(not _fixed(node) for node in after):
        return None
    tensor, frames = shaped.inputs[0], 1
    if (copy := up(tensor, "Expand")) is not None:
        before, wanted = copy.inputs[0].shape, copy.outputs[0].shape
        if (
            before is None
            or wanted is None
            or len(wanted) != 5
            or before[1] != 1
            or list(before[2:]) != list(wanted[2:])
        ):
            return None
        tensor, frames = copy.inputs[0], int(wanted[1])
    chain: list[gs.Node] = []
    while (node := source(tensor)) is not None:
        if node.op not in _ARITHMETIC or not all(_per_colour(item) for item in node.inputs[1:]):
            return None
        chain.insert(0, node)
        tensor = node.inputs[0]
    if tensor.name != "image" or tensor.shape[1] != 1 or not chain or int(sizes[1]) != frames or sizes[-1] != 3:
        return None
    return PatchChain(chain, frames, [int(size) for size in sizes], list(turn.attrs["perm"]), turn)


def _frames(surgery: Surgery) -> tuple[list[gs.Node], list[gs.Node]] | None:
    """Of real frames: arithmetic from the image on, and the moves after it, up to where colours are an axis inside."""
    tensor: gs.Tensor = next(item for item in surgery.graph.inputs if item.name == "image")
    if tensor.shape is None or len(tensor.shape) != 5 or tensor.shape[1] == 1:
        return None
    chain, moves = list[gs.Node](), list[gs.Node]()
    while len(after := [node for node in readers(tensor) if node.op != "Shape"]) == 1:
        node = after[0]
        if node.op in _ARITHMETIC and not moves and all(_per_colour(item) for item in node.inputs[1:]):
            chain.append(node)
        elif chain and (node.op == "Transpose" or (node.op == "Reshape" and _fixed(node))):
            moves.append(node)
        else:
            break
        tensor = node.outputs[0]
    while moves and moves[-1].op != "Transpose":
        moves.pop()
    if [node.op for node in moves] != ["Reshape", "Transpose"] * 2 or chain[0].op != "Cast":
        return None
    colours = value(moves[2].inputs[1])
    swapped = list(moves[3].attrs["perm"]) == [0, 1, 3, 2]
    return (chain, moves) if swapped and colours is not None and int(colours[-1]) == 3 else None


def _arithmetic_last(surgery: Surgery, chain: list[gs.Node], moves: list[gs.Node]) -> None:
    """Move bytes, then compute, colours the axis before the last."""
    last, end = moves[-1].outputs[0], readers(moves[-1].outputs[0])
    tensor: gs.Tensor = chain[0].inputs[0]
    for node in moves:
        kind = tensor.dtype
        tensor = surgery.typed(node.op, [tensor, *node.inputs[1:]], kind, **node.attrs)
    for node in chain:
        others = [_moved(surgery, item, 1) for item in node.inputs[1:]]
        kind = node.outputs[0].dtype
        tensor = surgery.typed(node.op, [tensor, *others], kind, last.shape, **node.attrs)
    for node in end:
        node.inputs = [tensor if item is last else item for item in node.inputs]


def _late_cast(surgery: Surgery) -> tuple[list[gs.Node], gs.Node] | None:
    """The nodes that move bytes of the picture, and the Cast after them."""
    tensor: gs.Tensor = next(item for item in surgery.graph.inputs if item.name == "image")
    moves: list[gs.Node] = []
    while len(after := [node for node in readers(tensor) if node.op != "Shape"]) == 1:
        if after[0].op == "Cast":
            return (moves, after[0]) if moves else None
        if after[0].op not in ("Reshape", "Transpose"):
            break
        moves.append(after[0])
        tensor = after[0].outputs[0]
    return None


def _cast_first(surgery: Surgery, moves: list[gs.Node], cast: gs.Node) -> None:
    kind = cast.outputs[0].dtype
    first = surgery.typed("Cast", [moves[0].inputs[0]], kind, moves[0].inputs[0].shape, **cast.attrs)
    moves[0].inputs[0] = first
    for node in moves:
        node.outputs[0].dtype = kind
    surgery.replace(cast.outputs[0], moves[-1].outputs[0])


def _fixed(node: gs.Node) -> bool:
    sizes = value(node.inputs[1]) if node.op == "Reshape" else None
    return sizes is not None and 0 not in sizes


def _per_colour(tensor: gs.Tensor) -> bool:
    array = value(tensor)
    return array is not None and (array.size == 1 or array.shape == (3,))


def _rewrite(surgery: Surgery, layout: PatchChain) -> None:
    sizes, perm = list(layout.sizes), list(layout.perm)
    inner = int(np.prod([sizes[axis] for axis in perm[perm.index(1) + 1 :]]))
    del sizes[1]
    perm = [axis - (axis > 1) for axis in perm if axis != 1]
    if perm[:2] == [0, 1]:
        sizes = [-1, *sizes[2:]]
        perm = [0, *(axis - 1 for axis in perm[2:])]
    after_colour = len(perm) - 1 - perm.index(len(perm) - 1)
    tensor: gs.Tensor = next(item for item in surgery.graph.inputs if item.name == "image")
    steps = [lambda t: surgery.emit("Reshape", [t, sizes])[0], lambda t: surgery.emit("Transpose", [t], perm=perm)[0]]
    if surgery.target.bytes:
        for step in steps:
            kind = tensor.dtype
            tensor = step(tensor)
            tensor.dtype = kind
    for node in layout.chain:
        others = [_moved(surgery, item, after_colour) for item in node.inputs[1:]]
        kind = node.outputs[0].dtype
        tensor = surgery.typed(node.op, [tensor, *others], kind, **node.attrs)
    if not surgery.target.bytes:
        for step in steps:
            tensor = step(tensor)
            tensor.dtype = kind
    if layout.frames > 1:
        tensor = surgery.emit("Reshape", [tensor, [-1, 1, inner]])[0]
        tensor = surgery.typed("Expand", [tensor, [1, layout.frames, 1]], kind)
    for node in readers(layout.turn.outputs[0]):
        node.inputs[0] = tensor


def _moved(surgery: Surgery, tensor: gs.Tensor, after: int) -> gs.Tensor:
    """A constant per colour, for colours ``after`` axes from the end."""
    array = value(tensor)
    assert array is not None
    if array.size == 1 or not surgery.target.bytes:
        return tensor
    return surgery.constant(array.reshape(3, *[1] * after), "colour", array.dtype)
