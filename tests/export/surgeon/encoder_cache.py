"""A vision graph with what a plan may do inside the encoder: passes in windows and along axes, prune and restore."""

from __future__ import annotations

from pathlib import Path

import torch
import traced_cache
from flat_plans import flat_plan

from luvc_export.core.plan import EncoderPrune, Plan
from luvc_export.core.plan.merging import MergePass
from luvc_export.export import families, trace
from luvc_export.export.families.base import Normalise

#: Windows with edges, then two passes more after the same block, then a prune whose windows have gaps.
PLAN = flat_plan(
    grid=(6, 9),
    keep=(25, 0, 0),
    merges=(MergePass(0, 1, 1, 4), MergePass(0, 0, 1), MergePass(0, 0, 1)),
    encoder_prune=EncoderPrune(1, 0.5, stabilise=0, neighbours=4),
    score="norm",
)


def write(folder: Path, plan: Plan = PLAN, blocks: int = 3, marked: bool = True) -> None:
    """Trace the vision half of ``plan`` into ``folder``, weights inside, with marks or, ``plain_``, without."""
    torch.manual_seed(0)
    family = families.find("qwen2_5_vl", "test")
    config = family.tiny_config()
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = blocks, [1]
    model = family.build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            scale = 1.2 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.2
            parameter.copy_(noise * scale if parameter.dim() > 1 else parameter + scale * noise)
    vision = family.vision(model, plan, Normalise(1 / 255, [0.5] * 3, [0.25, 0.5, 0.3]))
    unit = family.unit_pixels(config)
    size = plan.grid[0] * unit, plan.grid[1] * unit
    graph = trace.trace_vision(vision, plan, size, 1, marked)
    traced_cache.save(graph, plan, folder / ("vision.onnx" if marked else "plain_vision.onnx"))
