"""Constant indices of a graph against the shapes they go into: some runtimes do not look, and write beside the memory.

OpenVINO's CPU plug-in takes what Gather and Scatter are given; an index of 2^31 was read, and ended the process cases
later. What is computed on the way is not seen here (docs/security.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

#: Operators whose second input holds indices; of the first three along an axis of the first input.
_ALONG_AXIS = ("Gather", "GatherElements", "ScatterElements")
INDEXED = frozenset((*_ALONG_AXIS, "GatherND", "ScatterND", "Slice", "Reshape"))
#: No tensor of a graph has more elements along an axis.
_MOST = 2**28
_STEPS = 4


def problem(
    kind: str,
    inputs: Sequence[str],
    axis: int,
    constants: Mapping[str, Sequence[int]],
    shapes: Mapping[str, Sequence[int]],
) -> str | None:
    """What is wrong with a node's constant indices; None if nothing is, or they are not constant.

    Args:
        kind: One of ``INDEXED``.
        inputs: Names of the node's inputs.
        axis: Its attribute, 0 where it has none.
        constants: Values of integer constants by name.
        shapes: Of initializers by name.
    """
    values = [list(constants.get(name, ())) for name in inputs]
    if kind == "Slice":
        return "Slice with a step of 0" if len(values) > _STEPS and 0 in values[_STEPS] else None
    if len(values) < 2 or not values[1]:
        return None
    low, high = min(values[1]), max(values[1])
    if kind == "Reshape":
        return _reshape(values[1], shapes.get(inputs[0]))
    shape = shapes.get(inputs[0]) if kind in _ALONG_AXIS else None
    if shape is not None and not -len(shape) <= axis < len(shape):
        return f"{kind} along axis {axis} of a shape of {len(shape)}"
    size = _MOST if shape is None else shape[axis]
    if -size <= low and high < size:
        return None
    return f"{kind} of index {high if high >= size else low} from {size:,}"


def _reshape(asked: list[int], shape: Sequence[int] | None) -> str | None:
    """A size is left open once at most, and copied (0) from an axis that is there; elements stay as many."""
    if min(asked) < -1 or asked.count(-1) > 1:
        return f"Reshape to {asked[:8]}"
    if shape is None:
        return None
    if any(size == 0 and place >= len(shape) for place, size in enumerate(asked)):
        return f"Reshape of {list(shape)} to {asked[:8]}"
    sizes = [shape[place] if size == 0 else size for place, size in enumerate(asked)]
    held, wanted = math.prod(shape), math.prod(size for size in sizes if size != -1)
    fits = (wanted and held % wanted == 0) if -1 in sizes else held == wanted
    return None if fits else f"Reshape of {list(shape)} to {asked[:8]}"
