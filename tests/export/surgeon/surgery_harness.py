"""Traced tiny graphs, random inputs by the contract, and outputs compared in prefill, decode, two images, a batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import remembered_cuts
from flat_plans import flat_plan
from numpy.typing import NDArray
from tolerance import TOLERANCES

from luvc_export.core.plan import Plan
from luvc_export.core.target import ORT_CPU, TargetSpec
from luvc_export.export.surgeon import run_passes
from luvc_export.export.surgeon.graph import PLAN_KEY, Surgery

Arrays = dict[str, NDArray[Any]]

RTX = TargetSpec("rtx", "onnx", precisions=("fp16", "bf16", "fp32"), fp32_attention="decomposable", profiles="wide")
TRT103 = TargetSpec("trt-10.3", "primitive", opset=20, precisions=("fp16", "bf16", "fp32"), profiles="pair")
INPLACE = TargetSpec("cpu-inplace", "onnx", opset=24, topk_limit=None, kv="inplace")
INLINED = TargetSpec("inlined", "onnx", topk_limit=None, kv="attention", packed_heads=True, bytes=True)
_KERNELS = frozenset({"SpectrumPrune", "OrthogonalMerge"})
PLUGINS = TargetSpec("plugins", "onnx", precisions=("fp16", "fp32"), plugins=_KERNELS)
PLUGINS103 = replace(TRT103, name="plugins-10.3", plugins=_KERNELS)

#: (batch, images, text, past images, past text)
CASES = {"prefill": (1, 1, 9, 0, 0), "decode": (1, 0, 1, 1, 9), "two": (1, 2, 5, 0, 0), "batch": (2, 1, 6, 0, 0)}


@dataclass(frozen=True)
class Traced:
    """The two halves as the exporter leaves them, marked and with the marks' bodies, and their plan.

    ``plain`` are the same halves traced without marks: torch's arithmetic.
    """

    vision: onnx.ModelProto
    decoder: onnx.ModelProto
    plan: Plan
    plain: dict[str, onnx.ModelProto] = field(default_factory=dict)


def session(model: onnx.ModelProto) -> Any:
    return _session(model.SerializeToString())


@lru_cache(maxsize=16)
def _session(model: bytes) -> Any:
    """Made once for a graph that is run case by case, and for one that many others are compared with."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feeds(model: onnx.ModelProto, plan: Plan, case: tuple[int, int, int, int, int], seed: int = 0) -> Arrays:
    """Random decoder inputs; row 1 of a batch is padded."""
    batch, images, text, past_images, past_text = case
    random = np.random.default_rng(seed)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    axes, hidden, tokens = shapes["position_ids"][0], shapes["visual_embeds"][3], plan.span_tokens
    span, begin = images * tokens, past_images * tokens + past_text
    mask = np.ones((batch, past_text + text), np.bool_)
    mask[1:, -2:] = False
    grid = np.arange(span) % 5
    inputs: Arrays = {
        "visual_embeds": random.normal(size=(batch, images, tokens, hidden)).astype(np.float32),
        "input_ids": random.integers(3, 100, (batch, text)),
        "visual_position_ids": np.broadcast_to(grid, (axes, batch, span)).astype(np.float32),
        "position_ids": np.broadcast_to(np.arange(text) + begin + 5, (axes, batch, text)).astype(np.float32),
        "visual_order": np.broadcast_to(np.arange(span), (batch, span)).copy(),
        "order": np.broadcast_to(np.arange(text) + span, (batch, text)).copy(),
        "text_mask": mask,
        "logits_indices": np.broadcast_to(np.arange(text), (batch, text)).copy(),
    }
    if plan.decoder_padding:
        inputs["visual_padding"] = random.integers(0, 2, (batch, images, tokens)).astype(np.bool_)
    for name, shape in shapes.items():
        if name.startswith("past_key_values"):
            rows = past_images * plan.keep[int(name.split(".")[1])] + past_text
            inputs[name] = random.normal(size=(batch, shape[1], rows, shape[3])).astype(np.float32)
    return inputs


