"""What a plan costs and saves, as data: FLOPs, KV bytes and visual tokens per layer, against the uncompressed model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from luvc_export.core.budgets import kv_bytes, prefill_flops
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape


@dataclass(frozen=True)
class Stage:
    """Layers ``first`` to ``last`` (inclusive) that all see ``tokens`` visual tokens."""

    first: int
    last: int
    tokens: int
    flops: int
    kv_bytes: int


@dataclass(frozen=True)
class Cost:
    """Cost of one plan in LLM prefill with ``text`` text tokens and ``images`` images, or joint groups of them.

    ``flops_ratio`` and ``kv_ratio`` are the uncompressed model's divided by the plan's; KV elements take 2 bytes.
    """

    text: int
    images: int
    stages: tuple[Stage, ...]
    flops: int
    flops_ratio: float
    kv_bytes: int
    kv_ratio: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def cost(plan: Plan, shape: DecoderShape, text: int = 64, images: int = 1) -> Cost:
    """Cost of ``plan`` on an LLM of ``shape``."""
    keep = [images * count for count in plan.keep]
    full = [images * plan.units * plan.joint_images] * plan.layers
    flops, kv = prefill_flops(shape, keep, text, plan.last_layer), kv_bytes(shape, keep, text)
    stages = []
    for tokens, members in groupby(range(plan.layers), key=lambda layer: keep[layer]):
        layers = list(members)
        part = slice(layers[0], layers[-1] + 1)
        stages.append(Stage(layers[0], layers[-1], tokens, sum(flops[part]), sum(kv[part])))
    return Cost(
        text,
        images,
        tuple(stages),
        sum(flops),
        sum(prefill_flops(shape, full, text)) / sum(flops),
        sum(kv),
        sum(kv_bytes(shape, full, text)) / sum(kv),
    )
