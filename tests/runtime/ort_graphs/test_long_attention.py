"""Attention over thousands of rows in tiles: the same numbers, a bounded memory, and what is left as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from luvc_export.runtime import memory
from luvc_export.runtime.ort_graphs.blocks import PATCHES, tiled

HEADS, WIDTH = 4, 16


def attention(rows: int, kind: int = TensorProto.FLOAT, mask: bool = False, **attributes: Any) -> bytes:
    """A model of one Attention [1, rows, HEADS * WIDTH]."""
    names = ["q", "k", "v", *["mask"] * mask]
    sizes = [[1, rows, HEADS * WIDTH]] * 3 + [[rows, rows]] * mask
    values = [helper.make_tensor_value_info(name, kind, size) for name, size in zip(names, sizes, strict=True)]
    facts = {"q_num_heads": HEADS, "kv_num_heads": HEADS, "scale": 0.3, "softcap": 0.0, **attributes}
    node = helper.make_node("Attention", names, ["out"], **facts)
    out = helper.make_tensor_value_info("out", kind, [1, rows, HEADS * WIDTH])
    opsets = [helper.make_opsetid("", 23)]
    return helper.make_model(
        helper.make_graph([node], "g", values, [out]), opset_imports=opsets, ir_version=11
    ).SerializeToString()


def result(data: bytes, rows: int) -> np.ndarray:
    """What a model gives for seeded rows."""
    draw = np.random.default_rng(0)
    feeds = {name: draw.standard_normal((1, rows, HEADS * WIDTH), np.float32) for name in "qkv"}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def test_tiles_give_the_same_numbers() -> None:
    plain = attention(PATCHES)
    changed = tiled(plain)
    onnx.checker.check_model(onnx.load_from_string(changed))
    assert [node.op_type for node in onnx.load_from_string(changed).graph.node] == ["MultiHeadAttention"]
    wanted, got = result(plain, PATCHES), result(changed, PATCHES)
    assert np.abs(got - wanted).max() < 1e-5 < 1e-2 < np.abs(wanted).max()


@pytest.mark.parametrize(
    ("rows", "others"),
    [
        (PATCHES - 1, {}),
        (PATCHES, {"mask": True}),
        (PATCHES, {"kind": TensorProto.FLOAT16}),
        (PATCHES, {"is_causal": 1}),
        (PATCHES, {"softcap": 5.0}),
        (PATCHES, {"kv_num_heads": 2}),
    ],
    ids=str,
)
def test_what_it_would_change_or_gains_nothing_stays(rows: int, others: dict[str, Any]) -> None:
    data = attention(rows, **others)
    assert tiled(data) is data


@pytest.mark.slow(beside="runtime/ort_graphs/test_long_attention.py::test_tiles_give_the_same_numbers")
def test_memory_no_longer_grows_with_the_square_of_rows(tmp_path: Path) -> None:
    """In a process each: products of 4 heads over 4,096 rows are 256 MiB."""
    peaks = []
    for name, data in (("plain", plain := attention(4096)), ("tiled", tiled(plain))):
        (tmp_path / name).write_bytes(data)
        words = [sys.executable, __file__, str(tmp_path / name)]
        peaks.append(int(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    assert peaks[0] > 256 * 2**20 > 4 * peaks[1], peaks


if __name__ == "__main__":
    begun = memory.peak_bytes() or 0
    result(Path(sys.argv[1]).read_bytes(), 4096)
    print((memory.peak_bytes() or 0) - begun)
