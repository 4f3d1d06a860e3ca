"""Gemma 4 in E2B's shape, random weights: memory of an export, the exact exit, five budgets in one bundle.

Run: python benchmarks/measure/times/gemma4.py FOLDER [PART ...] [--layers 10]. Parts, all but ``times`` by default:

- ``memory``: the whole shape (10 GB of disk; 20 while weights are copied) exported with plan ``none``, weights referred
  to and copied; the largest resident set of the process that exports, beside the checkpoint's bytes.
- ``budgets``: the first layers with ``--image-tokens auto``, five sizes in one bundle, beside a bundle of one.
- ``exit``: all layers, 1,089 visual tokens: FLOPs of the decoder's graph with the exit and without it (every row
  goes through the layers that read other layers' caches, as the model is written).
- ``apart``: how far logits of the first layers are apart in fp32 (12 GB of memory).
- ``times``: first tokens of both and of transformers, 76 tokens of text; nothing else may run beside it.

Records go to docs/results/gemma4.json, the page beside it; parts left out keep theirs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

HERE = Path(__file__).resolve()
PAGE = HERE.parents[3] / "docs" / "results" / "gemma4.md"
#: Of a square picture within the largest budget, 1,120.
TOKENS = 1089
#: Ways of the part ``times``: name, bundle, back-end, arithmetic.
WAYS = (
    ("with the exit", "checkpoint-exit", "openvino", "auto"),
    ("without it", "checkpoint-whole-rows", "openvino", "auto"),
    ("transformers", "", "transformers", "bfloat16"),
    ("with the exit", "checkpoint-exit", "cpu", "fp32"),
    ("without it", "checkpoint-whole-rows", "cpu", "fp32"),
)
_EXPORT = """
import json, resource, sys
from luvc_export import export_bundle
export_bundle(sys.argv[1], sys.argv[2], "none", weights=sys.argv[3])
print(json.dumps(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


def memory(folder: Path, layers: int) -> list[dict[str, Any]]:
    """The largest resident set of an export of all layers."""
    checkpoint = _checkpoint(folder / "all-layers", None)
    size, records = _bytes(checkpoint, "*.safetensors"), list[dict[str, Any]]()
    for weights in ("reference", "copy"):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = [sys.executable, "-c", _EXPORT, str(checkpoint), f"{scratch}/bundle", weights]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        records.append({"checkpoint": size, "weights": weights, "peak": json.loads(done.stdout.splitlines()[-1])})
    return records


def budgets(folder: Path, layers: int) -> list[dict[str, Any]]:
    """Bytes of a bundle of all budgets and of one, and each size."""
    checkpoint = _checkpoint(folder / "checkpoint", layers)
    for name, asked in (("one", "280"), ("five", "auto")):
        if not (folder / name).is_dir():
            _command("export", checkpoint, "-o", folder / name, "--plan", "none", "--image-tokens", asked)
    from luvc_export.bundle.folder import load

    entries = load(folder / "five").manifest.plans.values()
    sizes = [[*entry.size, entry.plan.vision_tokens] for entry in entries]
    return [{"layers": layers, "one": _bytes(folder / "one"), "weights": (folder / "one/weights").stat().st_size,
             "five": _bytes(folder / "five"), "sizes": sizes}]  # fmt: skip


def prepare(folder: Path, layers: int | None) -> tuple[Path, Path]:
    """Export both forms of the model; the bundles with the exit and without it."""
    import torch

    from luvc_export import export_bundle, make_plan
    from luvc_export.export.families import gemma4
    from luvc_export.export.layers import attention
    from luvc_export.export.llm import decoder as decoders
    from luvc_export.export.llm.span import rows_at

    class WithoutExit(gemma4.Gemma4Decoder):
        """Visual rows have embeddings of the last layers too."""

        def carried(self, visual: torch.Tensor) -> torch.Tensor | None:
            self.pictures = visual
            return super().carried(visual)

        def own_embeddings(self, layers: range, visual: Any, words: Any, input_ids: Any) -> dict[int, torch.Tensor]:
            return super().own_embeddings(layers, self.pictures, words, input_ids)

    def everything(consumers: Any, x: Any, text: Any, index: Any, producers: Any, beside: Any) -> Any:
        for (number, layer), own in zip(consumers.layers.items(), beside, strict=True):
            key, value, past, sight, places = producers[consumers.sources[number]]
            query = consumers.query(layer, x, sight.placed.cos, sight.placed.sin)
            mask = sight.mask(consumers.kind(layer), past, places)
            x = consumers.finish(layer, x, attention(query, key, value, mask, consumers.scale), own)
        return rows_at(x, index, sight.pictures)

    part = "all-layers" if layers is None else "checkpoint"
    checkpoint, size = _checkpoint(folder / part, layers), _size(folder)
    leaves, stays = folder / f"{part}-exit", folder / f"{part}-whole-rows"
    plan = {"none": make_plan(str(checkpoint), schedule="none", image_size=size)}
    if not leaves.is_dir():
        export_bundle(str(checkpoint), leaves, plan, image_size=size, weights="reference")
    if not stays.is_dir():
        with (
            mock.patch.object(gemma4, "Gemma4Decoder", WithoutExit),
            mock.patch.object(decoders, "rows_at", lambda values, *_: values),
            mock.patch.object(decoders, "consume", everything),
        ):
            export_bundle(str(checkpoint), stays, plan, image_size=size, weights="reference")
    return leaves, stays


def exits(folder: Path, layers: int) -> list[dict[str, Any]]:
    """FLOPs of both graphs, of all layers."""
    import onnx

    from luvc_export.bundle.folder import load
    from luvc_export.export.surgeon.flops import by_layer

    counted = dict[str, int]()
    for name, where in zip(("exit", "whole-rows"), prepare(folder, None), strict=True):
        manifest = load(where).manifest
        entry = manifest.plans["none"]
        graph = onnx.load(str(where / entry.decoder), load_external_data=False)
        counted[name] = sum(row["flops"] for row in by_layer(graph, entry.plan))
    return [{"layers": manifest.decoder.layers, "shared": manifest.decoder.shared, "flops": counted}]


def times(folder: Path, layers: int) -> list[dict[str, Any]]:
    """First token, prefill and steps of each way, a process of its own."""
    prepare(folder, layers)
    records = list[dict[str, Any]]()
    for name, bundle, kind, arithmetic in WAYS:
        command = [sys.executable, str(HERE), str(folder), "--way", bundle or "-", kind, arithmetic]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        record = {"way": name, "layers": layers, **json.loads(done.stdout.splitlines()[-1])}
        record |= {key: np.round(value, 4).tolist() for key, value in record.items() if isinstance(value, list)}
        print(json.dumps(record), flush=True)
        records.append(record)
    return records


def apart(folder: Path, layers: int) -> list[dict[str, Any]]:
    """Relative L2 of the first token's logits with and without the exit, fp32."""
    from luvc_export.runtime.session import Session

    rows = []
    for bundle in prepare(folder, layers):
        plan = Session(bundle, "cpu").default
        spec, image = plan.bundle.manifest.image, plan.bundle.manifest.prompt.image_token_id
        picture = np.random.default_rng(0).integers(0, 256, (1, spec.frames, *spec.size, 3), np.uint8)
        step = plan.run([*range(300, 316), image, *range(316, 332)], plan.encode_images(picture))
        rows.append(step.logits[0, -1].astype(np.float64))
        plan.backend.unload()  # type: ignore[attr-defined]
    return [{"layers": layers, "apart": float(np.linalg.norm(rows[0] - rows[1]) / np.linalg.norm(rows[1]))}]


def page(known: dict[str, list[dict[str, Any]]]) -> str:
    """What was measured, part by part."""
    lines = ["# Gemma 4", "", "Written by `python benchmarks/measure/times/gemma4.py FOLDER [PART ...]`: E2B's shape,"
             " random weights, stored in bf16."]  # fmt: skip
    if records := known["memory"]:
        lines += ["", "## Memory of an export", "", f"All layers, a checkpoint of {records[0]['checkpoint'] / 1e9:.2f}"
                  " GB, plan `none`: the largest resident set of the process.", "",
                  "| weights | GB | of the checkpoint |", "|---|---|---|"]  # fmt: skip
        for one in records:
            kind, peak = one["weights"], one["peak"]
            lines.append(f"| `--weights {kind}` | {peak / 1e9:.2f} | {peak / one['checkpoint']:.2f} |")
    for one in known["budgets"]:
        share = one["five"] / one["weights"]
        lines += ["", "## Five budgets in one bundle", "", f"The first {one['layers']} layers, `--image-tokens auto`:"
                  f" {one['five'] / 1e9:.3f} GB, {share:.3f} times the weights of a bundle of one"
                  f" ({one['weights'] / 1e9:.3f} GB; {one['one'] / 1e9:.3f} GB with its graph).", "",
                  "| picture | visual tokens |", "|---|---|"]  # fmt: skip
        lines += [f"| {height}x{width} | {tokens:,} |" for height, width, tokens in one["sizes"]]
    if records := known["exit"]:
        lines += ["", "## The exact exit", "", f"The decoder's graph with {TOKENS:,} visual tokens and 64 of text."
                  " Layers that read caches of others run for rows whose logits are asked for; without the exit, for"
                  " every row.", "",
                  "| layers | of them read others' caches | GFLOPs with the exit | without it | |",
                  "|---|---|---|---|---|"]  # fmt: skip
        for one in records:
            less, all_rows = (one["flops"][name] / 1e9 for name in ("exit", "whole-rows"))
            share = f"{all_rows / less:.2f}x"
            lines.append(f"| {one['layers']} | {one['shared']} | {less:,.0f} | {all_rows:,.0f} | {share} |")
    for one in known["apart"]:
        lines += ["", f"Logits of the first token with and without it are {one['apart']:.0e} apart (relative L2, fp32,"
                  f" ONNX Runtime, {one['layers']} layers)."]  # fmt: skip
    if records := known["times"]:
        first = records[0]
        lines += ["", "## First tokens", "", f"The first {first['layers']} layers, {first['shared']} of which read"
                  f" caches of others; {TOKENS:,} visual tokens, 76 of text. {first['cpu']}.", "",
                  "| way | runs in | first token, s | prefill, s | decode step, ms |",
                  "|---|---|---|---|---|"]  # fmt: skip
        for one in records:
            spans = [f"{statistics.median(one[key]):.2f} ({min(one[key]):.2f} to {max(one[key]):.2f})"
                     for key in ("first_s", "prefill_s")]  # fmt: skip
            step = f"{statistics.median(one['step_ms']):.0f}"
            lines.append("| " + " | ".join([one["way"], one["runs_in"], *spans, step]) + " |")
    else:
        lines += ["", "First tokens with and without the exit and of transformers (part `times`) were not taken yet."]
    return "\n".join(lines) + "\n"


def _checkpoint(folder: Path, layers: int | None) -> Path:
    if not folder.is_dir():
        sizes = () if layers is None else ("--layers", layers)
        _command("make-random", "gemma4-e2b", "-o", folder, "--dtype", "bf16", *sizes)
    return folder


def _size(folder: Path) -> tuple[int, int]:
    """Of the picture with most tokens that the bundle of all budgets has."""
    from luvc_export.bundle.folder import load

    entries = load(folder / "five").manifest.plans.values()
    return next(entry.size for entry in entries if entry.plan.vision_tokens == TOKENS)


def _bytes(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())


def _command(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "luvc_export", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def _way(folder: Path, bundle: str, kind: str, arithmetic: str, runs: int) -> dict[str, Any]:
    """Times of one way, in this process."""
    import beside_transformers

    from luvc_export.bundle.folder import load

    shared = load(folder / "checkpoint-exit").manifest.decoder.shared
    if kind == "transformers":
        times = beside_transformers.theirs(folder / "checkpoint", _size(folder), TOKENS, arithmetic, runs)
    else:
        times = beside_transformers.ours(folder / bundle, kind, arithmetic, runs)
    sys.path.insert(0, str(HERE.parents[2]))
    from run import cpu

    return times | {"cpu": cpu(), "shared": shared}


PARTS = {"memory": memory, "budgets": budgets, "exit": exits, "apart": apart, "times": times}


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="memory, budgets, exit, apart, times; default: all but times"
    )
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--way", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print("\n" + json.dumps(_way(asked.folder, *asked.way, asked.runs)))
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    figures = PAGE.with_suffix(".json")
    for part in asked.parts or ("memory", "budgets", "exit", "apart"):
        records = PARTS[part](asked.folder, asked.layers)
        known = json.loads(figures.read_text(encoding="utf-8")) if figures.is_file() else []
        known = [one for one in known if one["part"] != part] + [{"part": part, **one} for one in records]
        figures.write_text("[\n" + ",\n".join(map(json.dumps, known)) + "\n]\n", encoding="utf-8")
        by_part = {name: [one for one in known if one["part"] == name] for name in PARTS}
        PAGE.write_text(page(by_part), encoding="utf-8")


if __name__ == "__main__":
    main()
