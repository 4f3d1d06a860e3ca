from __future__ import annotations

import json

import onnx
import onnx_ir as ir
import onnxscript.optimizer
import pytest
import torch
from surgery_harness import Traced

from luvc_export.export import families, trace
from luvc_export.export.families.base import Normalise
from luvc_export.export.surgeon.graph import PLAN_KEY
from luvc_export.plan import MergePass, Plan

PLAN = Plan(grid=(4, 6), keep=(12, 6, 0), merges=(MergePass(1, 1, 1),))


@pytest.fixture(scope="session")
def traced() -> Traced:
    """Qwen2.5-VL, two blocks and three layers, random weights inside the graphs, one merge and three prunes."""
    torch.manual_seed(0)
    family = families.find("qwen2_5_vl", "test")
    config = family.tiny_config()
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 2, [1]
    config.text_config.num_hidden_layers = len(PLAN.keep)
    config.text_config.layer_types = config.text_config.layer_types[: len(PLAN.keep)]
    model = family.build(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            scale = 1.0 if "embed" in name and "patch" not in name else 1.2 / parameter[0].numel() ** 0.5
            parameter.copy_(noise * scale if parameter.dim() > 1 else parameter + 0.2 * noise)
    plan = PLAN
    vision = family.vision(model, plan, Normalise(1 / 255, [0.5] * 3, [0.25, 0.5, 0.3]))
    unit = family.unit_pixels(config)
    made = (
        trace.trace_vision(vision, (plan.grid[0] * unit, plan.grid[1] * unit), 1),
        trace.trace_decoder(family.decoder(model, plan), family.decoder_shape(config), torch.float32),
    )
    return Traced(*(_finish(graph, plan) for graph in made), plan)


def _finish(graph: ir.Model, plan: Plan) -> onnx.ModelProto:
    onnxscript.optimizer.optimize_ir(graph)
    graph.metadata_props[PLAN_KEY] = json.dumps(plan.to_json())
    model: onnx.ModelProto = ir.to_proto(graph)
    return model
