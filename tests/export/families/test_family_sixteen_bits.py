"""Encoders traced in 16 bits are typed as they compute, and give what the modules give in that type."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import family_chat
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from family_harness import MADE_HERE, Case, case
from family_questions import exportable
from numpy.typing import NDArray
from torch import Tensor, nn

from luvc_export.core.target import ORT_CPU
from luvc_export.errors import CheckFailed
from luvc_export.export import trace
from luvc_export.export.simplify import simplify
from luvc_export.export.surgeon import run_passes
from luvc_export.export.surgeon.fused import mark_bodies
from luvc_export.export.surgeon.passes import cast_precision
from luvc_export.pipeline import export_bundle
from luvc_export.runtime.ort import OrtBackend

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
#: Relative to the norm: sums in fp16 in another order.
NEAR = 1e-2
#: Their arithmetic leaves 16 bits and comes back: pixels, positions or pools in fp32.
MIXED = (("gemma3", "fp16"), ("gemma3", "bf16"), ("gemma4", "fp16"))


def in_type(tiny: Case, dtype: torch.dtype) -> nn.Module:
    """An encoder whose weights are in a type, as ``weights.skeleton`` leaves it."""
    vision = copy.deepcopy(tiny.vision(tiny.thirds))
    for module in vision.modules():
        held = {key: value for key, value in module._buffers.items() if key not in module._non_persistent_buffers_set}
        for tensor in (*module._parameters.values(), *held.values()):
            if tensor is not None and tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    return vision


@cache
def traced(name: str, dtype: str) -> tuple[nn.Module, onnx.ModelProto]:
    """An encoder in a type, and its graph before surgery."""
    tiny = case(name)
    vision = in_type(tiny, DTYPES[dtype])
    model = trace.trace_vision(vision, tiny.thirds, tiny.size, 1, marked=True)
    simplify(model)
    mark_bodies.attach(model, tiny.thirds)
    model.metadata_props["luvc.plan"] = json.dumps(tiny.thirds.to_json())
    return vision, ir.to_proto(model)


def near(embeds: NDArray[Any], vision: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        expected = vision(images)[0].float().numpy()
    assert np.linalg.norm(embeds.astype(np.float32) - expected) < NEAR * np.linalg.norm(expected)


@pytest.mark.parametrize(("name", "dtype"), MIXED)
def test_types_are_those_that_operators_make(name: str, dtype: str) -> None:
    """And numbers those of the modules, where ONNX Runtime has kernels on a CPU."""
    vision, traced_model = traced(name, dtype)
    model, report = run_passes(traced_model, ORT_CPU, dtype)
    onnx.checker.check_model(model, full_check=True)
    (cast,) = [one for one in report.passes if one.name == "cast_precision"]
    assert (cast.fired, cast.reason) == (0, f"the graph was traced in {dtype} already")
    if dtype == "bf16":
        return
    graph = onnxruntime.InferenceSession(model.SerializeToString())
    images = case(name).images(2)
    near(graph.run(["visual_embeds"], {"image": images.numpy()})[0], vision, images)


@pytest.mark.slow(beside="export/families/test_family_sixteen_bits.py::test_types_are_those_that_operators_make")
@pytest.mark.skipif("fast_vlm" not in MADE_HERE, reason="pip install --no-deps timm")
def test_fast_vlm_runs_in_fp16(tmp_path: Path) -> None:
    """ONNX Runtime would fuse the attention of its encoder, reading fp16 as fp32."""
    tiny = exportable("fast_vlm")
    folder = str(family_chat.save(tiny, tmp_path / "checkpoint"))
    plans = {"thirds": tiny.thirds}
    bundle = export_bundle(folder, tmp_path / "bundle", plans, image_size=tiny.size, text_capacity=256, dtype="fp16")
    images = tiny.images(2)
    embeds = OrtBackend(bundle, bundle.entry()).vision(images.numpy())["visual_embeds"]
    near(embeds, in_type(tiny, torch.float16), images)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lint_sees_a_graph_of_wrong_types(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: retyped as though it were in fp32, it is not written."""
    monkeypatch.setattr(cast_precision, "_is_narrow", lambda surgery: False)
    with pytest.raises(CheckFailed, match=r"does not pass lint:[\s\S]*onnx.checker: .*(ReduceMean|Inferred)"):
        run_passes(traced("gemma3", dtype)[1], ORT_CPU, dtype)
