"""Peak memory of loading a bundle: `python benchmarks/measure/load_peak.py BUNDLE [PLAN]`.

Each line is a process of its own that loads both graphs on ONNX Runtime: weights widened, then turned, as the graphs
say it, and turned first, as they are loaded (`luvc_export/runtime/sharing/load_memory.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys

from luvc_export.bundle.folder import load
from luvc_export.runtime import memory, ort


def loaded(folder: str, plan: str, turned: bool) -> tuple[int, int, int]:
    """Bytes at the peak, when loaded, and elements of the weights."""
    if not turned:
        ort.turned_first = lambda data, halves: data
    bundle = load(folder)
    backend = ort.OrtBackend(bundle, bundle.entry(plan or None), threads=1)
    before = memory.anonymous_bytes() or 0
    backend.load()
    entry = bundle.entry(plan or None)
    graphs = [backend._graph(name) for name in (entry.vision, entry.decoder)]
    count = sum(one.count for graph in graphs for one in graph.outside)
    return (memory.peak_bytes() or 0) - before, (memory.anonymous_bytes() or 0) - before, count


def main(folder: str, plan: str = "", turned: str = "") -> None:
    """Print a line for each order."""
    if turned:
        print(json.dumps(loaded(folder, plan, turned == "yes")))
        return
    for word in ("no", "yes"):
        command = [sys.executable, __file__, folder, plan, word]
        peak, own, count = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        figure = (
            f"{peak / count:.2f} bytes a parameter at the peak ({peak / 2**30:.2f} GiB), {own / count:.2f} once loaded"
        )
        print(f"{'turned' if word == 'yes' else 'widened'} first, {count / 1e6:,.0f} M parameters: {figure}")


if __name__ == "__main__":
    main(*sys.argv[1:])
