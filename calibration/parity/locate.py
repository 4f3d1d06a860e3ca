"""Walk the tensors in the order in which they are computed and name the first that departs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from luvc_export.calibration.parity.compare import Comparison
from luvc_export.calibration.parity.tolerances import Tolerances, tolerances
from luvc_export.calibration.runners.base import LOGITS, VISION


@dataclass(frozen=True)
class LocatedTensor:
    """Worst case of one tensor: errors, whether it departs, and in which case it is worst."""

    tensor: str
    rel_l2: float
    worst_row: float
    max_abs: float
    cosine: float
    nonfinite: int
    departs: bool
    case: int


@dataclass(frozen=True)
class Located:
    """The first tensor that departs, and what computes it."""

    tensor: str
    suspect: str


def walk(comparison: Comparison, limit: Tolerances | None = None) -> list[LocatedTensor]:
    """Every tensor in order, worst over all cases."""
    limit = limit or tolerances(comparison.reference.dtype, comparison.candidate.dtype)
    names = list(dict.fromkeys(name for item in comparison.measured for name in item.tensors))
    steps = []
    for name in names:
        case, gap = max(
            ((number, item.tensors[name]) for number, item in enumerate(comparison.measured) if name in item.tensors),
            key=lambda pair: (pair[1].nonfinite, pair[1].rel_l2),
        )
        nonfinite = sum(item.tensors[name].nonfinite for item in comparison.measured if name in item.tensors)
        departs = bool(nonfinite or gap.rel_l2 > limit.rel_l2.value or gap.cosine < limit.cosine.value)
        steps.append(LocatedTensor(name, gap.rel_l2, gap.worst_row, gap.max_abs, gap.cosine, nonfinite, departs, case))
    return steps


def first(steps: list[LocatedTensor]) -> Located | None:
    """The first departing tensor, None if all agree."""
    bad = [step.tensor for step in steps if step.departs]
    if not bad:
        return None
    names = {step.tensor for step in steps}
    return Located(bad[0], _suspect(bad[0], names))


def _suspect(tensor: str, names: set[str]) -> str:
    if tensor.startswith(VISION):
        return "the vision graph, or the picture's preprocessing"
    if tensor == LOGITS:
        return "the last layer's attention or MLP, the final norm or the output head"
    match = re.fullmatch(r"layer (\d+) (\w+)", tensor)
    assert match is not None
    layer, part = int(match[1]), match[2]
    before = (
        f"layer {layer - 1}'s attention (its mask too) or MLP, or a prune before layer {layer}"
        if layer
        else ("the token embedding")
    )
    if part == "in":
        return before
    what = {"key": "key projection, or the rotary positions", "value": "value projection"}[part]
    own = f"layer {layer}'s input norm or {what}"
    return own if f"layer {layer} in" in names else f"{own}; or {before}"
