"""Answers of glyph_deep by how many activations share a scale at a step, steps of a plan in 8 bits on OpenVINO.

Run: ``python benchmarks/measure/openvino/activation_groups.py OUT [--count 300] [--splits plain textured]``. Exports
the model with plan ``none`` in 8 bits, head included, into OUT, once; prints Markdown: how many answers are right, and
how many are those of the first way. Prompts are computed in fp32, one thread.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
CHECKPOINT = REPOSITORY / "examples" / "glyph_deep" / "checkpoint"
CODED = "none_quantized"
#: Numbers with a scale; ``cpu`` is ONNX Runtime, whose rows have one range a call.
WAYS: tuple[int | str, ...] = (32, 64, 128, "cpu")


def prepare(out: Path, size: tuple[int, int]) -> Path:
    """The bundle in 8 bits."""
    import luvc_export

    whole, coded = out / "whole", out / "coded"
    if not whole.is_dir():
        plan = luvc_export.make_plan(str(CHECKPOINT), image_size=size, schedule="none")
        luvc_export.export_bundle(str(CHECKPOINT), whole, {"none": plan}, image_size=size)
    if not (coded / "luvc.json").is_file():
        halves = str(REPOSITORY / "benchmarks" / "measure" / "times" / "halves.py")
        subprocess.run([sys.executable, halves, str(coded), str(whole), "none", "--prepare", "--head"], check=True)
    return coded


def opened(bundle: Any, way: int | str) -> Any:
    """A session whose steps run so."""
    from luvc_export.runtime.backends import open_backend
    from luvc_export.runtime.session import Session

    name = "openvino+cpu" if way == "cpu" else "openvino+openvino"
    backend: Any = open_backend(name, bundle, CODED, 1, arithmetic="fp32")
    if way != "cpu":
        backend.steps._activation_group = way
    return Session(bundle, backend, CODED)


def main() -> None:
    """Ask, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=300, help="questions of a split")
    parser.add_argument("--splits", nargs="+", default=["plain", "textured"])
    args = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY / "examples"))
    from glyph_deep.data.cases import LONGEST, SIZES, cases

    from luvc_export.bundle import folder as bundles

    print("| split | questions | activations a scale | right | tokens as with the first |\n|---|---:|---|---:|---:|")
    for split in args.splits:
        bundle = bundles.load(prepare(args.out / split, SIZES[split]))
        asked, first = list(cases(split, args.count)), list[tuple[int, ...]]()
        for way in WAYS:
            session = opened(bundle, way)
            answers = [session.generate(list(case.images), case.prompt, max_new_tokens=LONGEST) for case in asked]
            ids = [tuple(answer.token_ids) for answer in answers]
            first = first or ids
            right = sum(answer.text.strip() == case.answer for answer, case in zip(answers, asked, strict=True))
            alike = sum(one == other for one, other in zip(ids, first, strict=True))
            print(f"| {split} | {len(asked)} | {way} | {right} | {alike} |", flush=True)


if __name__ == "__main__":
    main()
