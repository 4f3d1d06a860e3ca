"""The graphs that surgery is tried on, as the exporter leaves them, traced once for all workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from flat_plans import flat_plan

from luvc_export.core.plan import MergePass, Plan
from luvc_export.export import families, trace
from luvc_export.export.families.base import Normalise
from luvc_export.export.surgeon.fused import bodies
from luvc_export.export.surgeon.graph import PLAN_KEY
from luvc_export.export.trace import simplify

PLAN = flat_plan(grid=(4, 6), keep=(12, 6, 0), merges=(MergePass(1, 1, 1),))


def write(
    folder: Path,
    plan: Plan = PLAN,
    change: Callable[[Any], None] | None = None,
    marks: Sequence[bool] = (True, False),
) -> None:
    """Trace both halves into ``folder``, weights inside, with marks and, as ``plain_*``, without, as ``marks`` says.

    With ``change`` the decoder alone, changed, with marks.
    """
    torch.manual_seed(0)
    family = families.find("qwen2_5_vl", "test")
    config = family.tiny_config()
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 2, [1]
    config.text_config.num_hidden_layers = len(plan.keep)
    config.text_config.layer_types = config.text_config.layer_types[: len(plan.keep)]
    model = family.build(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            scale = 1.0 if "embed" in name and "patch" not in name else 1.2 / parameter[0].numel() ** 0.5
            parameter.copy_(noise * scale if parameter.dim() > 1 else parameter + 0.2 * noise)
    vision = family.vision(model, plan, Normalise(1 / 255, [0.5] * 3, [0.25, 0.5, 0.3]))
    unit = family.unit_pixels(config)
    size, decoder = (plan.grid[0] * unit, plan.grid[1] * unit), family.decoder(model, plan)
    if change is not None:
        change(decoder)
    for marked in marks if change is None else (True,):
        before = "" if marked else "plain_"
        if change is None:
            save(trace.trace_vision(vision, plan, size, 1, marked), plan, folder / f"{before}vision.onnx")
        traced = trace.trace_decoder(decoder, family.decoder_shape(config), torch.float32, marked)
        save(traced, plan, folder / f"{before}decoder.onnx")


def save(graph: ir.Model, plan: Plan, path: Path) -> None:
    """Simplify and write, marks with their bodies."""
    simplify(graph)
    bodies.attach(graph, plan)
    graph.metadata_props[PLAN_KEY] = json.dumps(plan.to_json())
    path.parent.mkdir(exist_ok=True)
    ir.save(graph, path)
