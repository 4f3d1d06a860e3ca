"""Gemma 4 in E2B's shape, random weights: memory of an export, the exact exit, five budgets in one bundle.

Run: python benchmarks/measure/times/gemma4.py FOLDER [PART ...] [--layers 10] [--only WAY ...]. Parts, all but
``times`` by default:

- ``memory``: the whole shape (10 GB of disk; 20 while weights are copied) exported with plan ``none``, weights referred
  to and copied; the largest resident set of the process that exports, beside the checkpoint's bytes.
- ``budgets``: the first layers with ``--image-tokens auto``, five sizes in one bundle, beside a bundle of one.
- ``exit``: all layers, 1,089 visual tokens: FLOPs of the decoder's graph with the exit and without it (every row
  goes through the layers that read other layers' caches, as the model is written).
- ``bundles``: what the next two need, if it is missing; nothing is written.
- ``apart``: how far logits of the first layers are apart in fp32 (12 GB of memory).
- ``times``: first tokens of both and of transformers, 76 tokens of text; nothing else may run beside it.

Records go to docs/results/gemma4.json as they come, the page beside it; parts and ways left out keep theirs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

HERE = Path(__file__).resolve()
PAGE = HERE.parents[3] / "docs" / "results" / "gemma4.md"
#: Of a square picture within the largest budget, 1,120.
TOKENS = 1089
#: Of pictures whose first tokens are timed; fp32 at the larger takes minutes a token.
TIMED = (TOKENS, 272)
#: Ways of the part ``times``: name, bundle, back-end, arithmetic.
WAYS = (
    ("with the exit", "exit", "openvino", "auto"),
    ("without it", "whole-rows", "openvino", "auto"),
    ("transformers bf16", "", "transformers", "bfloat16"),
    ("with the exit, fp32", "exit", "cpu", "fp32"),
    ("without it, fp32", "whole-rows", "cpu", "fp32"),
    ("transformers fp32", "", "transformers", "float32"),
)
ORDER = [name for name, *_ in WAYS]
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


def prepare(folder: Path, layers: int | None, tokens: int = TOKENS) -> tuple[Path, Path]:
    """Export both forms of the model for pictures of so many tokens; the bundles with the exit and without it."""
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
    checkpoint, size = _checkpoint(folder / part, layers), _size(folder, tokens)
    leaves, stays = (folder / f"{part}-{tokens}-{name}" for name in ("exit", "whole-rows"))
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


def bundles(folder: Path, layers: int) -> list[dict[str, Any]]:
    """Both forms of the first layers for each picture, and no record."""
    for tokens in TIMED:
        prepare(folder, layers, tokens)
    return []


def times(
    folder: Path, layers: int, only: Sequence[str] = (), tokens: int = TOKENS, runs: int = 3
) -> Iterator[dict[str, Any]]:
    """First token, prefill and steps of each way, a process of its own."""
    prepare(folder, layers, tokens)
    for name, bundle, kind, arithmetic in WAYS:
        if only and name not in only:
            continue
        where = f"checkpoint-{tokens}-{bundle}"
        command = [sys.executable, str(HERE), str(folder), "--tokens", str(tokens), "--runs", str(runs)]
        command += ["--way", where, kind, arithmetic]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        record = {"way": name, "layers": layers, "tokens": tokens, **json.loads(done.stdout.splitlines()[-1])}
        record |= {key: np.round(value, 4).tolist() for key, value in record.items() if isinstance(value, list)}
        print(json.dumps(record), flush=True)
        yield record


def apart(folder: Path, layers: int) -> list[dict[str, Any]]:
    """Relative L2 of the first token's logits with and without the exit, fp32."""
    from luvc_export.runtime.session import Session

    rows = []
    for bundle in prepare(folder, layers, TIMED[-1]):
        plan = Session(bundle, "cpu").default
        spec, image = plan.bundle.manifest.image, plan.bundle.manifest.prompt.image_token_id
        picture = np.random.default_rng(0).integers(0, 256, (1, spec.frames, *spec.size, 3), np.uint8)
        step = plan.run([*range(300, 316), image, *range(316, 332)], plan.encode_images(picture))
        rows.append(step.logits[0, -1].astype(np.float64))
        plan.backend.unload()  # type: ignore[attr-defined]
    distance = np.linalg.norm(rows[0] - rows[1]) / np.linalg.norm(rows[1])
    return [{"layers": layers, "tokens": TIMED[-1], "apart": float(distance)}]


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
                  f" ONNX Runtime, {one['layers']} layers, {one['tokens']} visual tokens)."]  # fmt: skip
    if records := known["times"]:
        first = records[0]
        lines += ["", "## First tokens", "", f"The first {first['layers']} layers, {first['shared']} of which read"
                  f" caches of others; 76 tokens of text. A first token is from pixels, the encoder's time in it;"
                  f" prefill is the LLM's part, in transformers without the head. transformers leaves out the same"
                  f" rows."]  # fmt: skip
        for cpu in dict.fromkeys(one["cpu"] for one in records):
            lines += ["", *_timed([one for one in records if one["cpu"] == cpu])]
        timed = {(one["tokens"], one["way"]) for one in records}
        if lacking := [f"{way} ({tokens:,})" for tokens in TIMED for way in ORDER if (tokens, way) not in timed]:
            lines += ["", f"Not run: {'; '.join(lacking)}."]
    else:
        lines += ["", "First tokens with and without the exit and of transformers (part `times`) were not taken yet."]
    return "\n".join(lines) + "\n"


