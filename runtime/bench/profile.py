"""Where the time goes inside a graph, from the back-end's own profile: kernels by operator, merges and prunes alone.

Merges and prunes are functions of the domain ``luvc`` whose nodes carry its name (docs/surgery.md); ONNX Runtime keeps
the names when it inlines them. Counted is the time of those nodes' kernels: the whole merge, or the whole prune and its
norm, which the next layer then need not compute again. A profile adds some microseconds to every node.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luvc_export.core.files.safe_files import temporary_folder
from luvc_export.errors import BundleError
from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.bench.worker import Worker

_KERNEL = "_kernel_time"
_PARTS = {
    "merge": ("luvc.OrthogonalMerge", "luvc.MergeAxis"),
    "prune": ("luvc.SpectrumPrune", "luvc.SpectrumDrop"),
}


@dataclass(frozen=True)
class KernelTimes:
    """Milliseconds of one graph's kernels in one run.

    Args:
        total_ms: All kernels.
        merge_ms: Kernels of merges.
        prune_ms: Kernels of prunes.
        operators: Milliseconds by operator, most first.
    """

    total_ms: float
    merge_ms: float
    prune_ms: float
    operators: dict[str, float]


def profile(case: BenchCase, runs: int = 3) -> dict[str, KernelTimes]:
    """Profile vision and prefill of ``case``, mean of ``runs`` after one to warm up. Raises what ``Worker`` raises."""
    with temporary_folder("luvc-profile") as folder:
        only_prefill = replace(case, new_tokens=1)
        with Worker(only_prefill, str(folder / "run")) as worker:
            for _ in range(runs + 1):
                worker.run(only_prefill)
            files = worker.profiles()
        return {name: read(Path(file), runs) for name, file in files.items()}


def read(path: Path, runs: int) -> KernelTimes:
    """Read a profile of 1 + ``runs`` runs and leave the first out.

    Raises:
        BundleError: The file holds no kernels.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, dict):  # OpenVINO's, which has left the first run out already
        events, runs = [event for event in data["mean"] if _is_kernel(event)], 0
    else:
        events = [event for event in data if _is_kernel(event)]
    if not events or len(events) % (runs + 1):
        raise BundleError("the profile holds no whole runs", where=str(path), got=f"{len(events)} kernels")
    kept = sorted(events, key=lambda event: event["ts"])[len(events) // (runs + 1) if runs else 0 :]
    spent: dict[str, float] = {}
    parts = dict.fromkeys(_PARTS, 0.0)
    for event in kept:
        cost = event["dur"] / 1000 / max(1, runs)
        spent[event["args"]["op_name"]] = spent.get(event["args"]["op_name"], 0.0) + cost
        for part, names in _PARTS.items():
            parts[part] += cost if any(name in event["name"] for name in names) else 0.0
    most_first = dict(sorted(spent.items(), key=lambda item: -item[1]))
    return KernelTimes(sum(spent.values()), parts["merge"], parts["prune"], most_first)


def _is_kernel(event: Any) -> bool:
    return isinstance(event, dict) and event.get("cat") == "Node" and str(event.get("name")).endswith(_KERNEL)
