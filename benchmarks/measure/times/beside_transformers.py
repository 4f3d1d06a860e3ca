"""A random model in a published shape beside transformers' torch path: first token, prefill, decode steps, in one run.

Run: python benchmarks/measure/times/beside_transformers.py FOLDER [--preset qwen3.5-0.8b] [--layers N] [--only WAY ...]
[--prepare]. The prompt is a picture of 1,024 visual tokens between two halves of 76 of text. Every way is a process of
its own: it loads, warms up with one answer, and times ``--runs`` answers of nine tokens about other ids; what
transformers is given are pixels ready in memory. Records go to docs/results/beside-transformers.json, the table to the
page beside it; ways left out keep theirs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

PAGE = Path(__file__).resolve().parents[3] / "docs" / "results" / "beside-transformers.md"
TEXT, NEW = 76, 9
#: Of the picture: 1,024 visual tokens (Qwen3.5).
SIDES = {"qwen3.5-0.8b": 1024}
#: Name, back-end or ``transformers``, arithmetic.
WAYS = (
    ("OpenVINO", "openvino", "auto"),
    ("transformers bf16", "transformers", "bfloat16"),
    ("OpenVINO fp32", "openvino", "fp32"),
    ("ONNX Runtime fp32", "cpu", "fp32"),
    ("transformers fp32", "transformers", "float32"),
)
HEAD = """# Beside transformers

Written by `python benchmarks/measure/times/beside_transformers.py FOLDER`: random weights in the shapes of a published
model, stored in bf16; plan `none`; 1,024 visual tokens and 76 of text. First token: from the picture's pixels (in
transformers: pixels ready in memory) to the first token. Prefill: the LLM's part of it (in transformers without the
head). Medians, and the range of {runs}. GB/s is the weights and the cache that a step reads by its time. transformers
runs its torch path: kernels of its hybrid layers are for GPUs.

| model | way | first token, s | prefill, s | decode step, ms | GB a step | GB/s |
|---|---|---|---|---|---|---|
"""


def ours(bundle: Path, backend: str, arithmetic: str, runs: int) -> dict[str, Any]:
    """Times of a bundle's plan ``none``."""
    from luvc_export.runtime.bench.case import BenchCase
    from luvc_export.runtime.bench.loaded_case import LoadedCase

    case = BenchCase(bundle, plan="none", text=TEXT, new_tokens=NEW, backend=backend, arithmetic=arithmetic)
    runner = LoadedCase(case)
    runner.run(case)
    samples, facts = [runner.run(case) for _ in range(runs)], runner.facts(case)
    return {
        "first_s": [one.ttft_ms / 1000 for one in samples],
        "prefill_s": [one.prefill_ms / 1000 for one in samples],
        "step_ms": [one.decode_ms / (NEW - 1) for one in samples],
        "gb": facts.decode_bytes / 1e9,
        "runs_in": f"{facts.backend} {facts.arithmetic}",
    }


