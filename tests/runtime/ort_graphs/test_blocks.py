"""Products of 8 bits in blocks: what they give, whose memory goes back, and what is left as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from luvc_export.runtime.ort_graphs import blocks as module
from luvc_export.runtime.ort_graphs.blocks import Blocks, in_blocks
from luvc_export.runtime.product_check import check
from luvc_export.runtime.product_check.check import onnxruntime_blocks
from luvc_export.runtime.product_check.graph import INPUT, coded_products
from luvc_export.runtime.speed_probe.one_row import timed, ways


@pytest.fixture(autouse=True)
def _computed_anew() -> Iterator[None]:
    onnxruntime_blocks.cache_clear()
    yield
    onnxruntime_blocks.cache_clear()


def result_of(blocks: Blocks, early: bool = False) -> np.ndarray:
    """What the model gives for the coded products' activations; ``early``: codes are forgotten too soon."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    blocks.add_weights(onnxruntime, options)
    if early:
        blocks.forget()
    session = onnxruntime.InferenceSession(blocks.graph, options, providers=["CPUExecutionProvider"])
    blocks.forget()
    return np.asarray(session.run(None, {INPUT: coded_products(8, 256, 192).given})[0])


def error(result: np.ndarray) -> float:
    exact = coded_products(8, 256, 192).exact
    return float(np.abs(result - exact).max() / np.abs(exact).max())


def test_results_are_those_of_the_codes_after_their_memory_went_back() -> None:
    blocks = in_blocks(coded_products(8, 256, 192).graph, lambda name: None)
    assert [node.op_type for node in onnx.load_from_string(blocks.graph).graph.node] == ["MatMulNBits"] * 2
    assert {name: array.shape for name, array in blocks.arrays.items() if array.dtype == np.uint8} == {
        "w0.blocks": (192, 2, 128),
        "w1.blocks": (256, 3, 64),
    }
    assert error(result_of(blocks)) < 0.02
    assert not any(array.any() for array in blocks.arrays.values() if array.dtype == np.uint8)


def test_codes_that_are_forgotten_or_turned_wrong_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage, and what the check and the probe make of it."""
    coded = coded_products(8, 256, 192)
    assert error(result_of(in_blocks(coded.graph, lambda name: None), early=True)) > 0.5
    honest, open_way = Blocks.add_weights, ways(1, "q8")["openvino+cpu"][0]
    assert timed(open_way, coded) is not None

    def forgetting(self: Blocks, library: Any, options: Any) -> None:
        honest(self, library, options)
        self.forget()

    monkeypatch.setattr(Blocks, "add_weights", forgetting)
    assert timed(open_way, coded) is None, "checked before they were forgotten"
    onnxruntime_blocks.cache_clear()
    assert not onnxruntime_blocks() and timed(open_way, coded) is not None, "one range for a call's only row"
    monkeypatch.undo()

    def forgetting_some(self: Blocks, library: Any, options: Any) -> None:
        honest(self, library, options)
        if any(array.shape[-1] == 32 for array in self.arrays.values() if array.dtype == np.uint8):
            self.forget()

    monkeypatch.setattr(Blocks, "add_weights", forgetting_some)
    onnxruntime_blocks.cache_clear()
    assert not onnxruntime_blocks(), "blocks of a size that these products have not"
    monkeypatch.undo()
    monkeypatch.setattr(module.np, "repeat", lambda scale, *rest, **how: np.zeros((scale.size, rest[0]), np.float32))
    assert error(result_of(in_blocks(coded.graph, lambda name: None))) > 0.5


def test_a_row_that_sticks_out_takes_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what has one range for all rows of a call is no product in blocks."""
    assert onnxruntime_blocks()
    onnxruntime_blocks.cache_clear()
    monkeypatch.setattr(check, "in_blocks", lambda data, read: Blocks(data))
    assert not onnxruntime_blocks()


@pytest.mark.parametrize("change", ["zero", "inner", "scale", "biased"])
def test_what_a_block_cannot_say_is_left(change: str) -> None:
    inner = 48 if change == "inner" else 64
    values = {"w": np.zeros((inner, 32), np.uint8), "s": np.ones(1 if change == "scale" else 32, np.float32)}
    values["z"] = np.array(127 if change == "zero" else 128, np.uint8)
    values |= {"b": np.ones(32, np.float32)} if change == "biased" else {}
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in ("x", "y")]
    node = helper.make_node("DynamicQuantizeMatMul", ["x", *values], ["y"], domain="com.microsoft")
    tensors = [numpy_helper.from_array(array, name) for name, array in values.items()]
    data = helper.make_model(helper.make_graph([node], "one", rows[:1], rows[1:], tensors)).SerializeToString()
    assert in_blocks(data, lambda name: None) == Blocks(data)
