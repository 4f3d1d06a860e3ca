"""The gated delta rule in chunks, in torch and as ONNX, against transformers' rule row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

from luvc_export.export.llm.states import delta_rule
from luvc_export.export.llm.states.delta_rule import CHUNK, Rows
from luvc_export.export.surgeon.fused import delta_body

#: Rows of a call: a step, part of a chunk, a whole one, one row more, chunks without a partner at one level or two.
COUNTS = (1, 3, CHUNK, CHUNK + 1, 3 * CHUNK, 4 * CHUNK + 3, 5 * CHUNK + 1)
SIZES = (2, 2, 16, 12)
#: Relative L2: fp32, sums in another order.
LIMIT = 5e-6


def some(count: int, alike: bool, batch: int = SIZES[0]) -> tuple[Rows, Tensor]:
    """Rows and a state; ``alike``: keys that differ by a thousandth, hardly any decay, whole corrections."""
    draw, (_, heads, key_size, value_size) = torch.Generator().manual_seed(count), SIZES
    query, key = (torch.randn(batch, heads, count, key_size, generator=draw) for _ in range(2))
    key = key[:, :, :1] + 1e-3 * key if alike else key
    query, key = (part * torch.rsqrt((part * part).sum(-1, keepdim=True) + 1e-6) for part in (query, key))
    value = torch.randn(batch, heads, count, value_size, generator=draw)
    decay, beta = (torch.rand(batch, heads, count, generator=draw) for _ in range(2))
    decay, beta = (-0.01 * decay, 0.9 + 0.1 * beta) if alike else (-decay, beta)
    state = torch.randn(batch, heads, key_size, value_size, generator=draw)
    return Rows(query * key_size**-0.5, key, value, decay, beta), state


def row_by_row(rows: Rows, state: Tensor) -> tuple[Tensor, Tensor]:
    """transformers' rule, which scales queries itself."""
    query, key, value, decay, beta = (part.transpose(1, 2) for part in rows)
    options: dict[str, Any] = {"g": decay, "beta": beta, "initial_state": state, "output_final_state": True}
    out, after = torch_recurrent_gated_delta_rule(query * query.shape[-1] ** 0.5, key, value, **options)
    return out.transpose(1, 2), after


def apart(actual: Any, expected: Tensor) -> float:
    """Relative L2."""
    return float((torch.as_tensor(actual) - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def graph() -> onnxruntime.InferenceSession:
    ranks = (4, 4, 4, 3, 3, 4)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}{axis}" for axis in range(rank)])
        for name, rank in zip(delta_body.INPUTS, ranks, strict=False)
    ]
    inputs.append(helper.make_tensor_value_info("order", TensorProto.INT64, ["batch", "rows"]))
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}{axis}" for axis in range(4)])
        for name in delta_body.OUTPUTS
    ]
    node = helper.make_node(delta_rule.NAME, delta_body.INPUTS, delta_body.OUTPUTS, domain=delta_rule.DOMAIN)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(delta_rule.DOMAIN, 1)]
    built = helper.make_graph([node], "rule", inputs, outputs)
    functions = [delta_body.gated_delta_rule(*SIZES[1:])]
    model = helper.make_model(built, functions=functions, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("count", COUNTS)
def test_chunks_are_the_rule_row_by_row(count: int, alike: bool, graph: onnxruntime.InferenceSession) -> None:
    rows, state = some(count, alike)
    expected, expected_after = row_by_row(rows, state)
    order = torch.zeros(SIZES[0], count, dtype=torch.int64)
    out, after = delta_rule.gated_delta_rule(rows, state, order)
    assert apart(out, expected) < LIMIT and apart(after, expected_after) < LIMIT
    arrays = [part.numpy() for part in (*rows, state, order)]
    out, after = graph.run(None, dict(zip(delta_body.INPUTS, arrays, strict=True)))
    assert out.shape == expected.shape and apart(out, expected) < LIMIT and apart(after, expected_after) < LIMIT


def test_padding_changes_no_state(graph: onnxruntime.InferenceSession) -> None:
    rows, state = some(40, alike=False)
    real = (torch.arange(40) < 30).float()
    padded = rows._replace(decay=rows.decay * real, beta=rows.beta * real)
    _, expected = row_by_row(Rows(*(part[:, :, :30] for part in rows)), state)
    arrays = [part.numpy() for part in (*padded, state)]
    feeds = dict(zip(delta_body.INPUTS, [*arrays, np.zeros((SIZES[0], 40), np.int64)], strict=True))
    assert apart(graph.run(None, feeds)[1], expected) < LIMIT


def test_powers_of_the_matrix_are_lost_where_keys_are_alike() -> None:
    """Why the triangle is inverted by blocks: (I + A)^-1 as the product of I + (-A)^(2^k) is far off in fp32."""
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.float64).tril(-1) * 0.999
    identity = torch.eye(CHUNK)
    exact = torch.linalg.solve_triangular(torch.eye(CHUNK) + lower, torch.eye(CHUNK).double(), upper=False)
    power, product = -lower.float(), identity - lower.float()
    for _ in range(5):
        power = power @ power
        product = product @ (identity + power)
    assert apart(delta_rule.unit_lower_inverse(lower.float()).double(), exact) < LIMIT
    assert apart(product.double(), exact) > 1


def test_a_row_more_is_another_state() -> None:
    """Sabotage: what the comparison above would see."""
    rows, state = some(CHUNK + 1, alike=False)
    _, expected = row_by_row(rows, state)
    _, short = row_by_row(Rows(*(part[:, :, :CHUNK] for part in rows)), state)
    assert apart(short, expected) > 100 * LIMIT
