"""One set of tensors through three forms: the saved Python results, the fused node's ONNX body, the host library.

ONNX Runtime promises no winner among equal scores and ranks NaN its own way, so cases of those are the library's alone
(plugins/tests/cases_test.cpp), and so are cases with padding, whose bodies tests/export/surgeon/test_padded_graphs.py
runs. It has no bfloat16 on a CPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from case_file import CASES, Case, load
from native_kernels import SCORES, Native

from luvc_export.export.surgeon.fused import bodies

PRUNES = sorted(
    path for path in CASES.glob("prune_*.bin") if not any(w in path.name for w in ("nan", "equal", "bfloat", "padded"))
)
MERGES = sorted(path for path in CASES.glob("merge_*.bin") if not any(w in path.name for w in ("bfloat", "padd")))
TEXT = 3


def session(
    node: onnx.NodeProto, functions: list[onnx.FunctionProto], arrays: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """Outputs of one fused node in ONNX Runtime."""
    kind = onnx.helper.np_dtype_to_tensor_dtype
    inputs = [onnx.helper.make_tensor_value_info(n, kind(a.dtype), list(a.shape)) for n, a in arrays.items()]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output]
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("luvc", 1)]
    graph = onnx.helper.make_graph([node], "one", inputs, outputs)
    model = onnx.helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    runtime = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(runtime.run(None, arrays))


def body_of_prune(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Kept rows [G, K, D] and places [G, K] of the fused node, with text rows after the images."""
    groups, tokens, channels, keep = (case.number(name) for name in ("groups", "tokens", "channels", "keep"))
    score = SCORES[case.number("score")]
    node = onnx.helper.make_node(
        "SpectrumPrune",
        ["hidden", "weight", "basis", "order", "cos", "sin", "index"],
        ["kept_hidden", "kept_order", "kept_cos", "kept_sin", "kept_index", "kept_normed", "chosen"],
        domain="luvc",
        tokens=tokens,
        keep=keep,
        score=score,
        axis="token",
        epsilon=float(case.keys["epsilon"]),
    )
    values = case.tensors["values"].reshape(1, groups * tokens, channels).numpy()
    rows = groups * tokens + TEXT
    arrays = {
        "hidden": np.concatenate([values, np.zeros((1, TEXT, channels), values.dtype)], 1),
        "weight": case.tensors["weight"].numpy(),
        "basis": case.tensors["basis"].reshape(tokens, -1).numpy(),
        "order": np.arange(rows)[None],
        "cos": np.zeros((1, rows, 2), np.float32),
        "sin": np.zeros((1, rows, 2), np.float32),
        "index": np.broadcast_to(np.arange(tokens), (1, groups, tokens)).copy(),
    }
    kept, order, _, _, index, _, chosen = session(node, [bodies.spectrum_prune(score, "token")], arrays)
    assert np.array_equal(order[0, groups * keep :], np.arange(groups * tokens, rows))
    assert np.array_equal(index, chosen)
    return torch.tensor(kept)[0, : groups * keep].reshape(groups, keep, channels), torch.tensor(chosen)[0]


def clear(scores: torch.Tensor, keep: int, half: bool) -> torch.Tensor:
    """Tokens [G, N] whose score is further from the last kept one than rounding moves it."""
    if keep in (0, scores.shape[-1]):
        return torch.ones_like(scores, dtype=torch.bool)
    last = scores.sort(dim=-1, descending=True).values[:, keep - 1 : keep]
    return (scores - last).abs() > (1e-3 if half else 2e-5) * last.abs() + 2e-6


@pytest.mark.parametrize("path", PRUNES, ids=lambda path: path.stem)
def test_prune(native_library: Native, path: Path) -> None:
    case = load(path)
    groups, tokens, channels, keep = (case.number(name) for name in ("groups", "tokens", "channels", "keep"))
    values = case.tensors["values"].reshape(groups, tokens, channels)
    basis = case.tensors["basis"].reshape(tokens, -1)
    kept, indices = (
        torch.empty(groups, keep, channels, dtype=values.dtype),
        torch.empty(groups, keep, dtype=torch.int64),
    )
    if keep:  # an empty tensor has no address to write to
        native_library.spectrum_prune(
            values,
            case.tensors["weight"],
            basis,
            kept,
            indices,
            score=SCORES[case.number("score")],
            epsilon=float(case.keys["epsilon"]),
        )
    body_kept, body_indices = body_of_prune(case)
    decided = clear(case.tensors["scores"].reshape(groups, tokens), keep, values.dtype == torch.float16)
    assert decided.float().mean() > 0.9
    for group in range(groups):
        expected = case.tensors["kept"].reshape(groups, keep)[group]
        for rows, places in ((kept[group], indices[group]), (body_kept[group], body_indices[group])):
            assert places.tolist() == sorted(places.tolist())
            assert set(places[decided[group][places]].tolist()) == set(expected[decided[group][expected]].tolist())
            assert torch.equal(rows, values[group, places])


@pytest.mark.parametrize("path", MERGES, ids=lambda path: path.stem)
def test_merge(native_library: Native, path: Path) -> None:
    case = load(path)
    batch, height, width, channels = (case.number(name) for name in ("batch", "height", "width", "channels"))
    columns, rows = case.number("removed_columns"), case.number("removed_rows")
    grid, merged = (batch, height, width), (batch, height - rows, width - columns)
    values = case.tensors["values"].reshape(*grid, channels)
    sizes, positions = case.tensors["sizes"].reshape(grid), case.tensors["positions"].reshape(*grid, 2)
    expected = (
        case.tensors["merged_values"].reshape(*merged, channels),
        case.tensors["merged_sizes"].reshape(merged),
        case.tensors["merged_positions"].reshape(*merged, 2),
    )
    into = case.tensors["merged_into"].reshape(batch, height * width)

    native = [torch.empty_like(tensor) for tensor in expected]
    native_into = torch.empty(batch, height * width, dtype=torch.int32)
    native_library.orthogonal_merge(values, sizes, positions, *native, merged_into=native_into)

    name = bodies.merge_name(columns > 0, rows > 0)
    node = onnx.helper.make_node(
        name,
        ["x", "sizes", "positions", "copies"],
        ["merged_x", "merged_sizes", "merged_positions", "merged_copies", "places"],
        domain="luvc",
        **{"height": height, "width": width, "rows": rows, "columns": columns, "mode": "mean"},
    )
    arrays = {"x": values.numpy(), "sizes": sizes.numpy(), "positions": positions.numpy(), "copies": positions.numpy()}
    functions = [bodies.orthogonal_merge(columns > 0, rows > 0), bodies.merge_axis("mean", 1)]
    *body, _, places = (torch.tensor(array) for array in session(node, functions, arrays))

    step = 2**-10 if values.dtype == torch.float16 else 1e-5
    for outputs, places_of in ((native, native_into), (body, places)):
        assert torch.equal(places_of.long(), into.long())
        for ours, theirs in zip(outputs, expected, strict=True):
            torch.testing.assert_close(ours.float(), theirs.float(), rtol=step, atol=1e-5)
