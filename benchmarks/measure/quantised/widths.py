"""Trials, time and memory of q4's search for eight bits: `python benchmarks/measure/quantised/widths.py DIR`.

Writes a model of random weights with layer shapes of a real one to DIR (Qwen2.5-VL-3B's, one LLM layer, one encoder
block, 1,024 tokens in its vocabulary) and quantises it on cases of the task `glyph`: with four bits alone
(`--divergence inf`), and with the search, which `--divergence 0` makes as long as it can be: no block is spared, every
product is ranked. A row is printed after every trial, and of both ways their sum. `--bundle` takes a bundle of your
own; `--times` times the two that were made, a prompt with a picture and a token, in turns. One thread.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export import export_bundle
from luvc_export.bundle.folder import MANIFEST, load
from luvc_export.calibration import datasets
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.quantiser import Quantiser
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.core.precision import PRECISIONS
from luvc_export.export.synthetic import checkpoint, presets
from luvc_export.export.synthetic.presets import Preset
from luvc_export.runtime import memory
from luvc_export.runtime.session import Session

VOCABULARY, FIRST_SPECIAL = 1024, 512
IMAGE_SIZE = (280, 280)
ROUNDS, WARM = 20, 2
#: Folders of the two ways by their name.
WAYS = ("four", "search")


def small(name: str, layers: int, blocks: int) -> Preset:
    """A published model cut to so many layers and blocks, and to a small vocabulary: special tokens come first."""
    preset = presets.resized(presets.find(name), layers, blocks)
    shift = min(preset.tokens) - FIRST_SPECIAL

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: VOCABULARY if key == "vocab_size" else moved(one) for key, one in value.items()}
        return value - shift if isinstance(value, int) and value in preset.tokens else value

    tokens = {number - shift: text for number, text in preset.tokens.items()}
    return replace(preset, config=moved(preset.config), tokens=tokens)


def own_bundle(options: argparse.Namespace) -> Path:
    """The bundle in DIR, made if it is not there."""
    bundle: Path = options.folder / "bundle"
    if not (bundle / MANIFEST).is_file():
        model = options.folder / "model"
        count = checkpoint.write(small(options.preset, options.layers, options.encoder_blocks), model, "fp32")
        export_bundle(str(model), bundle, "none", image_size=IMAGE_SIZE)
        print(f"{options.preset}, {options.layers} layers, {options.encoder_blocks} blocks: {count / 1e6:,.0f} M")
    return bundle


def quantised(bundle: Path, way: str, options: argparse.Namespace) -> None:
    """Quantise one way, and print a line for each trial and for all of it."""
    begin, spent, written = time.perf_counter(), time.process_time(), Quantiser.trial
    trials, last = 0, begin

    def counted(self: Quantiser, high: Any, record: Any) -> Any:
        nonlocal trials, last
        trials += 1
        four = len(self.names) - len(high) - len(self.wide)
        now = time.perf_counter()
        print(f"  {way} trial {trials}, {four} products in 4 bits, after {now - last:.1f} s", flush=True)
        last = now
        return written(self, high, record)

    divergence = math.inf if way == "four" else options.divergence
    Quantiser.trial = counted  # type: ignore[method-assign]
    try:
        report = calibrate(
            load(bundle), datasets.load("glyph", count=options.count),
            Recipe(PRECISIONS["q4"], divergence=divergence), min_agreement=0, output=options.folder / way,
            ranges_file=options.folder / "ranges.npz", overwrite=True, threads=1,
        )  # fmt: skip
    finally:
        Quantiser.trial = written  # type: ignore[method-assign]
    entry = report.bundle.entry(report.plan).quantised
    assert entry is not None
    wide = sum(value == "int8" for value in entry.layers.values())
    print(
        f"divergence {divergence:g}: {trials} trials, {wide} of {len(entry.layers)} products in 8 bits, "
        f"{time.perf_counter() - begin:.0f} s ({time.process_time() - spent:.0f} s of CPU), "
        f"peak {(memory.peak_bytes() or 0) / 2**30:.2f} GiB so far",
        flush=True,
    )


def timed(folder: Path) -> None:
    """Print medians of a prompt with a picture and of a token after it, the two ways and fp32 in turns."""
    bundles = [load(folder / name) for name in ("bundle", *WAYS)]
    plans = ["none", *(next(name for name in bundle.manifest.plans if name != "none") for bundle in bundles[1:])]
    sessions = [Session(bundle, "cpu", plan, 2) for bundle, plan in zip(bundles, plans, strict=True)]
    random, taken = np.random.default_rng(0), np.zeros((ROUNDS + WARM, len(sessions), 2))
    for number in range(ROUNDS + WARM):
        picture = random.integers(0, 256, (*IMAGE_SIZE, 3)).astype(np.uint8)
        for place, session in enumerate(sessions):
            graphs, request = session.default.graphs, session.prepare(picture, f"what is {number}?")
            seen = graphs.encode_images(request.images)
            begin = time.perf_counter()
            step = graphs.run(request.token_ids, seen, blocks=request.blocks)
            middle = time.perf_counter()
            for token in range(4):
                step = graphs.run([token], state=step.state)
            taken[number, place] = middle - begin, (time.perf_counter() - middle) / 4
    for name, (prompt, token) in zip(("fp32", *WAYS), 1000 * np.median(taken[WARM:], 0), strict=True):
        print(f"{name}: prompt {prompt:.1f} ms, token {token:.2f} ms, two threads, median of {ROUNDS}")


def main() -> None:
    """Make what is missing, quantise both ways or time them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="DIR, a new folder or one that an earlier run left")
    parser.add_argument("--preset", default="qwen2.5-vl-3b")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--encoder-blocks", type=int, default=1)
    parser.add_argument("--bundle", type=Path, help="a bundle to quantise in place of a random one")
    parser.add_argument("--count", type=int, default=16, help="cases, half of them held out")
    parser.add_argument("--divergence", type=float, default=0.0)
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.times:
        if options.bundle is not None:
            parser.error("--times is for the model made here; `luvc-export bench` times a bundle of your own")
        timed(options.folder)
        return
    bundle = options.bundle or own_bundle(options)
    for way in WAYS:
        quantised(bundle, way, options)


if __name__ == "__main__":
    main()
