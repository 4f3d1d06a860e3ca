"""What every peer shares: the prompt, how often it is asked, how it answers. Standard library and numpy only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

SIDE = 896  # 1,024 visual tokens
VISUAL = 1024
TEXT = 64
NEW = 9
RUNS = 2
IMAGE_TOKEN = 151655
#: 43 letters: with 21 tokens of the chat template 64 text tokens (one token a byte).
QUESTION = "what is in the picture, and where does it l"


def picture() -> np.ndarray:
    """Noise, uint8 [896, 896, 3]."""
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def text_ids() -> list[int]:
    """64 token ids, the same for all who take ids."""
    return [int(i) for i in np.random.default_rng(1).integers(300, 100_000, TEXT)]


def peak_gib() -> float:
    """Most memory this process held."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def timed(first: Callable[[], Any], whole: Callable[[], Any]) -> tuple[list[float], list[float]]:
    """Seconds to the first token, and tokens a second after it; one warm-up each."""
    ttft, speed = [], []
    first()
    for _ in range(RUNS):
        begin = perf_counter()
        first()
        ttft.append(perf_counter() - begin)
    for _ in range(RUNS):
        begin = perf_counter()
        whole()
        speed.append((NEW - 1) / (perf_counter() - begin - min(ttft)))
    return ttft, speed


def answer(
    version: str, visual: float, ttft: list[float] | None, speed: list[float], prefill: list[float] | None = None
) -> dict[str, Any]:
    """What ``times`` returns; ``ttft`` is None without an image, ``prefill`` if the LLM was not timed alone."""
    times = {"ttft_s": ttft or [], "prefill_s": prefill or [], "tokens_per_s": speed}
    return {"version": version, "visual_tokens": visual, **times, "peak_gib": peak_gib()}


def main(prepare: Callable[[dict[str, Any]], None], times: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Run what the command line asks for; the last line of output is the answer."""
    global RUNS
    what, options = sys.argv[1], json.loads(sys.argv[2])
    RUNS = options.get("runs", RUNS)
    made = times(options) if what == "times" else (prepare(options) or {})
    print("\n" + json.dumps(made), flush=True)
