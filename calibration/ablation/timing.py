"""Time to first token of each plan, measured: processor time of one thread, plans taking turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.runners.compressed import TorchCalls
from luvc_export.core.plan import Plan
from luvc_export.runtime.model import TokensPrompt


class Times(NamedTuple):
    """Milliseconds, medians: the encoder, the LLM's prefill, both together (time to first token)."""

    vision: float
    prefill: float
    ttft: float


def measure(engine: PlanEvaluator, plans: Sequence[Plan], rounds: int = 9, text: int = 32) -> list[Times]:
    """Times of ``plans`` on one picture and one prompt.

    Processor time of one thread does not count what other programs take; taking turns spreads what remains.

    Args:
        engine: Model and cases.
        plans: What to time.
        rounds: Turns; the first one warms up and is dropped.
        text: TokensPrompt length, reached by repeating a real prompt.
    """
    every = engine.asked(plans[0])
    index = next(i for i, asked in enumerate(every) if len(asked.pictures) == 1)
    runners = [TorchCalls(engine.checkpoint, engine.model, plan) for plan in plans]
    ready = [_ready(engine, calls, engine.asked(calls.plan)[index], text) for calls in runners]
    taken: list[list[tuple[float, float]]] = [[] for _ in plans]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(rounds + 1):
            for calls, (image, feeds, past), times in zip(runners, ready, taken, strict=True):
                with torch.no_grad():
                    begin = time.thread_time()
                    calls.encoder(*image)
                    middle = time.thread_time()
                    calls.decode_tensors(feeds, past)
                    end = time.thread_time()
                if turn:
                    times.append((1000 * (middle - begin), 1000 * (end - middle)))
    finally:
        torch.set_num_threads(threads)
    medians = []
    for times in taken:
        vision, prefill = (float(np.median(part)) for part in zip(*times, strict=True))
        medians.append(Times(vision, prefill, float(np.median([a + b for a, b in times]))))
    return medians


def _ready(engine: PlanEvaluator, calls: TorchCalls, asked: Any, text: int) -> tuple[Any, Any, Any]:
    seen = engine.encode_images(calls).some(asked.pictures)
    tail = [token for token in asked.prompt if token != engine.image_token]
    prompt = (asked.prompt + tail * text)[: text + 1]
    feeds = engine.feeds(calls.plan, [TokensPrompt(prompt)], replace(seen, padding=None))[1]
    unit = engine.checkpoint.family.unit_pixels(engine.checkpoint.config)
    size = (calls.plan.grid[0] * unit, calls.plan.grid[1] * unit)
    image = torch.zeros(1, 1, *size, 3, dtype=torch.uint8)
    none = torch.zeros(1, *calls.plan.grid, dtype=torch.bool)
    return (image, none) if calls.plan.encoder.reads_padding else (image,), feeds, calls.empty(1)
