"""What every peer shares: pictures and prompts, how often they are asked, how it answers. Standard library and numpy.

No run asks what another run has asked: a peer that keeps prefixes or pictures would answer from what it kept.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

SIDE = 896  # 1,024 visual tokens
VISUAL = 1024
TEXT = 64
#: A clip: 8 pairs of frames, 2,048 visual tokens.
FRAMES, CLIP_SIDE, CLIP_VISUAL, CLIP_FPS = 16, 448, 2048, 2.0
NEW = 9
RUNS = 2
IMAGE_TOKEN, VIDEO_TOKEN = 151655, 151656
#: Letters of a question: with 21 tokens of the chat template 64 text tokens (one token a byte).
LETTERS = 43


def picture(run: int) -> np.ndarray:
    """Noise, uint8 [896, 896, 3], another in each run."""
    return np.random.default_rng(run).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def clip(run: int) -> np.ndarray:
    """Noise, uint8 [16, 448, 448, 3], another in each run."""
    return np.random.default_rng(run).integers(0, 256, (FRAMES, CLIP_SIDE, CLIP_SIDE, 3), np.uint8)


def question(run: int) -> str:
    """Random letters, others in each run: the first one differs already."""
    return "".join(chr(97 + (int(i) + run) % 26) for i in np.random.default_rng(run).integers(0, 26, LETTERS))


def text_ids(run: int) -> list[int]:
    """64 token ids, others in each run, the same for all who take ids."""
    return [int(i) for i in np.random.default_rng(1000 + run).integers(300, 100_000, TEXT)]


def peak_gib() -> float:
    """Most memory this process held."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def timed(ask: Callable[[int, int], Any]) -> tuple[list[float], list[float]]:
    """Seconds to the first token, and tokens a second after it.

    ``ask(run, count)`` makes ``count`` tokens about the picture and prompt of ``run``. One run warms up. A run of
    ``NEW`` tokens follows each timed one, on a new question too; what it takes longer is its other tokens. Where it
    takes no longer, the two do not compare, and the pair says nothing of speed.
    """
    ttft, speed = [], []
    ask(0, 2)
    for turn in range(RUNS):
        begin = perf_counter()
        ask(1 + 2 * turn, 1)
        ttft.append(perf_counter() - begin)
        begin = perf_counter()
        ask(2 + 2 * turn, NEW)
        rest = perf_counter() - begin - ttft[-1]
        speed += [(NEW - 1) / rest] if rest > 0 else []
    return ttft, speed


def stepped(ask: Callable[[int, int], Sequence[float]]) -> dict[str, Any]:
    """First tokens and steps after them, seconds, and the memory's bandwidth after each run, GB/s.

    ``ask(run, count)`` makes ``count`` tokens and returns when it began and when it had each; one run warms up. A
    run's step is the mean over its tokens.
    """
    ttft, steps, rates, peak = [], [], [], 0.0
    for run in range(1 + RUNS):
        begin, first, *_, last = ask(run, NEW)
        if run:
            ttft.append(first - begin)
            steps.append((last - first) / (NEW - 1))
            peak = peak or peak_gib()  # without what is read for the next line
            rates.append(read_rate())
    return {"ttft_s": ttft, "steps_s": steps, "read_gb_s": rates, "peak_gib": peak}


def read_rate() -> float:
    """GB/s of reading 1.5 GB by all threads, the median of five; numpy must not have threads of its own."""
    threads, wide = len(os.sched_getaffinity(0)), 4096
    parts = [np.ones((1_500_000_000 // 4 // wide // threads, wide), np.float32) for _ in range(threads)]
    vector, spent = np.ones(wide, np.float32), []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            begin = perf_counter()
            list(pool.map(lambda part: part @ vector, parts))
            spent.append(perf_counter() - begin)
    return sum(part.nbytes for part in parts) / statistics.median(spent) / 1e9


def answer(
    version: str, visual: float, ttft: list[float] | None, speed: list[float], prefill: list[float] | None = None
) -> dict[str, Any]:
    """What ``times`` returns; ``ttft`` is None without an image, ``prefill`` if the LLM was not timed alone."""
    times = {"ttft_s": ttft or [], "prefill_s": prefill or [], "tokens_per_s": speed}
    return {"version": version, "visual_tokens": visual, **times, "peak_gib": peak_gib()}


def main(prepare: Callable[[dict[str, Any]], None], times: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Run what the command line asks for; the last line of output is the answer."""
    global RUNS, NEW
    what, options = sys.argv[1], json.loads(sys.argv[2])
    RUNS, NEW = options.get("runs", RUNS), options.get("new", NEW)
    result = times(options) if what == "times" else (prepare(options) or {})
    print("\n" + json.dumps(result), flush=True)
