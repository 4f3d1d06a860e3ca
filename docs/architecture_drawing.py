"""Draw docs/architecture.png: what flows where, and which room does it.

Run: python docs/architecture_drawing.py. Boxes name folders; tests/docs/test_architecture.py checks that they are there
and that none is missing.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

OUTPUT = Path(__file__).resolve().parent / "architecture.png"

TOPS = ("export", "engines", "runtime", "calibration")
#: Of a box: lower left corner, width and height, colour, title, lines. A line that is a path names a room.
Box = tuple[float, float, float, float, str, str, tuple[str, ...]]
TORCH, PLAIN, DEVICE, DATA, GLUE, FILES = "#fde2cf", "#e8e8e8", "#d3e5f7", "#e3d6f2", "#f7efc4", "#d8ecd3"
BOXES: dict[str, Box] = {
    "cli": (0.2, 8.4, 15.6, 1.5, GLUE, "verbs: a command parses, calls one function of the library, prints", (
        "luvc_export/cli: luvc_export/cli/commands, luvc_export/cli/tables   >   "
        "luvc_export/trial   >   luvc_export/packing   >   luvc_export/pipeline",
        "luvc_export/serve: luvc_export/serve/http, luvc_export/serve/interfaces over luvc_export/serve/engine",
        "luvc_export/serve/media, luvc_export/serve/tools, luvc_export/serve/tools/forms, luvc_export/serve/vectors",
        "luvc_export/search, luvc_export/batch, on a cluster luvc_export/ray    luvc_export/triton: what it runs")),
    "checkpoint": (0.2, 6.9, 2.9, 1.2, FILES, "checkpoint", ("Hugging Face", "folder or hub id")),
    "families": (0.2, 3.6, 2.9, 2.7, TORCH, "export: torch", (
        "export/families", "export/towers", "export/llm", "export/llm/states", "export/compression",
        "export/compression/scores", "export/synthetic", "export/reading",
        "export/stored, export/new_family", "export/retrieval")),
    "surgeon": (3.9, 3.6, 2.7, 2.7, TORCH, "graph surgery", (
        "export/surgeon", "export/surgeon/passes", "export/surgeon/fused", "", "for ONNX Runtime,", "or for a target")),
    "bundle": (7.3, 3.6, 2.9, 2.7, FILES, "bundle", (
        "luvc.json: plans, hashes", "vision.PLAN.onnx", "decoder.PLAN.onnx", "weights, tokenizer",
        "*.engine, plugins", "luvc_export/bundle", "luvc_export/bundle/engines",
        "luvc_export/bundle/adapters")),
    "runtime": (11.1, 3.6, 4.7, 2.7, DEVICE, "runtime: numpy and one back-end", (
        "runtime, runtime/engine, runtime/host", "runtime/generation, runtime/speculation",
        "runtime/media, runtime/prompt", "runtime/confined, runtime/adapters",
        "runtime/streams, runtime/sharing, runtime/bench", "runtime/speed_probe, runtime/product_check",
        "runtime/openvino, runtime/ort_graphs", "runtime/tensorrt on runtime/cuda")),
    "engines": (7.3, 6.9, 2.9, 1.2, DEVICE, "engines: TensorRT", ("engines", "engines/targets")),
    "pack": (11.1, 6.9, 2.3, 1.2, FILES, "pack", ("built and verified", "on the board")),
    "answer": (14.0, 6.9, 1.8, 1.2, FILES, "answer", ("text, tokens,", "what was kept")),
    "calibration": (3.9, 1.2, 11.9, 1.6, DATA, "calibration: with data", (
        "calibration/parity: is it right?   calibration/budgets: which plan?   calibration/ablation: what to prune by?",
        "calibration/quantise, calibration/quantise/modelopt: INT8 and less",
        "calibration/runners, calibration/tasks, calibration: what is compared, on what    calibration/bench: pages")),
    "plan": (0.2, 1.2, 2.9, 1.6, FILES, "plan", ("keep per layer,", "merges, score", "(a JSON file)")),
    "core": (0.2, 0.1, 15.6, 0.7, PLAIN, "", (
        "luvc_export/core: options, budgets, targets, graph inputs    luvc_export/core/plan    luvc_export/core/tasks",
        "luvc_export/core/files    luvc_export/demo")),
}  # fmt: skip
#: From, to, and what flows.
ARROWS = (
    ((1.65, 6.9), (1.65, 6.3), ""),
    ((1.65, 2.8), (1.65, 3.6), "placed"),
    ((3.1, 4.95), (3.9, 4.95), "trace"),
    ((6.6, 4.95), (7.3, 4.95), "ONNX"),
    ((10.2, 4.95), (11.1, 4.95), "run"),
    ((5.25, 6.3), (7.3, 7.5), ""),
    ((8.75, 6.9), (8.75, 6.3), "engines"),
    ((10.2, 6.2), (11.5, 6.9), ""),
    ((14.9, 6.3), (14.9, 6.9), ""),
    ((8.75, 3.6), (8.75, 2.8), ""),
    ((9.6, 2.8), (9.6, 3.6), "quantised plans"),
    ((3.9, 1.35), (3.1, 1.35), "budgets"),
)
#: Where no arrow's middle is free.
LABELS = ((5.2, 7.3, "graphs for a target"),)


def rooms() -> set[str]:
    """Folders the boxes name."""
    words = (word.strip(":") for box in BOXES.values() for line in box[6] for word in line.replace(",", " ").split())
    return {word for word in words if word in TOPS or word.startswith(("luvc_export/", *(f"{top}/" for top in TOPS)))}


def draw(axes: Axes) -> None:
    """Draw everything."""
    for x, y, width, height, colour, title, lines in BOXES.values():
        axes.add_patch(FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=0.12", fc=colour, ec="#555"))
        top = y + height - 0.28
        if title:
            axes.text(x + width / 2, top, title, ha="center", va="center", fontsize=10.5, weight="bold")
        rest = (height - (0.5 if title else 0.0)) / max(1, len(lines))
        for number, line in enumerate(lines):
            below = y + rest * (len(lines) - number - 0.5) + (0.04 if title else 0)
            code = "/" in line or line in TOPS
            axes.text(x + width / 2, below, line, ha="center", va="center", fontsize=7.8 if code and width < 5 else 8.8,
                      family="monospace" if code and width < 5 else "sans-serif")  # fmt: skip
    for start, end, label in ARROWS:
        axes.add_patch(
            FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color="#333", shrinkA=0, shrinkB=0)
        )
        if label:
            level = start[1] == end[1]
            x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
            axes.text(x if level else x + 0.12, y + (0.18 if level else 0), label, fontsize=8.5, style="italic",
                      ha="center" if level else "left", va="center")  # fmt: skip
    for x, y, label in LABELS:
        axes.text(x, y, label, fontsize=8.5, style="italic", ha="center", va="center")
    axes.set(xlim=(0, 16), ylim=(0, 9.9))
    axes.axis("off")


def main() -> None:
    """Write the picture."""
    figure, axes = plt.subplots(figsize=(13, 7.6))
    draw(axes)
    figure.savefig(OUTPUT, dpi=110, bbox_inches="tight", metadata={"Software": None})
    print(OUTPUT)


if __name__ == "__main__":
    main()
