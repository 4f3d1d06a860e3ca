"""Engines of a bundle's plans in turns, with CUDA graphs and without, and the memory they take: what needs a GPU.

``python -m luvc_export.cli.child PID engines BUNDLE TARGET PLAN OTHER`` prints it as a line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from luvc_export.bundle.folder import Bundle, load
from luvc_export.errors import LuvcError
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt.backend import TrtBackend

Opener = Callable[[Bundle, str, bool], TrtBackend]
_REPEATS, _NEW_TOKENS = 7, 24
_METRICS = ("vision_ms", "prefill_ms", "ttft_ms", "decode_ms", "decode_tokens")


def measure(
    bundle: Bundle, target: str | None, plans: Sequence[str], gpu: Gpu, opened: Opener, repeats: int = _REPEATS
) -> dict[str, Any]:
    """Time every plan's engines in turns, A B A B.

    Args:
        bundle: With engines.
        target: Whose; None where there are some for one only.
        plans: Names; the compressed one first.
        gpu: Where they run.
        opened: Opens the back-end of a plan, with CUDA graphs or without.
        repeats: Turns that count; two more warm up and capture.

    Returns:
        Milliseconds of every run by plan and by whether steps are replayed, and GPU memory in MiB: what each plan's
        engines and first answer took, and what was predicted.
    """
    import numpy as np

    picture = np.random.default_rng(0).integers(0, 256, (*bundle.manifest.image.size, 3), np.uint8)
    keys = [(plan, graphs) for plan in plans for graphs in (True, False)]
    sessions: dict[tuple[str, bool], Session] = {}
    runs: dict[tuple[str, bool], list[dict[str, float]]] = {key: [] for key in keys}
    memory = []
    for turn in range(repeats + 2):
        for plan, graphs in keys:
            free = gpu.memory()[0]
            if not turn:
                session = sessions[plan, graphs] = Session(bundle, opened(bundle, plan, graphs), plan)
                session.default.ends = frozenset()
            asked: dict[str, Any] = {"max_new_tokens": _NEW_TOKENS, "greedy": True}
            times = sessions[plan, graphs].generate(picture, "What is there to see?", **asked).timings
            if not turn and graphs:
                taken, predicted = free - gpu.memory()[0], bundle.engine(plan, target).footprint.running
                figures = {"predicted_mib": predicted / 2**20, "taken_mib": taken / 2**20, "kv_mib": times.kv_mib}
                memory.append({"plan": plan, **figures})
            if turn >= 2:
                runs[plan, graphs].append({name: float(getattr(times, name)) for name in _METRICS})
    cases = [{"plan": plan, "cuda_graphs": graphs, "runs": figures} for (plan, graphs), figures in runs.items()]
    return {"cases": cases, "memory": memory}


def main(arguments: list[str]) -> int:
    """Measure the engines of ``BUNDLE TARGET PLAN...`` on this machine's GPU."""
    folder, target, *plans = arguments
    try:
        bundle, gpu = load(folder), Gpu()

        def opened(own: Bundle, plan: str, graphs: bool) -> TrtBackend:
            return TrtBackend(own, plan, target, graphs=graphs, gpu=gpu)

        print(json.dumps(measure(bundle, target, plans, gpu, opened)))
    except LuvcError as error:
        print(json.dumps({"error": error.to_json()}), file=sys.stderr)
        return error.exit_code
    return 0
