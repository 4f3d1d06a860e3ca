"""Engines of a bundle with slots for adapters, built here with TensorRT-RTX: the factors are inputs from rank 0 on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lora_bundle
import onnx
import pytest

from luvc_export.bundle.folder import Bundle, load
from luvc_export.bundle.manifest import MOST_SETS
from luvc_export.core import graph_io
from luvc_export.engines import builder
from luvc_export.errors import PlanError, UsageError
from luvc_export.pipeline import prepare_build

NUMBERS = lora_bundle.LAYERS * sum(entering + leaving for entering, leaving in lora_bundle.SHAPES.values())


@pytest.fixture(scope="module")
def slots(lora: Path) -> Bundle:
    return load(lora / "slots")


@pytest.mark.parametrize(("precision", "kv", "batch", "adapters"), [("bf16", "inplace", 4, 2)])
def test_an_engine_takes_factors_from_rank_0_on(
    slots: Bundle, tmp_path: Path, precision: Any, kv: Any, batch: int, adapters: int
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    prepared = prepare_build(slots, "rtx-ada", precision=precision, kv=kv, batch=batch, adapters=adapters)
    output = tmp_path / "decoder.engine"
    built = builder.build(prepared.graphs[1], output, prepared.target, prepared.capacity, prepared.options)
    record, (profile,) = slots.manifest.lora, built.profiles
    assert record is not None
    kinds = {item.name: item.dtype for item in built.inputs}
    low = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert kinds[graph_io.LORA_ROWS] == "float32"
    assert all(kinds[name] == low for name in record.inputs - {graph_io.LORA_ROWS})
    ranks = adapters * lora_bundle.RANK
    widths = [limits["lora_rows"] for limits in (profile.minimum, profile.optimum, profile.maximum)]
    assert widths == [(1, 0), (1, lora_bundle.RANK), (batch, ranks)]
    assert profile.minimum["lora.1.down_proj.a"] == (lora_bundle.INNER, 0)
    assert profile.maximum["lora.1.down_proj.b"] == (ranks, lora_bundle.HIDDEN)
    assert built.activation_bytes is not None
    assert 0 < built.activation_bytes <= prepared.footprint.activations <= 3 * built.activation_bytes
    assert output.stat().st_size > 0


@pytest.mark.slow(beside="engines/test_build_slots.py::test_an_engine_takes_factors_from_rank_0_on")
def test_products_stay_joined_and_factors_are_predicted(slots: Bundle, lora: Path) -> None:
    """What stands beside a product does not part those that are one; memory of adapters is counted."""
    ours, plain = (prepare_build(bundle, "h100", precision="fp16") for bundle in (slots, load(lora / "plain")))
    counts = [
        sum(node.op_type == "Split" for node in onnx.load_model_from_string(each.graphs[1].data).graph.node)
        for each in (ours, plain)
    ]
    assert counts[0] == counts[1] > 0
    assert ours.footprint.adapters == MOST_SETS * lora_bundle.RANK * 2 * NUMBERS and plain.footprint.adapters == 0
    assert ours.footprint.running - ours.footprint.adapters >= plain.footprint.running
    with pytest.raises(PlanError, match=r"does not fit on the target(.|\n)*, adapters 0 MiB"):
        prepare_build(slots, "h100", precision="fp16", device_memory_gib=0.001)


@pytest.mark.slow(beside="engines/test_build_slots.py::test_an_engine_takes_factors_from_rank_0_on")
def test_adapters_of_a_call_are_rows_at_most_and_4_unless_asked(slots: Bundle, lora: Path) -> None:
    counts = [prepare_build(slots, "h100", batch=batch).capacity.adapters for batch in (1, 3, 16)]
    assert counts == [1, 3, 4]
    assert prepare_build(slots, "h100", batch=16, adapters=9).capacity.ranks == 9 * lora_bundle.RANK
    with pytest.raises(UsageError, match=r"no more adapters than rows\n.*--adapters\n.*got: 3\n.*1 to 2(.|\n)*--batch"):
        prepare_build(slots, "h100", batch=2, adapters=3)
    with pytest.raises(UsageError, match=r"no slots for adapters\n(.|\n)*--adapters 1(.|\n)*--lora-slots RANK"):
        prepare_build(load(lora / "plain"), "h100", adapters=1)
