"""Time of the vision graphs of plans alone, in turns: `python benchmarks/measure/times/encoder.py BUNDLE none p40at5`.

Every round runs each plan once on a new noise picture, so that load of the machine falls on all. Ratios are of the
first plan's time in the same round; shown are medians and the smallest and largest ratio. OpenVINO on the CPU, in the
arithmetic it is best at, or in fp32 where the first name is `--fp32`; ONNX Runtime where it is `--ort`. With OpenVINO
the last column is what choosing and restoring units takes of the whole, as its profile of one more run says: top-k,
gathers and products without weights, where the first plan's are taken off.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from luvc_export.bundle.folder import Bundle, load
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.ort import OrtBackend

CHOOSING = ("TopK", "Gather", "MatMul", "Reduce", "Broadcast")


def opened(bundle: Bundle, name: str, how: str) -> Any:
    """Return the back-end `how` of a plan."""
    entry = bundle.manifest.plans[name]
    if how == "--ort":
        return OrtBackend(bundle, entry)
    return OpenVinoBackend(bundle, entry, arithmetic="fp32" if how == "--fp32" else "auto")


def choosing(bundle: Bundle, name: str, how: str, image: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return milliseconds of choosing and restoring, and of all, in a profiled run."""
    back = opened(bundle, name, how)
    back.profile = ""
    for _ in range(2):  # the first packs weights, and is left out
        back.vision(image)
    events = back._vision.events()
    return sum(e["dur"] for e in events if e["args"]["op_name"] in CHOOSING) / 1e3, sum(e["dur"] for e in events) / 1e3


def main(folder: str, names: list[str], how: str = "", rounds: int = 4) -> None:
    """Print a table of the plans `names`."""
    bundle = load(Path(folder))
    backs = {name: opened(bundle, name, how) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    random = np.random.default_rng(0)
    height, width = bundle.manifest.image.size
    for number in range((rounds if not how else 2) + 1):
        image = random.integers(0, 256, (1, 1, height, width, 3), dtype=np.uint8)
        for name, back in backs.items():
            begin = time.perf_counter()
            back.vision(image)
            if number:  # the first round compiles
                times[name].append(1000 * (time.perf_counter() - begin))
    del backs, back
    print("| plan | vision ms | against the first | smallest, largest | choosing and restoring |")
    print("| --- | --- | --- | --- | --- |")
    first = 0.0
    for name in names:
        ratios = [first / own for first, own in zip(times[names[0]], times[name], strict=True)]
        saved = ""
        if not how:
            own, every = choosing(bundle, name, how, image)
            first = own if name == names[0] else first
            saved = f"{(own - first) / every:.1%}"
        cells = f"{median(times[name]):.0f} | {median(ratios):.2f}x | {min(ratios):.2f}, {max(ratios):.2f} | {saved}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    flagged = sys.argv[2].startswith("--")
    main(sys.argv[1], sys.argv[3 if flagged else 2 :], sys.argv[2] if flagged else "")
