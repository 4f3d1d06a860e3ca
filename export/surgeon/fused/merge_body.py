"""ONNX body of luvc::OrthogonalMerge in standard operators, built of one axis pass (luvc::MergeAxis) twice.

The arithmetic is that of export/compression/oim.py, step for step; docs/surgery.md is the contract plug-ins follow.
Everything that depends on sizes only becomes constant once the attributes are filled in. The operators are in
``merge_body.onnxtxt``.
"""

from __future__ import annotations

import onnx

from luvc_export.core.operators import MERGE_AXIS, ORTHOGONAL_MERGE
from luvc_export.core.plan import MergeMode
from luvc_export.export.compression import oim
from luvc_export.export.surgeon.fused.prune_body import body, texts_beside

_TEXTS = texts_beside(__file__)
#: Names of what merges, as ONNX has them, and how rows and columns change places.
_TURNED = {3: "0, 2, 1", 4: "0, 2, 1, 3"}
_STATE = tuple((tensor.onnx, _TURNED[len(tensor.shape)]) for tensor in ORTHOGONAL_MERGE.fused.inputs)


def orthogonal_merge(columns: bool = True, rows: bool = True, name: str = "") -> onnx.FunctionProto:
    """One pass over a grid: ``columns`` leave every row, then ``rows`` leave every column.

    A pass over one axis only is a variant with a name of its own, since a body has no branches; ``name`` goes before.
    """
    steps, names = [], [name for name, _ in _STATE]
    if columns:
        steps.append(_call("c", "width", "columns", names))
        names = [f"c_{name}" for name, _ in _STATE]
    if rows:
        steps += [
            f"f_{kind} = Transpose <perm = [{perm}]> ({name})" for (kind, perm), name in zip(_STATE, names, strict=True)
        ]
        steps.append(_call("r", "height", "rows", [f"f_{kind}" for kind, _ in _STATE]))
        steps += [f"merged_{kind} = Transpose <perm = [{perm}]> (r_{kind})" for kind, perm in _STATE]
    else:
        steps += [f"merged_{kind} = Identity (c_{kind})" for kind, _ in _STATE]
    places = _TEXTS[f"places of {'both' if columns and rows else 'columns' if columns else 'rows'}"]
    return body(ORTHOGONAL_MERGE, _TEXTS["constants"], *steps, places, name=name or merge_name(columns, rows))


def merge_name(columns: bool, rows: bool) -> str:
    """Operator name of a pass over both axes, or over one."""
    columns_only, rows_only = ORTHOGONAL_MERGE.variants
    return ORTHOGONAL_MERGE.name if columns and rows else columns_only if columns else rows_only


def merge_axis(mode: MergeMode, slots: int, padded: bool = False) -> onnx.FunctionProto:
    """Pairs leave along the third axis: x [n, R, W, C] -> [n, R, W - removed, C], and where each unit went [n, R, W].

    Args:
        mode: How hidden states of members join.
        slots: Original positions each unit carries in ``copies``.
        padded: Small ``sizes`` are padding (``oim.PADDING``): pairs are ranked as ``oim._beside_padding`` does.
    """
    ranked = _TEXTS["beside pictures"]
    if padded:
        ranked = _TEXTS["beside padding"].format(below=oim.BELOW_PADDING, half=oim.HALF)
    steps = (_TEXTS["tables"], _TEXTS["similar"], ranked, _TEXTS["decide"], _TEXTS[mode], _TEXTS["move"])
    return body(MERGE_AXIS, _TEXTS["constants"], *steps, _copies(slots))


def _call(tag: str, length: str, removed: str, names: list[str]) -> str:
    outputs = ", ".join(f"{tag}_{kind}" for kind, _ in _STATE)
    return (
        f"{outputs}, {tag}_into = luvc.MergeAxis <length: int = @{length}, removed: int = @{removed}>"
        f" ({', '.join(names)})"
    )


def _copies(slots: int) -> str:
    """Slot j of n takes slot j of member floor(j * members / n)."""
    steps = [_TEXTS["members"], _TEXTS["several"] if slots > 1 else ""]
    for slot in range(slots):
        steps.append(_TEXTS["share"].format(slot=slot, share=slot / slots) if slots > 1 else _TEXTS["first"])
        steps.append(_TEXTS["slot"].format(slot=slot, start=2 * slot, end=2 * slot + 2))
    steps.append(_TEXTS["copies"].format(slots=", ".join(f"got{slot}" for slot in range(slots))))
    return "\n".join(steps)
