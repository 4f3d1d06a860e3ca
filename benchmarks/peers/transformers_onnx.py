"""Graphs of ``transformers.exporters`` in ONNX Runtime, with its fusions for the CPU and fixed shapes.

They come one a part of ``generate`` and nothing drives them, so what is timed is each graph's run, on one set of inputs
(it keeps nothing): language model and head for the first token (the head over every row, as it was captured),
``decode`` for the next. No part of this model is recognised as its encoder.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import common
from transformers_sdpa import load, question


def prepare(options: dict[str, Any]) -> None:
    """Export each part once, and keep what each is called with."""
    import torch
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter
    from transformers.exporters.utils import decompose_for_generation

    folder = Path(options["out"]) / "transformers-onnx"
    if (folder / "inputs.pt").is_file():
        return
    model, inputs = load(options["checkpoint"]), question(0)
    config = OnnxConfig(ort_fusions="cpu")
    with torch.inference_mode():
        parts = decompose_for_generation(model, inputs)
    OnnxExporter().export_for_generation(model, inputs, config).save_pretrained(folder)
    torch.save({name: inputs for name, (_, inputs) in parts.items()}, folder / "inputs.pt")


def times(options: dict[str, Any]) -> dict[str, Any]:
    """Sum of the parts' times."""
    import onnxruntime
    import torch
    import transformers
    from transformers.exporters.base import ExportedModel

    folder = Path(options["out"]) / "transformers-onnx"
    inputs = torch.load(folder / "inputs.pt", weights_only=False)
    exported = ExportedModel.from_pretrained(folder)
    seconds: dict[str, list[float]] = {}
    for name, tensor in inputs.items():
        runner = exported.runners[name]
        kept = {key: value for key, value in tensor.items() if key in runner.metadata.kwargs}
        for _ in range(common.RUNS + 1):
            begin = perf_counter()
            runner(**kept)
            seconds.setdefault(name, []).append(perf_counter() - begin)
    first = [sum(runs[i] for name, runs in seconds.items() if name != "decode") for i in range(1, common.RUNS + 1)]
    version = f"transformers {transformers.__version__}, onnxruntime {onnxruntime.__version__}"
    return common.answer(version, common.VISUAL, None, [1 / s for s in seconds["decode"][1:]], first)


if __name__ == "__main__":
    common.main(prepare, times)
