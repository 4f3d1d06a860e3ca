"""What buckets save and keep: `python -m glyph_deep.studies.vision.buckets BUNDLE GROUND... --count 240 -o FILE`.

Run from `examples`. BUNDLE was exported with `--plan none --unit-buckets ...` for the grounds' size. Questions are
answered by the session as it comes, which drops what neighbours foretell, and by the plain plan alone; a question
whose answers are the same text is kept. `--tolerance` asks again with each of these pixel levels. Records of FILE are
not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from glyph_deep.data.cases import LONGEST, cases
from luvc_export.bundle.folder import Bundle, load
from luvc_export.calibration.intervals import accuracy
from luvc_export.cli.answer_lines import bucket_counts
from luvc_export.core.files.json_file import dumps
from luvc_export.runtime.engine.plan_routing import PlanRouter
from luvc_export.runtime.session import Session


def study(
    bundle: Bundle, ground: str, count: int, tolerance: int, backend: str, alone: dict[tuple[str, int], str]
) -> dict[str, Any]:
    """One record: shares of units, answers kept, and right ones of both.

    Args:
        bundle: With buckets beside its default plan.
        ground: Of `cases.SPLITS`.
        count: Questions.
        tolerance: Pixel levels up to which a unit is foretold.
        backend: What answers.
        alone: What the plain plan answered to a ground's questions, which grows.
    """
    tolerant = replace(bundle.manifest, image=replace(bundle.manifest.image, unit_tolerance=tolerance))
    ours, plain = (Session(Bundle(bundle.folder, tolerant), backend, threads=1) for _ in range(2))
    plain.plans = PlanRouter(plain.default, None)
    kept, right, plainly, clusters = list[bool](), list[bool](), list[bool](), list[int]()
    units, novel, computed, used = 0, 0, 0, Counter[str]()
    for number, case in enumerate(cases(ground, count)):
        answer = ours.generate(list(case.images), case.prompt, max_new_tokens=LONGEST)
        if (ground, number) not in alone:
            alone[ground, number] = plain.generate(list(case.images), case.prompt, max_new_tokens=LONGEST).text
        asked = alone[ground, number]
        kept.append(answer.text == asked)
        right.append(answer.text.strip() == case.answer)
        plainly.append(asked.strip() == case.answer)
        counts = bucket_counts(answer.selection)
        assert counts is not None
        if case.picture not in clusters:
            units, novel, computed = units + counts["all"], novel + counts["novel"], computed + counts["computed"]
            used[answer.past.loaded.plan_name] += 1
        clusters.append(case.picture)
    return {
        "ground": ground,
        "tolerance": tolerance,
        "backend": backend,
        "questions": count,
        "pictures": len(set(clusters)),
        "novel": round(novel / units, 4),
        "computed": round(computed / units, 4),
        "plans": dict(sorted(used.items())),
        "kept": _interval(kept, clusters),
        "right": _interval(right, clusters),
        "right_of_plain": _interval(plainly, clusters),
    }


def _interval(hits: list[bool], clusters: list[int]) -> list[float]:
    """Share, and its 95 % interval with questions about one picture as a cluster."""
    return [round(value, 4) for value in accuracy([float(hit) for hit in hits], clusters)]


def main() -> None:
    """Measure what FILE does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("grounds", nargs="+")
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--tolerance", type=int, nargs="+", default=[0])
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    bundle = load(options.bundle)
    alone: dict[tuple[str, int], str] = {}
    figures = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else []
    for ground in options.grounds:
        for tolerance in options.tolerance:
            wanted = (ground, tolerance, options.backend, options.count)
            if any(
                tuple(one[key] for key in ("ground", "tolerance", "backend", "questions")) == wanted for one in figures
            ):
                continue
            figures.append(study(bundle, ground, options.count, tolerance, options.backend, alone))
            options.output.write_text(dumps(figures), encoding="utf-8")
            print(figures[-1], flush=True)


if __name__ == "__main__":
    main()