def _timed(records: list[dict[str, Any]]) -> list[str]:
    """The first tokens of one machine."""
    lines = [f"{records[0]['cpu']}:", "", "| visual tokens | way | runs in | first token, s | transformers' beside it |"
             " prefill, s | decode step, ms | runs |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    theirs = {_peer(one): one["first_s"] for one in records if one["way"].startswith("transformers")}
    for one in records:
        spans = [f"{statistics.median(one[key]):.2f} ({min(one[key]):.2f} to {max(one[key]):.2f})"
                 for key in ("first_s", "prefill_s")]  # fmt: skip
        peer = theirs.get(_peer(one))
        faster = f"{statistics.median(peer) / statistics.median(one['first_s']):.2f}x" if peer else ""
        step, runs = f"{statistics.median(one['step_ms']):.0f}", str(len(one["first_s"]))
        cells = [f"{one['tokens']:,}", one["way"], one["runs_in"], spans[0], faster, spans[1], step, runs]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _checkpoint(folder: Path, layers: int | None) -> Path:
    if not folder.is_dir():
        sizes = () if layers is None else ("--layers", layers)
        _command("make-random", "gemma4-e2b", "-o", folder, "--dtype", "bf16", *sizes)
    return folder


def _peer(one: dict[str, Any]) -> tuple[int, bool]:
    """Ways that are compared: of one picture, in fp32 or not."""
    return one["tokens"], one["way"].endswith("fp32")


def _size(folder: Path, tokens: int) -> tuple[int, int]:
    """Of the picture with so many tokens that the bundle of all budgets has."""
    from luvc_export.bundle.folder import load

    entries = load(folder / "five").manifest.plans.values()
    return next(entry.size for entry in entries if entry.plan.vision_tokens == tokens)


def _bytes(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())


def _command(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "luvc_export", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def _way(folder: Path, bundle: str, kind: str, arithmetic: str, tokens: int, runs: int) -> dict[str, Any]:
    """Times of one way, in this process."""
    import beside_transformers

    from luvc_export.bundle.folder import load

    shared = load(folder / f"checkpoint-{tokens}-exit").manifest.decoder.shared
    if kind == "transformers":
        times = beside_transformers.theirs(folder / "checkpoint", _size(folder, tokens), tokens, arithmetic, runs)
    else:
        times = beside_transformers.ours(folder / bundle, kind, arithmetic, runs)
    sys.path.insert(0, str(HERE.parents[2]))
    from run import cpu

    return times | {"cpu": cpu(), "shared": shared}


PARTS = {"memory": memory, "budgets": budgets, "exit": exits, "bundles": bundles, "apart": apart, "times": times}


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="memory, budgets, exit, bundles, apart, times; default: all but times"
    )
    parser.add_argument("--only", nargs="*", default=[], choices=ORDER, help="Ways of the part times.")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=TOKENS, choices=TIMED, help="Of the part times.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--way", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print("\n" + json.dumps(_way(asked.folder, *asked.way, asked.tokens, asked.runs)))
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    for part in asked.parts or ("memory", "budgets", "exit", "bundles", "apart"):
        only = {"only": asked.only, "tokens": asked.tokens, "runs": asked.runs} if part == "times" else {}
        for record in PARTS[part](asked.folder, asked.layers, **only):
            keep({"part": part, **record})


def keep(record: dict[str, Any]) -> None:
    """Put a record in the place of the one that it takes again, and write the page."""

    def place(one: dict[str, Any]) -> tuple[Any, ...]:
        weights = one["weights"] if one["part"] == "memory" else ""
        pictures = -one.get("tokens", 0)
        return [*PARTS].index(one["part"]), pictures, ORDER.index(one.get("way", ORDER[0])), weights

    figures = PAGE.with_suffix(".json")
    known = json.loads(figures.read_text(encoding="utf-8")) if figures.is_file() else []
    known = sorted([one for one in known if place(one) != place(record)] + [record], key=place)
    figures.write_text("[\n" + ",\n".join(map(json.dumps, known)) + "\n]\n", encoding="utf-8")
    by_part = {name: [one for one in known if one["part"] == name] for name in PARTS}
    PAGE.write_text(page(by_part), encoding="utf-8")


if __name__ == "__main__":
    main()
