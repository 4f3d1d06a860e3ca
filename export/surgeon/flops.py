"""FLOPs and bytes of a graph by layer, from shapes: what ``inspect --surgery`` shows.

A multiply-add counts as 2. Only products and attention count as FLOPs; bytes are the weights a layer reads and the
activations its products read and write. Symbolic sizes are one image and ``TEXT`` text tokens.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

import onnx

from luvc_export.core.plan import Plan

TEXT = 64
_LAYER = re.compile(r"(?:^|\.)(layers|blocks|layer|h)\.(\d+)\.")
_BYTES = {1: 4, 10: 2, 16: 2, 6: 4, 7: 8, 9: 1, 2: 1, 3: 1, 11: 8}


def by_layer(model: onnx.ModelProto, plan: Plan) -> tuple[dict[str, Any], ...]:
    """Rows {layer, nodes, flops, weight_bytes, activation_bytes}; what belongs to no layer is ``other``."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    known = _shapes(inferred, plan)
    stored = {t.name: _BYTES.get(t.data_type, 4) * prod(t.dims) for t in model.graph.initializer}
    origin: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    here = "other"
    for node in model.graph.node:
        named = [m for name in node.input for m in [_LAYER.search(origin.get(name, name))] if m]
        weights = all(name in stored or name in origin for name in node.input if name)
        if weights and node.input:
            for out in node.output:
                origin[out] = next(
                    (origin.get(n, n) for n in node.input if _LAYER.search(origin.get(n, n))), node.input[0]
                )
            continue
        if named:
            here = f"{named[0].group(1)}.{int(named[0].group(2))}"
        elif "lm_head" in " ".join(origin.get(name, name) for name in node.input):
            here = "other"
        row = rows.setdefault(here, {"layer": here, "nodes": 0, "flops": 0, "weight_bytes": 0, "activation_bytes": 0})
        row["nodes"] += 1
        row["flops"] += _flops(node, known)
        if node.op_type in ("MatMul", "Gemm", "Attention", "RMSNormalization", "LayerNormalization"):
            row["activation_bytes"] += sum(
                4 * prod(known[name]) for name in (*node.input, *node.output) if name in known and name not in origin
            )
        row["weight_bytes"] += sum(stored.get(_root(name, origin, stored), 0) for name in node.input)
    return tuple(rows.values())


def _root(name: str, origin: dict[str, str], stored: dict[str, int]) -> str:
    return name if name in stored else origin.get(name, "")


def _flops(node: onnx.NodeProto, known: dict[str, list[int]]) -> int:
    shapes = [known.get(name) for name in node.input]
    if node.op_type in ("MatMul", "Gemm") and shapes[0] and node.output[0] in known:
        return 2 * prod(known[node.output[0]]) * shapes[0][-1]
    if node.op_type == "Attention" and shapes[0] and shapes[1]:
        past = shapes[4][-2] if len(shapes) > 4 and shapes[4] else 0
        return 4 * prod(shapes[0]) * (shapes[1][-2] + past)
    return 0


def _shapes(model: onnx.ModelProto, plan: Plan) -> dict[str, list[int]]:
    """Shapes with numbers for symbols: one batch row, one image, no past."""
    symbols = _symbols(model, plan)
    shapes = {}
    for info in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = []
        for dim in info.type.tensor_type.shape.dim:
            size = dim.dim_value if dim.HasField("dim_value") else evaluate(dim.dim_param, symbols)
            dims.append(size)
        if all(size is not None for size in dims):
            shapes[info.name] = [int(size) for size in dims if size is not None]
    return shapes


def _symbols(model: onnx.ModelProto, plan: Plan) -> dict[str, int]:
    wanted = {"image": [1], "visual_embeds": [1, 1], "input_ids": [1, TEXT], "logits_indices": [1, 1]}
    symbols: dict[str, int] = {}
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        sizes = wanted.get(info.name, [1, 0, 0, 0] if info.name.startswith("past_key") else [])
        for dim, size in zip(dims, sizes, strict=False):
            if dim.dim_param:
                symbols.setdefault(dim.dim_param, size)
    return symbols


def evaluate(text: str, symbols: dict[str, int]) -> int | None:
    """A sum of products of symbols and numbers, as the exporter writes sizes."""
    total = 0
    for term in text.replace("-", "+-").split("+"):
        factor = 1
        for part in term.strip().split("*"):
            part = part.strip()
            sign = -1 if part.startswith("-") else 1
            part = part.lstrip("-").strip()
            if part.isdigit():
                factor *= sign * int(part)
            elif part in symbols:
                factor *= sign * symbols[part]
            else:
                return None
        total += factor
    return total
