"""OpenVINO against ONNX Runtime on the bundled model: answers, kept sets, retention.

Run: python benchmarks/measure/openvino/times.py FOLDER [QUESTIONS] [VARIANT ...]. Exports the bundled model with plans
``none`` and ``even`` into FOLDER and asks both the same held-out questions: ONNX Runtime in fp32, OpenVINO in each
VARIANT (``fp32``, ``bf16``). Prints Markdown.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from luvc_export import export_bundle, make_plan
from luvc_export.bundle import folder as bundles
from luvc_export.calibration import intervals
from luvc_export.calibration.cases import Case
from luvc_export.calibration.tasks import find
from luvc_export.runtime.generation.result import Generation
from luvc_export.runtime.model import Backend
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.session import Session

TASK = find("glyph")
PLANS = ("none", "even")
VARIANTS = ("fp32", "bf16")


def bundle(folder: Path) -> bundles.Bundle:
    """The bundle with both plans."""
    if not (folder / bundles.MANIFEST).is_file():
        checkpoint, size = str(TASK.checkpoint), TASK.image_size
        plans = {name: make_plan(checkpoint, name, image_size=size) for name in PLANS}
        export_bundle(checkpoint, folder, plans, image_size=size, text_capacity=256)
    return bundles.load(folder)


def backend(loaded: bundles.Bundle, plan: str, variant: str) -> Backend:
    """ONNX Runtime for ``onnxruntime``, else OpenVINO."""
    entry = loaded.entry(plan)
    if variant == "onnxruntime":
        return OrtBackend(loaded, entry)
    return OpenVinoBackend(loaded, entry, arithmetic=variant)


def answers(session: Session, cases: Sequence[Case]) -> list[Generation]:
    """One after another, as a user asks."""
    return [session.generate(list(case.images), case.prompt, max_new_tokens=TASK.longest) for case in cases]


def overlap(left: Sequence[Generation], right: Sequence[Generation]) -> float:
    """Share of kept visual tokens in common, all prunes together; 1.0 where nothing is pruned."""
    both = total = 0
    for one, other in zip(left, right, strict=True):
        for layer, kept in one.selection.kept.items():
            both += int(np.isin(kept, other.selection.kept[layer]).sum())
            total += kept.size
    return both / total if total else 1.0


def merged(left: Sequence[Generation], right: Sequence[Generation]) -> float:
    """Share of units that became part of the same visual token."""
    pairs = [(one.selection.merged_into, other.selection.merged_into) for one, other in zip(left, right, strict=True)]
    return float(np.mean([np.mean(a == b) for a, b in pairs if a is not None and b is not None]))


def main() -> None:
    """Export, ask, print."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 504
    variants = sys.argv[3:] or VARIANTS
    loaded = bundle(folder)
    split, seed = TASK.report
    cases = list(TASK.cases(split, count, seed))
    clusters = [case.picture for case in cases]
    print(
        "| plan | OpenVINO | right | retention against ONNX Runtime (95 %) | same tokens | kept alike | merged alike |"
    )
    print("|---|---|---|---|---|---|---|")
    for plan in PLANS:
        base = answers(Session(loaded, backend(loaded, plan, "onnxruntime"), plan), cases)
        right = [_right(answer, case) for answer, case in zip(base, cases, strict=True)]
        print(f"| {plan} | (ONNX Runtime, fp32) | {np.mean(right):.4f} | | | | |", flush=True)
        for variant in variants:
            answered = answers(Session(loaded, backend(loaded, plan, variant), plan), cases)
            good = [_right(answer, case) for answer, case in zip(answered, cases, strict=True)]
            kept = intervals.retention(good, right, clusters)
            same = np.mean([one.token_ids == other.token_ids for one, other in zip(base, answered, strict=True)])
            print(
                f"| {plan} | {variant} | {np.mean(good):.4f} | {kept.value:.4f} ({kept.low:.4f} to {kept.high:.4f}) "
                f"| {same:.4f} | {overlap(base, answered):.4f} | {merged(base, answered):.4f} |",
                flush=True,
            )


def _right(answer: Generation, case: Case) -> float:
    """1.0 for the right text, ended."""
    return float(answer.text.strip() == case.answer and answer.finish_reason == "stop")


if __name__ == "__main__":
    main()
