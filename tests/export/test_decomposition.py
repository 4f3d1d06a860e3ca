"""Operators are replaced one by one; the graph is the one that torch's own decomposition leads to."""

from __future__ import annotations

import gc
import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental import proxy_tensor

from luvc_export.export import decomposition, trace
from luvc_export.export.trace import simplify


class Shapes(nn.Module):
    """Every operator that is replaced, and constants made on the way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 6)
        self.normed = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(6), nn.ReLU(inplace=True)).eval()

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        batch, groups = x.shape[:2]
        rows = x.flatten(1, 2).unflatten(1, (groups, 4)).float()
        turned = rows.transpose(2, 3).reshape(batch * groups, 6, 4) @ torch.ones(4, 4).triu().T
        back = turned.reshape(batch, groups, 6, 4).transpose(2, 3)
        seen = (mask & (x[:, :, :, 0] > 0)) | (mask[:, :, :1].expand_as(mask) & torch.tensor([True, False, True, True]))
        last = mask[:, groups - 1 :, :, None]
        back = torch.where(last, torch.where(mask[..., None], 2, back), 0.0).softmax(-1)
        back = self.normed(back.flatten(0, 2)).unflatten(0, (batch, groups, 4))
        return 1 - self.linear(back).to(torch.float32), torch.where(seen, 1.0, -1.0) + x[:, :, :, 1]


class Unknown(nn.Module):
    """``unbind`` is a composite that is not known to be translated as it is."""

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
        return x + rows * columns, mask


class Promotions(nn.Module):
    """Types that meet and are promoted: whole numbers and a float, halves and floats, truth and numbers."""

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        counts = mask.to(torch.int64).cumsum(-1)
        return (x * counts.unsqueeze(-1) + 0.5) * x.half(), torch.where(mask, counts, 0.25) + mask


def traced(module: nn.Module) -> ir.Model:
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("groups")}
    inputs = torch.zeros(2, 3, 4, 6), torch.ones(2, 3, 4, dtype=torch.bool)
    return trace._trace(module, inputs, (axes, axes), ["x", "mask"], ["y", "seen"], marked=False)


@pytest.fixture(scope="module")
def of_shapes() -> onnx.ModelProto:
    """The graph of ``Shapes``."""
    return ir.to_proto(traced(Shapes()))


def canonical(model: ir.Model) -> Any:
    """What each node computes, whatever its name and place: equal for graphs of the same nodes.

    The size of an input's axis counts by the axis' name, since several inputs have it; sums and products by their
    parts, since they are made in another order.
    """
    simplify(model)
    graph = ir.to_proto(model).graph
    axes = {
        (i.name, n): dim.dim_param or dim.dim_value
        for i in graph.input
        for n, dim in enumerate(i.type.tensor_type.shape.dim)
    }
    values = {"": "", **{i.name: i.name for i in graph.input}}
    for tensor in graph.initializer:
        named, tensor.name = tensor.name, ""
        values[named] = hashlib.sha256(tensor.SerializeToString()).hexdigest()
    nodes = Counter[str]()
    for node in graph.node:
        inputs = [values[name] for name in node.input]
        settings = sorted((a.name, str(onnx.helper.get_attribute_value(a))) for a in node.attribute)
        start = dict(settings).get("start")
        if node.op_type == "Shape" and start is not None and (node.input[0], int(start)) in axes:
            inputs, settings = [str(axes[node.input[0], int(start)])], []
        if node.op_type in ("Add", "Mul"):
            inputs.sort()
        key = hashlib.sha256(repr((node.domain, node.op_type, settings, inputs)).encode()).hexdigest()
        nodes[f"{node.op_type} {key}"] += 1
        values |= {name: f"{key} {n}" for n, name in enumerate(node.output)}
    return nodes, [(out.name, values[out.name]) for out in graph.output]


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each program could be done node by node."""
    answers: list[bool] = []
    asked = decomposition.substitutable

    def substitutable(program: Any, table: Any) -> bool:
        answers.append(asked(program, table))
        return answers[-1]

    monkeypatch.setattr(decomposition, "substitutable", substitutable)
    return answers