def theirs(checkpoint: Path, size: tuple[int, int], tokens: int, dtype: str, runs: int) -> dict[str, Any]:
    """Times of transformers: whole calls of the model, the language model's share of the first.

    Args:
        checkpoint: Folder.
        size: Height and width of the picture.
        tokens: Visual tokens that it must become.
        dtype: Of weights and products.
        runs: Answers that are timed.
    """
    import torch
    import transformers

    from luvc_export.export import families
    from luvc_export.export.families.base import ReferencePrompt

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    family = families.find(config["model_type"], str(checkpoint))
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        checkpoint, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    ).eval()
    spent: dict[str, list[float]] = {"visual": [], "whole": [], "llm": []}
    tower = getattr(model.model, "visual", None) or model.model.vision_tower
    for name, module in (("visual", tower), ("whole", model), ("llm", family.language_model(model))):
        module.register_forward_pre_hook(lambda *_, name=name: spent[name].append(-perf_counter()))
        module.register_forward_hook(lambda *_, name=name: spent[name].append(spent[name].pop() + perf_counter()))
    apart = list[bool]()
    tower.register_forward_pre_hook(lambda *_: apart.append(not spent["whole"]))
    draw, answers = torch.Generator().manual_seed(0), []
    image = family.image_token_id(model.config)
    for _ in range(runs + 1):
        ids = torch.randint(300, 2000, (TEXT,), generator=draw).tolist()
        frames = config["vision_config"].get("temporal_patch_size", 1)
        pixels = torch.randn(1, frames, *size, 3, generator=draw).to(getattr(torch, dtype))
        prompt = ReferencePrompt(pixels, [*ids[: TEXT // 2], image, *ids[TEXT // 2 :]])
        inputs = family.reference_inputs(model.config, prompt)
        for times in spent.values():
            times.clear()
        with torch.inference_mode():
            model.generate(**inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        answers.append({name: [*times] for name, times in spent.items()})
    rows = inputs["input_ids"].shape[1]
    assert rows - TEXT == tokens, rows
    return {  # some see before the model is called, some inside the call
        "first_s": [apart[0] * one["visual"][0] + one["whole"][0] for one in answers[1:]],
        "prefill_s": [one["llm"][0] for one in answers[1:]],
        "step_ms": [1000 * statistics.median(one["whole"][1:]) for one in answers[1:]],
        "runs_in": f"transformers {transformers.__version__}, torch {torch.__version__}",
    }


def prepare(folder: Path, preset: str, layers: int | None) -> None:
    """The checkpoint and its bundle, where they are missing."""
    side = SIDES[preset]
    if not (folder / "checkpoint").is_dir():
        sizes = [] if layers is None else ["--layers", layers]
        _command("make-random", preset, "-o", folder / "checkpoint", "--dtype", "bf16", *sizes)
    if not (folder / "bundle").is_dir():
        size = ("--image-size", f"{side}x{side}", "--text-capacity", 512)
        _command("export", folder / "checkpoint", "-o", folder / "bundle", "--plan", "none", *size)


def page(records: list[dict[str, Any]]) -> str:
    """The table, and on what CPU."""
    lines = []
    for one in records:
        step = statistics.median(one["step_ms"])
        read = [f"{one['gb']:.2f}", f"{1000 * one['gb'] / step:.1f}"] if "gb" in one else ["", ""]
        first = spread(one["first_s"]) if "first_s" in one else "not taken"
        cells = [one["model"], f"{one['way']} ({one['runs_in']})", first, spread(one["prefill_s"])]
        lines.append("| " + " | ".join([*cells, spread(one["step_ms"], 1), *read]) + " |")
    cpus, timed = sorted({one["cpu"] for one in records}), {(one["model"], one["way"]) for one in records}
    models = sorted({model for model, _ in timed})
    lacking = [f"{model}: {way}" for model in models for way, *_ in WAYS if (model, way) not in timed]
    left = f" Not run yet: {', '.join(lacking)}." if lacking else ""
    return HEAD.format(runs=len(records[0]["first_s"])) + "\n".join(lines) + f"\n\n{'; '.join(cpus)}.{left}\n"


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _command(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "luvc_export", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Prepare, time each way, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="qwen3.5-0.8b", choices=SIDES)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=[name for name, *_ in WAYS])
    parser.add_argument("--prepare", action="store_true", help="Make what is missing, and time nothing.")
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        kind, arithmetic = asked.way
        if kind == "transformers":
            side = SIDES[asked.preset]
            times = theirs(asked.folder / "checkpoint", (side, side), 1024, arithmetic, asked.runs)
        else:
            times = ours(asked.folder / "bundle", kind, arithmetic, asked.runs)
        print("\n" + json.dumps(times))
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    prepare(asked.folder, asked.preset, asked.layers)
    if asked.prepare:
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from run import cpu

    figures = PAGE.with_suffix(".json")
    model = asked.preset if asked.layers is None else f"{asked.preset}, {asked.layers} layers"
    for name, kind, arithmetic in WAYS:
        if asked.only and name not in asked.only:
            continue
        words = [asked.folder, "--preset", asked.preset, "--runs", asked.runs, "--way", kind, arithmetic]
        command = [sys.executable, __file__, *map(str, words)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        record = {"model": model, "way": name, "cpu": cpu(), **json.loads(done.stdout.splitlines()[-1])}
        record = {
            key: np.round(value, 4).tolist() if isinstance(value, list) else value for key, value in record.items()
        }
        print(json.dumps(record), flush=True)
        known = json.loads(figures.read_text(encoding="utf-8")) if figures.is_file() else []
        known = [one for one in known if (one["model"], one["way"]) != (model, name)] + [record]
        order = [way for way, *_ in WAYS]
        known.sort(key=lambda one: (one["model"], order.index(one["way"])))
        figures.write_text("[\n" + ",\n".join(map(json.dumps, known)) + "\n]\n", encoding="utf-8")
        PAGE.write_text(page(known), encoding="utf-8")


if __name__ == "__main__":
    main()