def inputs(model: onnx.ModelProto, plan: Plan) -> dict[str, Arrays]:
    """Feeds of every case, for either half."""
    first = model.graph.input[0]
    if first.name != "image":
        return {name: feeds(model, plan, case) for name, case in CASES.items()}
    shape = [d.dim_value for d in first.type.tensor_type.shape.dim][1:]
    random = np.random.default_rng(3)
    cases = {f"{n} images": {"image": random.integers(0, 256, (n, *shape), dtype=np.uint8)} for n in (1, 2)}
    for case in cases.values() if plan.encoder.reads_padding else ():
        case["padding"] = np.ones((len(case["image"]), *plan.grid), np.bool_)
        case["padding"][:, 1:3, 1:5] = False
    return cases


def run(model: onnx.ModelProto, arrays: Arrays) -> Arrays:
    """Outputs by name; float inputs follow the graph's type."""
    runner = session(model)
    kinds = {item.name: item.type for item in runner.get_inputs()}
    narrow = {name: a.astype(np.float16) if kinds[name] == "tensor(float16)" else a for name, a in arrays.items()}
    return dict(zip([item.name for item in runner.get_outputs()], runner.run(None, narrow), strict=True))


def differences(before: onnx.ModelProto, after: onnx.ModelProto, plan: Plan) -> dict[str, float]:
    """Largest difference of each case, relative to the largest value; infinite where shapes or names differ."""
    worst_of = {}
    for case, feed in inputs(before, plan).items():
        old, new = run(before, feed), run(after, feed)
        worst = 0.0 if list(old) == list(new) else np.inf
        for name in old if worst == 0 else ():
            a, b = old[name].astype(np.float64), new[name].astype(np.float64)
            if a.shape != b.shape or not np.isfinite(b).all():
                worst = np.inf
            elif a.size:
                worst = max(worst, float(np.abs(a - b).max() / max(1.0, np.abs(a).max())))
        worst_of[case] = worst
    return worst_of


def equal(before: onnx.ModelProto, after: onnx.ModelProto, plan: Plan, kind: str) -> bool:
    """Whether every case is within the written tolerance of ``kind``."""
    return max(differences(before, after, plan).values()) <= TOLERANCES[kind].largest


def cut(model: onnx.ModelProto, *passes: Any, target: TargetSpec = ORT_CPU, **options: Any) -> onnx.ModelProto:
    """The graph after ``passes`` (the whole list where none is named)."""
    return remembered_cuts.cut(model, target, passes, options)


def fired(model: onnx.ModelProto, *passes: Any, target: TargetSpec = ORT_CPU, **options: Any) -> tuple[int, str]:
    """How often the last of ``passes`` fired, and its reason."""
    report = run_passes(model, target, passes=passes, **options)[1].passes[-1]
    return report.fired, report.reason


def small(text: str, plan: Plan | None = None, opset: int = 23) -> onnx.ModelProto:
    """A graph in ONNX's text form, with a plan."""
    model: onnx.ModelProto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
    plan = plan or flat_plan((1, 4), (4, 4), last_layer="full")
    model.metadata_props.add(key=PLAN_KEY, value=json.dumps(plan.to_json()))
    return model


def opened(text: str, target: TargetSpec = ORT_CPU, plan: Plan | None = None) -> Surgery:
    return Surgery.open(small(text, plan), target)


def edited(model: onnx.ModelProto, change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    """A changed copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy)
    return copy


def operators(model: onnx.ModelProto, *names: str) -> int:
    return sum(node.op_type in names for node in model.graph.node)


def broken(before: onnx.ModelProto, make: Callable[[], onnx.ModelProto], traced: Traced, kind: str = "exact") -> bool:
    """Whether a sabotaged pass was caught: by its own check, by ONNX Runtime, or by the comparison."""
    try:
        return not equal(before, make(), traced.plan, kind)
    except Exception:
        return True
