"""Graphs for TensorRT hold only operators that the newest published list of its parser has, in types it takes.

A pack of 10.3 is checked against that version's list (export/surgeon/operators.json); what it holds must be on the list
of 11.1 too, or a board that is brought up to date would refuse it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest

from luvc_export.export.surgeon import allow_list
from luvc_export.pipeline import prepare_build

LISTED = json.loads((Path(__file__).parent / "onnx_operators.json").read_text(encoding="utf-8"))
OPERATORS: dict[str, set[str]] = {name: set(types.split()) for name, types in LISTED["operators"].items()}
T = onnx.TensorProto
NAMES = {T.FLOAT: "FP32", T.FLOAT16: "FP16", T.BFLOAT16: "BF16", T.INT32: "INT32", T.INT64: "INT64", T.BOOL: "BOOL"}
NAMES |= {T.UINT8: "UINT8", T.INT8: "INT8", T.FLOAT8E4M3FN: "FP8"}
#: Between Q and DQ the list gives one side of the product, ours both.
PAIRED = {"QuantizeLinear", "DequantizeLinear"}


def lacking(operators: Mapping[str, set[str]]) -> Iterator[str]:
    """What the list of 10.3 allows and ``operators`` does not."""
    for name, entry in allow_list.ALLOWED.items():
        if name not in operators:
            yield name
        elif name not in PAIRED and not {NAMES[kind] for kind in entry.types} <= operators[name]:
            yield f"{name}: {sorted({NAMES[kind] for kind in entry.types} - operators[name])}"


def test_what_10_3_takes_the_newest_list_takes() -> None:
    assert not list(lacking(OPERATORS))
    assert len(allow_list.ALLOWED) == 69 and len(allow_list.FORBIDDEN) == 25
    assert not allow_list.FORBIDDEN & set(allow_list.ALLOWED)


def test_a_list_without_an_operator_or_a_type_is_caught() -> None:
    assert list(lacking({name: types for name, types in OPERATORS.items() if name != "Where"})) == ["Where"]
    assert list(lacking(OPERATORS | {"TopK": {"FP32"}})) == ["TopK: ['BF16', 'FP16', 'INT32', 'INT64']"]


def broken(model: onnx.ModelProto) -> Iterator[str]:
    """Nodes the newest list does not take."""
    for node in model.graph.node:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        used = [name for name in node.input if name]
        if node.domain or node.op_type not in OPERATORS:
            yield f"{node.op_type}: not on the list"
        elif node.op_type == "Attention" and (len(used) > 4 or len([o for o in node.output if o]) > 1):
            yield "Attention: past, present or a length"
        elif node.op_type == "TensorScatter" and attributes.get("axis") != -2:
            yield "TensorScatter: another axis"
        elif node.op_type == "TopK" and not attributes.get("sorted", 1):
            yield "TopK: not sorted"


@pytest.mark.parametrize("target", ["h100", "jetson-agx-orin-jp62"])
def test_graphs_of_both_dialects_are_on_the_newest_list(demo_bundle: Any, target: str) -> None:
    graphs = prepare_build(demo_bundle, target, "thirds").graphs
    models = [onnx.load_model_from_string(graph.data) for graph in graphs]
    assert not [problem for model in models for problem in broken(model)]
    node = next(node for node in models[1].graph.node if node.op_type in ("TensorScatter", "TopK"))
    node.op_type = "Unique"
    assert list(broken(models[1])) == ["Unique: not on the list"]
