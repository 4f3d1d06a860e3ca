"""Time compressed LLM layers against uncompressed ones, each under a CUDA graph: no TensorRT, no checkpoint.

    python tests/gpu/time_layers.py                                # Qwen2.5-VL 3B and 7B, to $OUT or gpu-check-out
    python tests/gpu/time_layers.py --device cpu --tiny -o /tmp/x  # only shows that this runs

Weights are random, sizes are published ones. ``same`` compares a replayed graph with plain execution: the tokens that
prunes keep must be equal and logits within the dtype's rounding.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import torch
from layer_shapes import Model, plans, shape_of
from measuring import machine, median_ms, options_of, require_gpu, write

from luvc_export.core.plan import Plan
from luvc_export.errors import LuvcError

MODELS = ("qwen2.5-vl-3b", "qwen2.5-vl-7b")
#: One replay against plain execution of the same kernels: only the choice of a split may differ.
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 5e-3, torch.float32: 1e-4}

#: Runs before a capture: libraries choose kernels and take workspaces in the first ones.
_WARM_UP = 3

Run = Callable[[], tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]]


def as_graph(run: Run, device: str) -> Run:
    """``run`` as a CUDA graph whose outputs stay in place; on a CPU ``run`` itself."""
    if device == "cpu":
        return run
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()

    def replay() -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        graph.replay()
        return outputs

    return replay


def time_plan(model: Model, plan: Plan, text: int, runs: int) -> dict[str, Any]:
    """Prefill of one image and ``text`` tokens, then a decode step: medians, cache size, whether graphs agree.

    ``peak_mib`` is what torch held at most: weights, caches and both graphs.
    """
    if model.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    decoder = model.decoder(plan)
    prompt = model.prompt(plan, text)
    with torch.no_grad(), torch.device(model.device):
        expected, past, kept = decoder(**prompt)
        prefill = as_graph(lambda: decoder(**prompt), model.device)
        row: dict[str, Any] = {"prefill_ms": median_ms(prefill, model.device, runs)}
        got, _, got_kept = prefill()
        row["same"] = _close(got, expected, model.dtype) and all(map(torch.equal, got_kept, kept))
        step = model.step(plan, text, past)
        logits = decoder(**step)[0]
        decode = as_graph(lambda: decoder(**step), model.device)
        row["decode_ms"] = median_ms(decode, model.device, runs)
        row["same"] &= _close(decode()[0], logits, model.dtype)
    row["kv_mib"] = sum(cache.numel() * cache.element_size() for cache in past) / 2**20
    if model.device == "cuda":
        row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return row


def _close(got: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Logits of a replay against those of plain execution in ``dtype``; a NaN is never close."""
    limit = TOLERANCE[dtype] * float(expected.abs().max())
    return bool((got - expected).abs().max() <= limit)


def time_model(name: str, device: str, dtype: torch.dtype, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each plan; ``speedup`` is against the plan ``none``."""
    shape = shape_of(name)
    shape = dataclasses.replace(shape, layers=options.layers or shape.layers)
    model, rows = Model(shape, device, dtype), []
    for side in options.sides:
        timed = []
        for plan_name, plan in plans(shape, (side, side), options.text).items():
            row = {"model": name, "layers": shape.layers, "dtype": str(dtype).removeprefix("torch."), "plan": plan_name}
            row |= {"units": side * side, "visual_tokens": plan.vision_tokens, "text_tokens": options.text}
            timed.append(row | time_plan(model, plan, options.text, options.runs))
            timed[-1]["prefill_speedup"] = timed[0]["prefill_ms"] / timed[-1]["prefill_ms"]
        rows += timed
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Write the measurement; exit code 3 without a GPU, 1 where a graph disagrees with plain execution."""
    parser = options_of(__doc__, MODELS, runs=31)
    parser.add_argument("--layers", type=int, help="fewer layers, where memory is short")
    options = parser.parse_args(arguments)
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    try:
        require_gpu(options.device, options.out)
        where, rows = machine(options.device), []
        for name in ("tiny",) if options.tiny else options.models:
            rows += time_model(name, options.device, dtype, options)
        title = "LLM layers, compressed and not, under a CUDA graph (torch, random weights)"
        print(write(options.out, "layers", title, where, rows).read_text(encoding="utf-8"))
    except LuvcError as error:
        print(f"time_layers: nothing was measured: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if all(row["same"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
