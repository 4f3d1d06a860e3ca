"""luvc-export itself, on the CPU back-end. Its time to first token includes opening and fitting the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common


def prepare(options: dict[str, Any]) -> None:
    """Export both plans once."""
    import luvc_export

    bundle = Path(options["out"]) / "bundle"
    if not bundle.is_dir():
        size = (common.SIDE, common.SIDE)
        plans = {p: luvc_export.make_plan(options["checkpoint"], p, image_size=size) for p in ("none", "thirds")}
        luvc_export.export_bundle(
            options["checkpoint"], bundle, plans, image_size=size, text_capacity=512, weights="reference"
        )


def times(options: dict[str, Any]) -> dict[str, Any]:
    """Time one plan."""
    import luvc_export
    from luvc_export.runtime.bench.case import Case
    from luvc_export.runtime.bench.subject import Subject

    bundle = Path(options["out"]) / "bundle"
    case = Case(bundle, options["plan"], text=common.TEXT, new_tokens=common.NEW)
    subject = Subject(case)
    subject.run(case)
    samples = [subject.run(case) for _ in range(common.RUNS)]
    keep = subject.session.plan.keep
    ttft, speed = [s.ttft_ms / 1000 for s in samples], [s.tokens_per_s for s in samples]
    return common.answer(luvc_export.__version__, sum(keep) / len(keep), ttft, speed)


if __name__ == "__main__":
    common.main(prepare, times)
