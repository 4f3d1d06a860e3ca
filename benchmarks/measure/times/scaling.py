"""Measure how the cost of prefill grows with layers and with visual tokens: docs/results/growth.md.

Run: python benchmarks/measure/times/scaling.py FOLDER. FOLDER gets random models of Qwen2.5-VL's kind with small
layers, their bundles, scaling.json and scaling.png. Each model and plan runs in a process of its own, in turns, as
``benchmarks/measure/times/performance.py`` does; two rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

LAYERS, AT_SIDE = (4, 8, 16), 896
SIDES, AT_LAYERS = (448, 896, 1792), 8
PLANS = ("none", "thirds")
ROUNDS = 2
TEXT = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "num_key_value_heads": 2}
VISION = {"hidden_size": 320, "intermediate_size": 856, "num_heads": 4, "depth": 1, "fullatt_block_indexes": [0]}


def main() -> None:
    """Make what is not there, time it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    cases = sorted({(layers, AT_SIDE) for layers in LAYERS} | {(AT_LAYERS, side) for side in SIDES})
    for layers, side in cases:
        make(folder, layers, side)
    times: dict[tuple[int, int, str], list[float]] = {}
    for _ in range(ROUNDS):
        for layers, side in cases:
            for plan in PLANS:
                times.setdefault((layers, side, plan), []).extend(prefill(bundle(folder, layers, side), plan))
    middle = {case: statistics.median(runs) for case, runs in times.items()}
    (folder / "scaling.json").write_text(json.dumps({str(case): runs for case, runs in times.items()}, indent=1))
    print(table(middle))
    draw(middle, folder / "scaling.png")


def make(folder: Path, layers: int, side: int) -> None:
    """Checkpoint and bundle of one case."""
    from luvc_export.export.synthetic.presets import PRESETS

    checkpoint, target = folder / f"model-{layers}", bundle(folder, layers, side)
    tool = [sys.executable, "-m", "luvc_export"]
    if not checkpoint.is_dir():
        config = json.loads(json.dumps(PRESETS["qwen2.5-vl-3b"].config))
        config["text_config"] |= {**TEXT, "num_hidden_layers": layers}
        config["vision_config"] |= {**VISION, "out_hidden_size": TEXT["hidden_size"]}
        path = folder / f"config-{layers}.json"
        path.write_text(json.dumps(config))
        subprocess.run([*tool, "make-random", path, "-o", checkpoint, "--dtype", "fp32"], check=True)
    if not target.is_dir():
        plans = [word for plan in PLANS for word in ("--plan", plan)]
        options = ["--image-size", f"{side}x{side}", "--weights", "reference", "--text-capacity", "512"]
        subprocess.run([*tool, "export", checkpoint, "-o", target, *plans, *options], check=True)


def bundle(folder: Path, layers: int, side: int) -> Path:
    """Where the bundle of a case lies."""
    return folder / f"bundle-{layers}-{side}"


def prefill(path: Path, plan: str) -> list[float]:
    """Seconds of each run, in a process of its own."""
    script = Path(__file__).with_name("performance.py")
    command = [sys.executable, script, path, "--one", "--plans", plan]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return list(record["prefill_s"])


def slope(points: list[tuple[float, float]]) -> float:
    """Exponent of a power law through the first and the last point."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    return math.log(y1 / y0) / math.log(x1 / x0)


def curves(middle: dict[tuple[int, int, str], float]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Points (layers or visual tokens, seconds) of each plan."""
    tokens = {side: (side // 28) ** 2 for side in SIDES}
    return {
        "layers": {plan: [(layers, middle[layers, AT_SIDE, plan]) for layers in LAYERS] for plan in PLANS},
        "visual tokens": {plan: [(tokens[s], middle[AT_LAYERS, s, plan]) for s in SIDES] for plan in PLANS},
    }


def table(middle: dict[tuple[int, int, str], float]) -> str:
    """Markdown: medians and exponents."""
    rows = []
    for axis, plans in curves(middle).items():
        heads = [f"{x:,.0f}" for x, _ in plans[PLANS[0]]]
        rows += ["", f"| prefill s by {axis} | " + " | ".join(heads) + " | exponent |", "|---" * (len(heads) + 2) + "|"]
        for plan, points in plans.items():
            cells = [f"{seconds:.3f}" for _, seconds in points]
            rows.append(f"| {plan} | " + " | ".join(cells) + f" | {slope(points):.2f} |")
    return "\n".join(rows[1:])


def draw(middle: dict[tuple[int, int, str], float], path: Path) -> None:
    """Both curves on logarithmic axes, with lines of slope 1 and 2."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, (name, plans) in zip(axes, curves(middle).items(), strict=True):
        for plan, points in plans.items():
            axis.loglog(*zip(*points, strict=True), "o-", label=f"{plan}, exponent {slope(points):.2f}")
        (x0, y0), (x1, _) = plans[PLANS[0]][0], plans[PLANS[0]][-1]
        for power, style in ((1, ":"), (2, "--")):
            axis.loglog([x0, x1], [y0, y0 * (x1 / x0) ** power], style, color="grey", label=f"slope {power}")
        axis.set(xlabel=name, ylabel="prefill, s")
        axis.set_xticks([x for x, _ in plans[PLANS[0]]], [f"{x:,}" for x, _ in plans[PLANS[0]]])
        axis.minorticks_off()
        axis.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
