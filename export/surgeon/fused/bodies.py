"""ONNX bodies, in standard operators, of the prunes and merges of the domain luvc; docs/surgery.md is the contract.

``bodies.onnxtxt`` has their operators. They avoid what ONNX Runtime or TensorRT refuse (export/compression/spu.py): the
low-pass is one 2-D product, rows are gathered by one index. luvc::SpectrumPrune, its two halves and luvc::SpectrumDrop
work on the whole sequence [visual | text]. luvc::OrthogonalMerge is one axis pass (luvc::MergeAxis) twice, with the
arithmetic of export/compression/oim.py, step for step; everything there that depends on sizes only becomes constant
once the attributes are filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.parser
import onnx_ir as ir

from luvc_export.core.operators import (
    KEEP_ROWS,
    MERGE_AXIS,
    MERGE_COLUMNS,
    ORTHOGONAL_MERGE,
    SPECTRUM_CHOOSE,
    SPECTRUM_DROP,
    SPECTRUM_PRUNE,
    Schema,
)
from luvc_export.core.plan import Axis, MergeMode, Plan
from luvc_export.export.compression import oim
from luvc_export.export.surgeon.fused.node import head
from luvc_export.export.surgeon.graph import DOMAIN

_, *_PARTS = re.split(
    r"^\[(.+)\]\n", Path(__file__).with_suffix(".onnxtxt").read_text(encoding="utf-8"), flags=re.MULTILINE
)
#: Operators in ONNX's text form, by the ``[name]`` above them.
TEXTS = dict(zip(_PARTS[::2], _PARTS[1::2], strict=True))
#: Names of what merges, as ONNX has them, and how rows and columns change places.
_TURNED = {3: "0, 2, 1", 4: "0, 2, 1, 3"}
_STATE = tuple((tensor.onnx, _TURNED[len(tensor.shape)]) for tensor in ORTHOGONAL_MERGE.fused.inputs)


def attach(model: ir.Model, plan: Plan) -> None:
    """Give ``model``, traced with marks, their bodies as functions; one without marks stays as it is.

    So it runs as it is, and says what surgery must keep.
    """
    for body in _of_marks(model, plan):
        function = ir.from_proto(body)
        model.functions[function.identifier()] = function
        model.opset_imports[body.domain] = 1


def _of_marks(model: ir.Model, plan: Plan) -> Iterator[onnx.FunctionProto]:
    used = {node.op_type: node for node in model.graph if node.domain == DOMAIN}
    if SPECTRUM_CHOOSE.name in used:
        yield spectrum_choose(plan.llm.method.name, plan.llm.axis, plan.decoder_padding)
        yield keep_rows()
        yield spectrum_drop()
    along_rows = MERGE_COLUMNS.variants[0]
    if merge := used.get(MERGE_COLUMNS.name, used.get(along_rows)):
        names = [tensor.name for tensor in MERGE_COLUMNS.fused.inputs]
        copies = merge.inputs[names.index("copies")]
        assert copies is not None and copies.shape is not None
        yield orthogonal_merge(True, False, MERGE_COLUMNS.name)
        yield orthogonal_merge(False, True, along_rows)
        slots = int(copies.shape[-1]) // 2  # type: ignore[arg-type]
        yield merge_axis(plan.encoder.merge_mode, slots, plan.encoder.reads_padding)


def spectrum_prune(score: str, axis: Axis, padded: bool = False) -> onnx.FunctionProto:
    """Body that ranks with ``score`` along ``axis``; inputs and outputs as in docs/surgery.md.

    ``padded``: ``index`` marks padding (``spu.mark_padding``), which ranks below everything.
    """
    choosing = _choosing(score, axis, padded)
    return _body(SPECTRUM_PRUNE, TEXTS["prune constants"], choosing, TEXTS["keep"], TEXTS["kept normed"])


def spectrum_choose(score: str, axis: Axis, padded: bool = False) -> onnx.FunctionProto:
    """The first half of ``spectrum_prune``."""
    return _body(SPECTRUM_CHOOSE, TEXTS["prune constants"], _choosing(score, axis, padded))


def keep_rows() -> onnx.FunctionProto:
    """The second half of ``spectrum_prune``: from the places that stay to the rows of everything."""
    return _body(KEEP_ROWS, TEXTS["prune constants"], TEXTS["keep"])


def spectrum_drop() -> onnx.FunctionProto:
    """A prune that keeps nothing: the text alone goes on, and no score is computed."""
    return _body(SPECTRUM_DROP, TEXTS["drop"])


def _choosing(score: str, axis: Axis, padded: bool) -> str:
    """From the sequence and the norm to the places that stay; of padding places are negative (``spu.padding_last``)."""
    ranked = TEXTS["padding last" if padded else "all alike"]
    return TEXTS["choose"].format(filter=TEXTS[f"filter {axis}"], score=TEXTS[f"score {score}"], ranked=ranked)


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
    places = TEXTS[f"merge {'both axes' if columns and rows else 'columns' if columns else 'rows'}"]
    return _body(ORTHOGONAL_MERGE, TEXTS["merge constants"], *steps, places, name=name or merge_name(columns, rows))


def _call(tag: str, length: str, removed: str, names: list[str]) -> str:
    outputs = ", ".join(f"{tag}_{kind}" for kind, _ in _STATE)
    return (
        f"{outputs}, {tag}_into = luvc.MergeAxis <length: int = @{length}, removed: int = @{removed}>"
        f" ({', '.join(names)})"
    )


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
    ranked = TEXTS["beside pictures"]
    if padded:
        ranked = TEXTS["beside padding"].format(below=oim.BELOW_PADDING, half=oim.HALF)
    steps = (TEXTS["tables"], TEXTS["similar"], ranked, TEXTS["decide"], TEXTS[mode], TEXTS["move"])
    return _body(MERGE_AXIS, TEXTS["merge constants"], *steps, *_copies(slots))


def _copies(slots: int) -> Iterator[str]:
    """Slot j of n takes slot j of member floor(j * members / n)."""
    yield TEXTS["members"] + (TEXTS["several"] if slots > 1 else "")
    for slot in range(slots):
        yield TEXTS["share"].format(slot=slot, share=slot / slots) if slots > 1 else TEXTS["first"]
        yield TEXTS["slot"].format(slot=slot, start=2 * slot, end=2 * slot + 2)
    yield TEXTS["copies"].format(slots=", ".join(f"got{slot}" for slot in range(slots)))


def _body(schema: Schema, *texts: str, name: str = "") -> onnx.FunctionProto:
    """An operator of the domain ``luvc`` from ONNX's text form. Its nodes are named: profiles tell them apart."""
    operators = "\n".join(texts)
    function: onnx.FunctionProto = onnx.parser.parse_function(
        f'<domain: "luvc", opset_import: ["" : 23, "luvc" : 1]> {head(schema, name)} {{\n{operators}\n}}'
    )
    for index, node in enumerate(function.node):
        node.name = f"luvc.{function.name}.{node.op_type}.{index}"
    return function
