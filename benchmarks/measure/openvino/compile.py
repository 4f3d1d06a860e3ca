"""What loading into OpenVINO costs: writing out, reading, compiling, and what its exported model would cost.

Run: python benchmarks/measure/openvino/compile.py BUNDLE PLAN [ARITHMETIC]. Prints Markdown: seconds of wall clock,
and of this process's CPU where the two differ by waiting for the disk.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.graphs import read_graph
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.compiling import compile_graph
from luvc_export.runtime.openvino.inline import write_out
from luvc_export.runtime.openvino.model import GraphReader


def spent(work: Callable[[], Any]) -> tuple[Any, str]:
    """Its result, and "wall (CPU)" seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, f"{time.perf_counter() - wall:.2f} ({time.process_time() - cpu:.2f})"


def main() -> None:
    """Measure both graphs."""
    bundle, plan = bundles.load(sys.argv[1]), sys.argv[2]
    device = devices.find("CPU")
    arithmetic = devices.arithmetic(device, sys.argv[3] if len(sys.argv) > 3 else "auto")
    entry, states = bundle.entry(plan), bundle.manifest.decoder.kept
    caches = [name for state in states if not state.dtype for name in (state.past, state.present)]
    print(f"{plan}, {arithmetic}; seconds, those of the CPU in brackets\n")
    print("| graph | weights GB | written out | read, with that | compiled | exported GB | exported | imported |")
    print("|---|---|---|---|---|---|---|---|")
    for name in (entry.vision, entry.decoder):
        checked = read_graph(bundle, name)
        _, out = spent(lambda checked=checked: write_out(checked, lambda tensor: b""))
        graph, read = spent(lambda name=name: GraphReader(bundle).read(name))
        compiled_graph, compiled = spent(lambda graph=graph: compile_graph(graph, device, arithmetic, caches=caches))
        blob, exported = spent(compiled_graph.model.export_model)
        size = len(blob.getvalue()) / 1e9
        _, imported = spent(lambda blob=blob: devices.core().import_model(blob.getvalue(), device.name))
        print(
            f"| {name} | {graph.weight_bytes / 1e9:.2f} | {out} | {read} | {compiled} | {size:.2f} "
            f"| {exported} | {imported} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
