"""What the ONNX parser of TensorRT 10.3 takes: operator, newest version, attributes, element types (operators.json).

Source: docs/operators.md of github.com/onnx/onnx-tensorrt at branch 10.1-GA, commit
96e781103cfc4adf4a6bb557e94bac8e693f6f4c (17 June 2024), the newest published one before TensorRT 10.3 (August 2024);
what 10.1 takes 10.3 takes. It reads opset 9 to 20. Listed is the part of it that graphs of this project use, with the
restrictions that file states: TopK sorted, K below 3840; integer Clip absent; UINT8 only as network input; INT8 and
FP8 only between Q and DQ (it reads INT4 too, which opset 20 cannot say). A TensorRT-RTX build proves nothing for
10.3: its parser is newer. All of it is on the list of 11.1 as well, the newest there is
(tests/engines/test_operators.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from luvc_export.core.operators import DOMAIN as PLUGIN_DOMAIN
from luvc_export.core.target import PRIMITIVE_OPSET

_LISTS = json.loads(Path(__file__).with_name("operators.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Entry:
    """Newest version of an operator, the attributes that may be set, the element types of its data (ONNX numbers)."""

    version: int
    attributes: frozenset[str]
    types: frozenset[int]


def _entry(version: int, types: str, attributes: str = "") -> Entry:
    kinds = frozenset(onnx.TensorProto.DataType.Value(kind) for kind in types.split())
    return Entry(version, frozenset(attributes.split()), kinds)


ALLOWED = {name: _entry(**entry) for name, entry in _LISTS["tensorrt_10_3"].items()}
#: Data-dependent sizes, control flow, sequences, and what TensorRT lacks (docs/surgery.md): for no target.
FORBIDDEN = frozenset[str](_LISTS["forbidden"])


def problems(model: onnx.ModelProto) -> Iterator[str]:
    """One line for everything in ``model`` the parser does not take."""
    opset = {item.domain: item.version for item in model.opset_import}.get("", 0)
    if opset > PRIMITIVE_OPSET:
        yield f"opset {opset}: the parser reads up to {PRIMITIVE_OPSET}"
        return
    types = _types(model)
    for node in model.graph.node:
        where = f"{node.op_type} ({node.name})"
        if node.domain == PLUGIN_DOMAIN:  # what a creator reads, ``plugin_node`` checks
            continue
        if node.domain or node.op_type not in ALLOWED:
            yield f"{where}: not on the list"
            continue
        entry = ALLOWED[node.op_type]
        version = onnx.defs.get_schema(node.op_type, opset, "").since_version
        if version > entry.version:
            yield f"{where}: version {version}, the list has {entry.version}"
        for attribute in node.attribute:
            if attribute.name not in entry.attributes:
                yield f"{where}: attribute {attribute.name}"
            elif attribute.name == "sorted" and not attribute.i:
                yield f"{where}: sorted must be 1"
        kind = types.get(node.input[1 if node.op_type == "Where" else 0]) if node.input else None
        if kind is not None and kind not in entry.types:
            yield f"{where}: {onnx.TensorProto.DataType.Name(kind)} data"


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types by tensor, inferred."""
    inferred = onnx.shape_inference.infer_shapes(model)
    infos = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    return {info.name: info.type.tensor_type.elem_type for info in infos} | {
        tensor.name: tensor.data_type for tensor in inferred.graph.initializer
    }
