"""The script that runs in the other environment, here with a stand-in for the package it calls."""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from luvc_export.calibration.quantise.modelopt import worker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])]
    graph = helper.make_graph([], "graph", inputs, [])
    onnx.save(helper.make_model(graph), str(tmp_path / "graph.onnx"))
    np.savez(
        tmp_path / "inputs.npz",
        **{f"{n:06d}/{name}": np.full(n, n, np.int32) for n in (1, 2) for name in ("ids", "more")},
    )
    request = {"mode": "int8", "method": "max", "operators": ["MatMul"], "products": ["a.q+k.0", "a.q.1"]}
    (tmp_path / "request.json").write_text(json.dumps(request))
    return tmp_path


def test_the_request_is_what_modelopt_is_called_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    module = ModuleType("modelopt.onnx.quantization")
    module.quantize = lambda path, mode, **options: asked.update(path=path, mode=mode, **options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelopt", ModuleType("modelopt"))
    monkeypatch.setitem(sys.modules, "modelopt.onnx", ModuleType("modelopt.onnx"))
    monkeypatch.setitem(sys.modules, "modelopt.onnx.quantization", module)
    monkeypatch.setattr(metadata, "version", lambda name: "0.47.0")
    worker.run(folder)
    assert (asked["mode"], asked["calibration_method"], asked["op_types_to_quantize"]) == ("int8", "max", ["MatMul"])
    # modelopt takes patterns, and matches them at the beginning of a name alone.
    hits = [
        [bool(re.match(one, name)) for name in ("a.q+k.0", "a.q+k.01", "a.q.1", "abq.1")]
        for one in asked["nodes_to_quantize"]
    ]
    assert hits == [[True, False, False, False], [False, False, True, False]]
    reader = asked["calibration_data_reader"]
    for _ in range(2):
        assert list(reader.get_first()) == ["ids"]
        calls = [reader.get_next(), reader.get_next()]
        assert [(call["ids"].tolist(), call["ids"].dtype) for call in calls] == [([1], np.int64), ([2, 2], np.int64)]
        assert reader.get_next() is None
        reader.rewind()


@pytest.mark.parametrize(("version", "refusal"), [("0.46.3", "too old"), ("0.9", "too old"), (None, "not installed")])
def test_a_missing_or_old_modelopt_ends_the_worker(
    version: str | None, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(metadata, "version", find)
    with pytest.raises(SystemExit, match=refusal):
        worker.version()


@pytest.mark.parametrize("version", ["0.47.0", "0.48.1rc2", "1.0"])
def test_newer_ones_are_let_through(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert worker.version() == version
