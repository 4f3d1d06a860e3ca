"""Measure what docs/results/growth.md says of the LLM half: prefill and decode at true layer shapes.

Run: python benchmarks/measure/times/performance.py BUNDLE [--plans none thirds] [--rounds 2]. BUNDLE comes from
``luvc-export make-random qwen2.5-vl-3b -o R --layers 12 --encoder-blocks 8 --dtype fp32`` and ``luvc-export export R -o
BUNDLE --plan none --plan thirds --image-size 896x896 --weights reference``. Visual embeddings are noise, so the encoder
is not run; each plan runs in a process of its own, one at a time, in turns: two of this size do not fit side by side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

TEXT, NEW, RUNS = 64, 12, 3


def one(bundle: str, plan: str, text: int) -> dict[str, Any]:
    """Times of one plan in this process; the first prefill does not count."""
    from luvc_export.runtime.bench.loaded_case import flops
    from luvc_export.runtime.bench.profile import read
    from luvc_export.runtime.memory import anonymous_bytes, peak_bytes
    from luvc_export.runtime.ort import OrtBackend
    from luvc_export.runtime.session import Session
    from luvc_export.runtime.speculation.draft_costs import weight_bytes
    from luvc_export.runtime.state import VisualFeatures

    begin = perf_counter()
    session = Session(bundle, plan=plan)
    backend = session.backend
    assert isinstance(backend, OrtBackend)
    folder = tempfile.mkdtemp()
    backend.profile = str(Path(folder) / "p")
    backend.load(images=False)
    load = perf_counter() - begin
    manifest, own = session.bundle.manifest, session.plan
    random = np.random.default_rng(0)
    rows, columns = np.unravel_index(np.arange(own.vision_tokens), own.grid)
    positions = np.stack([rows, columns], 1)[None].astype(np.float32)
    embeds = 0.02 * random.standard_normal((1, own.vision_tokens, manifest.decoder.hidden)).astype(np.float32)
    seen = VisualFeatures(embeds, positions)
    ids = [*map(int, random.integers(0, 1000, text))]
    ids = [*ids[: text // 2], manifest.prompt.image_token_id, *ids[text // 2 :]]
    prefill, outside = [], []
    for _ in range(RUNS + 1):
        inside, begin = backend.graph_seconds, perf_counter()
        step = session.default.run(ids, seen)
        prefill.append(perf_counter() - begin)
        outside.append(prefill[-1] - (backend.graph_seconds - inside))
    profile = read(Path(backend.end_profiling()["decoder"]), RUNS)
    decode, state = [], step.state
    for _ in range(NEW):
        begin = perf_counter()
        state = session.default.run([7], state=state).state
        decode.append(perf_counter() - begin)
    return {
        "plan": plan,
        "text": text,
        "load_s": load,
        "prefill_s": prefill[1:],
        "outside_prefill_s": outside[1:],
        "decode_s": decode[2:],
        "kv_mib": state.cache.nbytes / 2**20,
        "flops": flops(manifest, own, 1, text),
        "decode_bytes": weight_bytes(manifest, 32) + state.cache.nbytes,
        "prune_ms": profile.prune_ms,
        "kernels_ms": profile.total_ms,
        "operators_ms": dict(list(profile.operators.items())[:8]),
        "peak_gib": (peak_bytes() or 0) / 2**30,
        "anonymous_gib": (anonymous_bytes() or 0) / 2**30,
    }


def main() -> None:
    """Print one JSON line a process, and the machine's rates first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--plans", nargs="+", default=["none", "thirds"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--text", type=int, default=TEXT)
    parser.add_argument("--one", action="store_true")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.bundle, options.plans[0], options.text)))
        return
    from luvc_export.runtime.bench.machine import measure_machine

    machine = measure_machine()
    print(json.dumps({"gflops": machine.flops / 1e9, "gb_per_s": machine.bandwidth / 1e9}), flush=True)
    for _ in range(options.rounds):
        for plan in options.plans:
            args = [sys.executable, __file__, options.bundle, "--one", "--plans", plan, "--text", str(options.text)]
            subprocess.run(args, check=True)


if __name__ == "__main__":
    main()
