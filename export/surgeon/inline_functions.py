"""Fused nodes without a kernel on the target are replaced by their bodies, shapes and types inferred anew.

ONNX Runtime inlines functions itself when it loads a graph; doing it here lets later passes fold what attributes make
constant, and TensorRT 10.3 reads no functions.

requires: a fused node whose kernel the target lacks, on a target that reads no functions.
apply: bodies in place of calls, nested ones too. The arithmetic is the body's: bit-equal.
ensures: every fused node left has a plug-in, or the target reads functions.
must not touch: operators the target has plug-ins for.
"""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx.shape_inference

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import DOMAIN, Surgery


def requires(surgery: Surgery) -> str | None:
    """Something to inline."""
    fused = {node.op for node in surgery.graph.nodes if node.domain == DOMAIN}
    if not fused:
        return "there is no fused node"
    if surgery.target.functions:
        return "the target reads ONNX functions"
    if fused <= surgery.target.plugins:
        return "the target has plug-ins for every fused node"
    return None


def apply(surgery: Surgery) -> int:
    """Inline, then infer shapes (of the graph only: external weights are not read)."""
    before = [node.op for node in surgery.graph.nodes if node.domain == DOMAIN]
    model = surgery.close()
    kept = [(DOMAIN, name) for name in surgery.target.plugins]
    model = onnx.inliner.inline_selected_functions(model, kept, exclude=True)
    for node in model.graph.node:
        if not node.metadata_props:
            node.metadata_props.add(key="luvc.pass", value=surgery.running)
    surgery.reload(onnx.shape_inference.infer_shapes(model, data_prop=True))
    return sum(op not in surgery.target.plugins for op in before)


def ensures(surgery: Surgery, fired: int) -> None:
    """No fused node without a kernel.

    Raises:
        CheckFailed: Names the operators.
    """
    left = {node.op for node in surgery.graph.nodes if node.domain == DOMAIN} - surgery.target.plugins
    if left and not surgery.target.functions:
        raise CheckFailed("fused nodes are left that the target cannot run", got=sorted(left))
