"""Graphs for tools of others equal the bundle's; what onnxslim and ONNX Runtime's quantiser make of them loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import version_converter
from slow_cases import slow_but
from surgery_harness import Traced, cut, inputs, run

from luvc_export.errors import UsageError
from luvc_export.export.surgeon.fused import plain_graph

HALVES = ("vision", "decoder")


def loaded(model: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("half", HALVES)
def test_it_is_the_same_graph_without_functions(traced: Traced, half: str) -> None:
    model = cut(getattr(traced, half))
    bare = plain_graph.plain(model)
    assert model.functions and not bare.functions and {one.domain for one in bare.opset_import} == {""}
    constants = [node for node in bare.graph.node if node.op_type == "Constant"]
    assert {one.name for node in constants for one in node.attribute} <= {"value", "value_string"}
    for feed in inputs(model, traced.plan).values():
        before, after = run(model, feed), run(bare, feed)
        assert list(before) == list(after)
        assert all(np.allclose(before[name], after[name], rtol=1e-5, atol=1e-5) for name in before)


@pytest.mark.parametrize("half", slow_but(["decoder"], HALVES))
def test_tools_make_models_that_load(traced: Traced, half: str, tmp_path: Path) -> None:
    onnxslim = pytest.importorskip("onnxslim")
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(plain_graph.plain(cut(getattr(traced, half))), tmp_path / "plain.onnx")
    loaded(onnxslim.slim(str(tmp_path / "plain.onnx")))
    loaded(version_converter.convert_version(onnx.load(tmp_path / "plain.onnx"), 24))
    quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "codes.onnx", op_types_to_quantize=["MatMul"])
    codes = onnx.load(tmp_path / "codes.onnx")
    loaded(codes)
    kinds = [node.op_type for node in codes.graph.node]
    assert kinds.count("MatMulInteger") > 4


def test_the_command(traced: Traced, tmp_path: Path) -> None:
    graph, output = tmp_path / "decoder.onnx", tmp_path / "plain.onnx"
    onnx.save(cut(traced.decoder), graph)
    command = [sys.executable, "-m", "luvc_export.export.surgeon.fused.plain_graph", str(graph), str(output)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0
    onnxruntime.InferenceSession(output)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "something is there already" in again.stderr and "name a new file" in again.stderr
    with pytest.raises(UsageError, match=r"no graph can be read(.|\n)*absent.onnx(.|\n)*decoder.safe.onnx"):
        plain_graph.write(tmp_path / "absent.onnx", tmp_path / "new.onnx")
