"""Time of the vision graphs of plans alone, in turns: `python docs/results/encoder_measure.py BUNDLE none p40at5`.

Every round runs each plan once on a new noise picture, so that load of the machine falls on all. Ratios are of the
first plan's time in the same round; shown are medians and the smallest and largest ratio. OpenVINO on the CPU, in the
arithmetic it is best at.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from luvc_export.bundle.folder import load
from luvc_export.runtime.openvino.backend import OpenVinoBackend


def main(folder: str, names: list[str], rounds: int = 4) -> None:
    """Print a table of the plans ``names``."""
    bundle = load(Path(folder))
    backs = {name: OpenVinoBackend(bundle, bundle.manifest.plans[name]) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    random = np.random.default_rng(0)
    for number in range(rounds + 1):
        for name, back in backs.items():
            height, width = bundle.manifest.image.size
            image = random.integers(0, 256, (1, 1, height, width, 3), dtype=np.uint8)
            begin = time.perf_counter()
            back.vision(image)
            if number:  # the first round compiles
                times[name].append(1000 * (time.perf_counter() - begin))
    print("| plan | vision ms | against the first | smallest, largest |\n| --- | --- | --- | --- |")
    for name in names:
        ratios = [first / own for first, own in zip(times[names[0]], times[name], strict=True)]
        print(f"| {name} | {median(times[name]):.0f} | {median(ratios):.2f}x | {min(ratios):.2f}, {max(ratios):.2f} |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
