"""The report inside a graph, the tables made of it, and weights that are never read."""

from __future__ import annotations

import io
import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper
from rich.console import Console
from surgery_harness import RTX, Traced, cut, small

from luvc_export.core.target import ORT_CPU
from luvc_export.export.surgeon import GraphReport, pass_list, render, render_html, run_passes
from luvc_export.export.surgeon.graph import Surgery, size
from luvc_export.export.surgeon.report import REPORT_KEY


def test_report_travels_with_the_graph(traced: Traced) -> None:
    after, report = run_passes(traced.decoder, ORT_CPU)
    text = {p.key: p.value for p in after.metadata_props}[REPORT_KEY]
    assert GraphReport.from_json(json.loads(text)[0]) == report
    assert [item.name for item in report.passes] == [item.__name__.rsplit(".", 1)[-1] for item in pass_list()]
    assert all(item.fired or item.reason or item.name == "lint" for item in report.passes)
    assert (report.passes[0].before, report.passes[-1].after) == (size(traced.decoder), size(after))
    assert Surgery.open(traced.decoder, ORT_CPU).size() == size(traced.decoder) > size(after)
    assert len(json.loads({p.key: p.value for p in run_passes(after, ORT_CPU)[0].metadata_props}[REPORT_KEY])) == 2


def test_work_by_layer(traced: Traced) -> None:
    """Layer 2 sees text alone; its products are those of 64 text tokens."""
    layers = {row["layer"]: row for row in run_passes(traced.decoder, ORT_CPU)[1].layers}
    text, hidden, kv, inner = 64, 64, 32, 128
    products = 2 * text * hidden * (hidden * 2 + kv * 2 + inner * 3)
    assert layers["layers.2"]["flops"] == products + 4 * text * text * hidden
    assert layers["layers.0"]["flops"] > layers["layers.1"]["flops"] > layers["layers.2"]["flops"]
    assert layers["layers.2"]["weight_bytes"] >= 4 * hidden * (hidden * 2 + kv * 2 + inner * 3)


def test_tables_and_page(traced: Traced) -> None:
    reports = {"decoder.onnx": [run_passes(traced.decoder, ORT_CPU)[1]]}
    console = Console(file=io.StringIO(), width=140)
    console.print(render(reports))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("fuse_spectrum_prune", "luvc::SpectrumPrune", "MFLOP", "the decoder merges nothing"):
        assert word in shown
    page = render_html(reports)
    assert page.startswith("<!doctype html>")
    assert "http" not in page
    assert page.count("<h2>") == 1


def test_external_weights_are_not_read(tmp_path: Path) -> None:
    """Gate and up of a file that is not there become one product of their Concat, below one Cast and one Transpose."""
    text = """g (float[1,S,4] x) => (float[1,S,6] y) {
        a = Cast<to=1>(gate)
        b = Cast<to=1>(up)
        at = Transpose<perm=[1,0]>(a)
        bt = Transpose<perm=[1,0]>(b)
        p = MatMul(x, at)
        s = Sigmoid(p)
        q = MatMul(x, bt)
        y = Mul(s, q)
    }"""
    model = small(text)
    for number, name in enumerate(("gate", "up")):
        tensor = helper.make_tensor(name, TensorProto.BFLOAT16, [6, 4], bytes(48), raw=True)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "nowhere"), ("offset", str(48 * number)), ("length", "48")):
            tensor.external_data.add(key=key, value=value)
        model.graph.initializer.append(tensor)
    from luvc_export.export.surgeon.passes import fuse_gate_up

    fused = cut(onnx.shape_inference.infer_shapes(model), fuse_gate_up, target=RTX)
    assert [n.op_type for n in fused.graph.node] == ["Concat", "Cast", "Transpose", "MatMul", "Split", "Sigmoid", "Mul"]
    kept = {t.name: {e.key: e.value for e in t.external_data} for t in fused.graph.initializer if t.external_data}
    assert kept == {n: {"location": "nowhere", "offset": str(o), "length": "48"} for n, o in (("gate", 0), ("up", 48))}
    assert size(fused) == 4
