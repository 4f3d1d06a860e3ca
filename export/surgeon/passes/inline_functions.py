"""Fused nodes that are left are replaced by their bodies, shapes and types inferred anew.

ONNX Runtime inlines functions itself when it loads a graph; doing it here lets later passes fold what attributes make
constant. TensorRT 10.3 reads no functions, and where it does, a function goes before a plugin of the same name
(ModelImporter.cpp of github.com/onnx/onnx-tensorrt), so a graph that calls plugins must carry none.

requires: a fused node, on a target that reads no functions.
apply: bodies in place of calls, nested ones too. The arithmetic is the body's: bit-equal.
ensures: no fused node is left, unless the target reads functions.
must not touch: plugin nodes.
"""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx.shape_inference

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import DOMAIN, Surgery

ORDER = 100


def requires(surgery: Surgery) -> str | None:
    """Something to inline."""
    if not _fused(surgery):
        return "there is no fused node"
    return "the target reads ONNX functions" if surgery.target.functions else None


def apply(surgery: Surgery) -> int:
    """Inline, then infer shapes (of the graph only: external weights are not read)."""
    count = len(_fused(surgery))
    model = onnx.inliner.inline_local_functions(surgery.close())
    for node in model.graph.node:
        if not node.metadata_props:
            node.metadata_props.add(key="luvc.pass", value=surgery.running)
    surgery.reload(onnx.shape_inference.infer_shapes(model, data_prop=True))
    return count


def ensures(surgery: Surgery, fired: int) -> None:
    """No function is left that the target does not read.

    Raises:
        CheckFailed: Names the operators.
    """
    if (left := _fused(surgery)) and not surgery.target.functions:
        raise CheckFailed("fused nodes are left that the target cannot run", got=sorted(set(left)))


def _fused(surgery: Surgery) -> list[str]:
    return [node.op for node in surgery.graph.nodes if node.domain == DOMAIN]
