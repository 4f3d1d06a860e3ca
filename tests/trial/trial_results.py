"""Made-up results of a trial, and a journal that holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def made_results() -> dict[str, Any]:
    """What each step's verb gave, small and made up: every claim can be judged."""
    gates = [{"level": "tensors", "name": "relative L2", "got": 1e-6, "limit": 1e-3, "passed": True}]
    parity = {"passed": True, "reference": "fp32", "candidate": "fp32", "gates": gates}
    kernels = {"vision": {"total_ms": 9.0, "merge_ms": 1.0, "prune_ms": 0.0}}

    def case(plan: str, ttft: float, kept: list[int]) -> dict[str, Any]:
        runs = [{"ttft_ms": ttft + turn, "prefill_ms": ttft / 2, "vision_ms": ttft / 3} for turn in range(3)]
        facts = {"backend": "cpu", "arithmetic": "fp32", "kv_mib": sum(kept) / 100, "visual_tokens": kept}
        return {"plan": plan, "runs": runs, "kernels": kernels, **facts}

    timed = [
        {"plan": plan, "cuda_graphs": graphs, "runs": [{"ttft_ms": ttft, "decode_ms": step, "decode_tokens": 8.0}]}
        for plan, ttft in (("safe", 4.0), ("none", 9.0))
        for graphs, step in ((True, 8.0), (False, 16.0))
    ]
    memory = [{"plan": plan, "predicted_mib": 100.0, "taken_mib": 90.0, "kv_mib": 3.0} for plan in ("safe", "none")]
    engine = {"target": "rtx-ada", "backend": "tensorrt_rtx", "version": "1.7", "batch": 1}
    part = {"bytes": 3 << 20, "weight_bytes": 2 << 20}
    built = {**engine, "vision": part, "decoder": part}
    plans = {"safe": [8, 4, 0], "none": [8, 8, 8]}
    return {
        "plan": {"keep": [8, 4, 0], "grid": [4, 4], "flops_ratio": 2.0, "kv_ratio": 2.0},
        "export": {
            "model_type": "qwen2_5_vl",
            "checkpoint_sha256": "0" * 64,
            "plans": plans,
            "weights_mode": "reference",
        },
        "parity-none": parity,
        "parity-safe": parity,
        "bench": {"machine": {}, "cases": [case("safe", 10.0, [8, 4, 0]), case("none", 30.0, [8, 8, 8])]},
        "kept": {"backend": "cpu", "arithmetic": "fp32"},
        "build-safe": built,
        "build-none": built,
        "engine-parity": parity,
        "engines": {"cases": timed, "memory": memory},
        "gpu-check": {"exit_code": 0},
    }


def journal_of(folder: Path, results: dict[str, Any]) -> Any:
    """A journal in which every step has given ``results``."""
    from luvc_export.trial.run import Journal
    from luvc_export.version import VERSION

    journal = Journal(folder, {"version": VERSION, "model": "/home/somebody/model", "target": "rtx-ada"})
    versions = {"luvc-export": VERSION, "python": "3.12.1", "numpy": "2.1"}
    machine = {"device": "a GPU", "gpu": None, "cpu": "a CPU", "versions": versions, "power": {"power_mode": None}}
    for name, result in {"machine": machine, **results, "power-after": {"power_mode": None}}.items():
        journal.steps[name] = {"state": "done", "seconds": 1.0, "why": None, "result": json.loads(json.dumps(result))}
    return journal
