"""What a first token should take on this machine: a plan's FLOPs over the rates of the model's own products."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from luvc_export.core.plan import Plan
from luvc_export.core.plan.cost import encoder_flops, llm_flops
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import PlanError, UsageError
from luvc_export.runtime.speed_probe.products import Rate, engines, rate


@dataclass(frozen=True)
class Speed:
    """Rates of the two halves of a model on this machine."""

    encoder: Rate
    llm: Rate


@dataclass(frozen=True)
class FirstToken:
    """Seconds that a plan should take to its first token: one image and a prompt, nothing cached."""

    encoder: float
    llm: float

    @property
    def seconds(self) -> float:
        """Both halves."""
        return self.encoder + self.llm


def seconds(text: str) -> float:
    """Parse ``500ms``, ``1.5s`` or ``2`` (seconds).

    Raises:
        UsageError: It is no such time, or none.
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*(ms|s|)", text.strip())
    value = float(match[1]) / (1000 if match[2] == "ms" else 1) if match else 0.0
    if value <= 0:
        raise UsageError("this is no time", where="--time", got=text, expected="a time such as 500ms or 1.5s")
    return value


def probe(
    plan: Plan, llm: DecoderShape, encoder: EncoderShape, engine: str | None = None, threads: int | None = None
) -> Speed:
    """Time one product of each half: as many rows as the plan's first layers have.

    Args:
        plan: Says how many patches and visual tokens there are.
        llm: Sizes of the LLM.
        encoder: Sizes of the encoder.
        engine: ``cpu`` or ``openvino``; None for what ``--backend auto`` would take on a CPU.
        threads: CPU threads; None for all cores.

    Raises:
        MachineError: The engine, or any, is not installed.
    """
    name = engine or next(iter(engines()), "cpu")
    images = plan.sharing.images
    seen = rate(name, plan.units * encoder.unit, encoder.hidden, encoder.intermediate, threads)
    read = rate(name, images * plan.units, llm.hidden, llm.intermediate, threads)
    return Speed(seen, read)


def predicted(plan: Plan, llm: DecoderShape, encoder: EncoderShape, text: int, speed: Speed) -> FirstToken:
    """What ``plan`` should take with ``text`` text tokens: its FLOPs as ``plan`` counts them, over the rates.

    Left out are norms, softmax, copies, patch embedding and the head's one row. Six plans took 0.90 to 1.01 times
    what it says: the encoder less, the LLM more (docs/results/first-token.md).
    """
    images = plan.sharing.images
    whole = images * sum(encoder_flops(plan.encoder, encoder)) / speed.encoder.flops
    return FirstToken(whole, sum(llm_flops(plan.llm, llm, plan.keep, text)) / speed.llm.flops)


def speedup_for(goal: float, none: FirstToken, size: str) -> float:
    """Factor on LLM prefill FLOPs at which the first token takes ``goal`` seconds; at most 1 where it does anyway.

    Args:
        goal: Seconds.
        none: What the uncompressed model should take.
        size: The image size, for the error.

    Raises:
        PlanError: The encoder alone takes as long.
    """
    left = goal - none.encoder
    if left <= 0:
        raise PlanError(
            "the encoder alone takes longer here",
            where="--time",
            got=f"{goal * 1000:.0f} ms, the encoder {none.encoder * 1000:.0f} ms at {size}",
            expected=f"more than {none.encoder * 1000:.0f} ms",
            fix="a smaller picture: --image-tokens N",
        )
    return none.llm / left


def to_json(first: FirstToken, speed: Speed) -> dict[str, Any]:
    """A prediction and what it rests on, seconds and FLOPs a second."""
    return {
        "engine": speed.llm.engine,
        "arithmetic": speed.llm.arithmetic,
        "encoder_s": first.encoder,
        "llm_s": first.llm,
        "first_token_s": first.seconds,
        "encoder_flops_per_s": speed.encoder.flops,
        "llm_flops_per_s": speed.llm.flops,
    }