def test_the_graph_is_that_of_torchs_decomposition(
    of_shapes: onnx.ModelProto, replaced: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another arithmetic is told apart."""

    class Other(Shapes):
        def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            values, seen = super().forward(x, mask)
            return -values, seen

    substituted = canonical(ir.from_proto(of_shapes))
    assert canonical(traced(Other())) != substituted
    assert replaced == [True]
    monkeypatch.setattr(trace, "by_substitution", nullcontext)
    assert canonical(traced(Shapes())) == substituted
    assert replaced == [True]


def test_what_is_not_known_goes_the_long_way(replaced: list[bool]) -> None:
    model = traced(Unknown())
    assert replaced == [False]
    simplify(model)
    assert [node.op_type for node in model.graph] == ["Add", "Identity"]  # rows times columns are constant


def test_a_size_that_is_no_sum_or_product_goes_the_long_way(replaced: list[bool]) -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            half = x[:, : x.shape[1] // 2]
            return half.flatten(1, 2), mask

    model = traced(Halves())
    assert replaced == [False]
    assert "groups//2" in str(model.graph.outputs[0].shape[1])


def exporter() -> list[Any]:
    """What is changed of the exporter while it runs."""
    kinds = vars(decomposition.ONNXRegistry)["from_torchlib"], vars(ir.schemas.OpSignature)["from_op_schema"]
    settings = fx.config.do_not_emit_stack_traces, torch._dynamo.config.fake_tensor_cache_enabled, gc.get_threshold()
    described = proxy_tensor._extract_tensor_metadata
    return [torch.export.ExportedProgram.run_decompositions, described, *kinds, *settings]


def test_the_exporter_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decomposition, "_YOUNG", gc.get_threshold()[0] + 1)
    before = exporter()
    with pytest.raises(ZeroDivisionError), decomposition.by_substitution(), decomposition.without_repeats():
        assert not any(one == other for one, other in zip(exporter(), before, strict=True))
        raise ZeroDivisionError
    assert exporter() == before


def test_what_an_older_torch_has_not_is_left_out() -> None:
    """Torch 2.11 has no ``do_not_emit_stack_traces``."""
    owner = SimpleNamespace(there=1)
    with decomposition._replaced(owner, "there", 2), decomposition._replaced(owner, "not_there", 2):
        assert vars(owner) == {"there": 2}
    assert vars(owner) == {"there": 1}


@pytest.mark.parametrize("lock", [trace._TRACING, nullcontext()], ids=["one at a time", "sabotage"])
def test_two_threads_do_not_change_the_exporter_at_once(monkeypatch: pytest.MonkeyPatch, lock: Any) -> None:
    """Of two that overlap, the first would take away what the second needs, and the second leave what the first put."""
    moments: list[str] = []
    second = threading.Event()

    @contextmanager
    def changed() -> Iterator[None]:
        moments.append("in")
        if moments == ["in", "in"]:
            second.set()
        try:
            yield
        finally:
            moments.append("out")

    def export(*arguments: Any, **options: Any) -> None:
        second.wait(0.3)
        raise ZeroDivisionError

    for name in ("_quiet", "by_substitution", "marking"):
        monkeypatch.setattr(trace, name, lambda *arguments: nullcontext())
    monkeypatch.setattr(trace, "without_repeats", changed)
    monkeypatch.setattr(trace, "_TRACING", lock)
    monkeypatch.setattr(torch.onnx, "export", export)
    with ThreadPoolExecutor(2) as pool:
        traces = [pool.submit(traced, Shapes()) for _ in range(2)]
    assert all(isinstance(each.exception(), ZeroDivisionError) for each in traces)
    alone = isinstance(lock, type(threading.Lock()))
    assert (moments == ["in", "out", "in", "out"]) == alone


@pytest.mark.slow(beside="export/test_decomposition.py::test_the_graph_is_that_of_torchs_decomposition")
def test_what_is_made_once_changes_no_graph_and_no_folder_is_in_it(
    of_shapes: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = ir.from_proto(of_shapes)
    assert Path(__file__).name not in str(of_shapes)
    assert all(node.metadata_props["namespace"] for node in once.graph)
    with monkeypatch.context() as patch:
        patch.setattr(trace, "without_repeats", nullcontext)
        patch.setattr(trace, "_forget_sources", lambda model: None)
        plain = traced(Shapes())
    assert Path(__file__).name in str(ir.to_proto(plain)), "else nothing is kept out"
    assert canonical(plain) == canonical(once)


@pytest.mark.slow(beside="export/test_decomposition.py::test_the_graph_is_that_of_torchs_decomposition")
def test_promotions_are_those_of_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types of values come from the capture, and where a node is promoted from running that node."""
    quick = canonical(traced(Promotions()))
    monkeypatch.setattr(decomposition, "_promoted", decomposition._Promotion.run_node)
    assert quick == canonical(traced(Promotions()))
    monkeypatch.setattr(
        decomposition, "_promoted", lambda interpreter, node: fx.Interpreter.run_node(interpreter, node)
    )
    assert quick != canonical(traced(Promotions())), "without promotions the graph is another"
