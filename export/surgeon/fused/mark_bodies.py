"""Bodies of the marks in a traced graph, so that it runs as it is and says what surgery must keep."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from luvc_export.core.operators import MERGE_COLUMNS, SPECTRUM_CHOOSE
from luvc_export.core.plan import Plan
from luvc_export.export.surgeon.fused import merge_body, prune_body
from luvc_export.export.surgeon.graph import DOMAIN


def attach(model: ir.Model, plan: Plan) -> None:
    """Give ``model``, traced with marks, their bodies as functions; one without marks stays as it is."""
    for body in _bodies(model, plan):
        function = ir.from_proto(body)
        model.functions[function.identifier()] = function
        model.opset_imports[body.domain] = 1


def _bodies(model: ir.Model, plan: Plan) -> Iterator[onnx.FunctionProto]:
    used = {node.op_type: node for node in model.graph if node.domain == DOMAIN}
    if SPECTRUM_CHOOSE.name in used:
        yield prune_body.spectrum_choose(plan.llm.method.name, plan.llm.axis, plan.decoder_padding)
        yield prune_body.keep_rows()
        yield prune_body.spectrum_drop()
    along_rows = MERGE_COLUMNS.variants[0]
    if merge := used.get(MERGE_COLUMNS.name, used.get(along_rows)):
        names = [tensor.name for tensor in MERGE_COLUMNS.fused.inputs]
        copies = merge.inputs[names.index("copies")]
        assert copies is not None and copies.shape is not None
        yield merge_body.orthogonal_merge(True, False, MERGE_COLUMNS.name)
        yield merge_body.orthogonal_merge(False, True, along_rows)
        slots = int(copies.shape[-1]) // 2  # type: ignore[arg-type]
        yield merge_body.merge_axis(plan.encoder.merge_mode, slots, plan.encoder.reads_padding)
