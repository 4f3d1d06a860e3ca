"""Answers of q8 in blocks beside those with one range a call: `python benchmarks/measure/quantised/blocks.py FOLDER`.

ONNX Runtime takes products of 8 bits in two ways (`runtime/ort_graphs/blocks.py`), which round activations otherwise:
by call, or by block of 128 of a row. Held-out questions of glyph_deep, digits and pages, are asked of the plan in fp32
and of its q8 in both ways, prompts included; printed are right answers and the difference to fp32, question by
question, with a 95 % interval. Bundles stay in FOLDER.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[3] / "examples"))

from glyph_deep.data.cases import LONGEST, SIZES, cases
from glyph_deep.studies.precision.quantised import CHECKPOINT, SETS, searched

from luvc_export import export_bundle, make_plan
from luvc_export.bundle import folder as bundles
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.core.precision import PRECISIONS
from luvc_export.runtime.cpu_features import cpu_features
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.session import Session

PLAN, CODES = "none", "none_quantized"


def bundle_of(which: str, folder: Path) -> bundles.Bundle:
    """The bundle for one size of pictures with both plans, made if it is not there."""
    target, size = folder / which, SIZES[SETS[which][0][0]]
    if not (target / bundles.MANIFEST).is_file():
        plans = {PLAN: make_plan(str(CHECKPOINT), PLAN, image_size=size)}
        export_bundle(str(CHECKPOINT), target, plans, image_size=size, text_capacity=256)
    if CODES not in bundles.load(target).manifest.plans:
        recipe = Recipe(PRECISIONS["q8"])
        calibrate(bundles.load(target), searched(SETS[which][1]), recipe, plan=PLAN, min_agreement=0, threads=1)
    return bundles.load(target)


def main() -> None:
    """Print a line for each ground and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="questions of a ground")
    options = parser.parse_args()
    print(", ".join(cpu_features()))
    for which, (grounds, _) in SETS.items():
        bundle = bundle_of(which, options.folder)
        ways = {}
        for way, plan, blocks in (("fp32", PLAN, False), ("by call", CODES, False), ("in blocks", CODES, True)):
            backend = OrtBackend(bundle, bundle.entry(plan), threads=1, in_blocks=blocks)
            ways[way] = Session(bundle, backend, plan)
        for ground in grounds:
            right = {way: list[bool]() for way in ways}
            for case in cases(ground, options.count, 0):
                for way, session in ways.items():
                    answer = session.generate(list(case.images), case.prompt, max_new_tokens=LONGEST, greedy=True)
                    right[way].append(answer.text.strip() == case.answer)
            for way, answers in right.items():
                moved = 100 * (np.array(answers, np.float64) - right["fp32"])
                half = 1.96 * moved.std() / len(moved) ** 0.5
                low, high = moved.mean() - half, moved.mean() + half
                line = f"{ground}, {way}: {100 * np.mean(answers):.2f} % right"
                print(f"{line}, {moved.mean():+.2f} points ({low:+.2f} to {high:+.2f})", flush=True)


if __name__ == "__main__":
    main()
