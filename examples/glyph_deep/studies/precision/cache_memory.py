"""What the caches of a long chat take: `python -m glyph_deep.studies.precision.cache_memory FOLDER -o ../docs/results`.

A model of random weights with the caches of Qwen2.5-VL-3B (36 layers, 2 heads of 128) and little else, in 16 bits: a
chat of 4,096 tokens under a plan and under the plan with caches in codes, each in a process of its own. Caches are
counted as the session does; memory is what the process has more when the chat is there, nothing else being kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export import export_bundle
from luvc_export.bundle import folder as bundles
from luvc_export.calibration import datasets
from luvc_export.core.budgets import kv_bytes
from luvc_export.core.files.json_file import dumps

from .quantised import FILE, page

TOKENS, CHUNK, WIDTH = 4096, 256, 256
PLANS = ("none", "none_kv8")


def exported(folder: Path) -> Path:
    """Return the bundle with both plans."""
    from luvc_export.calibration.quantise.cache_calibration import calibrate_caches
    from luvc_export.export.synthetic import checkpoint, presets

    target, model = folder / "caches", folder / "caches-model"
    if not (target / bundles.MANIFEST).is_file():
        preset = presets.resized(presets.find("qwen2.5-vl-3b"), 36, 1)
        config = copy.deepcopy(preset.config)
        config["text_config"] |= {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2}
        config["vision_config"]["out_hidden_size"] = WIDTH
        checkpoint.write(replace(preset, config=config), model, "fp16")
        export_bundle(str(model), target, "none", image_size=(112, 112), text_capacity=2 * TOKENS, dtype="fp16")
    loaded = bundles.load(target)
    if PLANS[1] not in loaded.manifest.plans:
        calibrate_caches(loaded, datasets.load("glyph", count=28), "int8", plan=PLANS[0], min_agreement=0, threads=1)
    return target


def chat(bundle: Path, plan: str) -> dict[str, Any]:
    """Return what a chat takes in this process."""
    from luvc_export.runtime import memory
    from luvc_export.runtime.session import Session

    session = Session(bundles.load(bundle), "cpu", plan, 1)
    graphs, random = session.default.graphs, np.random.default_rng(0)
    ids = [int(one) for one in random.integers(10, 1000, TOKENS)]
    state = graphs.run(ids[:CHUNK]).state  # what is allocated once is there
    del state
    memory.give_back()
    before = memory.anonymous_bytes() or 0
    state = graphs.run(ids[:CHUNK]).state
    for first in range(CHUNK, TOKENS, CHUNK):
        state = graphs.run(ids[first : first + CHUNK], state=state).state
    memory.give_back()
    after = memory.anonymous_bytes() or 0
    return {"plan": plan, "tokens": TOKENS, "cache_bytes": state.cache.nbytes, "process_bytes": after - before}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the bundle, used again where it is there")
    parser.add_argument("-o", "--output", type=Path, default=Path(), help=f"folder of {FILE}")
    parser.add_argument("--plan", help="measure this plan here and print it")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    bundle = exported(args.folder)
    if args.plan:
        print(json.dumps(chat(bundle, args.plan)))
        return
    records = []
    for plan in PLANS:
        words = [sys.executable, "-m", "glyph_deep.studies.precision.cache_memory", str(args.folder), "--plan", plan]
        printed = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
        shape = bundles.load(bundle).manifest.decoder
        foretold = sum(kv_bytes(shape, [0] * shape.layers, TOKENS, codes=plan != "none"))
        records.append({**json.loads(printed.splitlines()[-1]), "predicted_bytes": foretold})
        print(records[-1], flush=True)
    file = args.output / FILE
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    record["memory"] = records
    file.write_text(dumps(record) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(page(record), encoding="utf-8")


if __name__ == "__main__":
    main()
