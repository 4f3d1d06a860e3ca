"""What one row that is the mean of all dropped rows is worth: `python -m glyph_deep.aggregate -o ../docs/results`.

Held-out questions of the three grounds, one prune before the LLM at equal prefill FLOPs: with the aggregate a budget of
K rows is K - 1 chosen tokens and it. Differences are paired by question. A killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flat_plans import replan

from luvc_export.calibration import intervals
from luvc_export.calibration.ablation import study as studies
from luvc_export.calibration.ablation.past import at_speedup
from luvc_export.calibration.ablation.store import weights_hash
from luvc_export.core.plan import Plan

from .compare_page import interval, table
from .evaluate import lines_of
from .past import study_of
from .splits import GROUNDS

SETTINGS: dict[str, dict[str, Any]] = {
    "residual, rho 0.5": {"score": "residual", "rho": 0.5},
    "scope": {"score": "scope", "rho": 0.5},
    "stride": {"score": "stride"},
    "random": {"score": "random"},
}
SPEEDUPS = (3.0, 6.0)


def measure(study: studies.Study, speedups: tuple[float, ...]) -> list[dict[str, Any]]:
    """Return accuracies of every score with and without the aggregate, and their paired difference."""
    found = []
    for speedup in speedups:
        for name, switches in SETTINGS.items():
            plain = at_speedup(study.shapes, study.text, speedup, (), **switches)
            without, own = right(study, plain), right(study, replan(plain, aggregate=True))
            pictures = [case.picture for case in study.engines["report"].cases]
            found.append(
                {
                    "name": name,
                    "speedup": speedup,
                    "rows": plain.keep[0],
                    "without": intervals.accuracy(without, pictures),
                    "aggregate": intervals.accuracy(own, pictures),
                    "difference": intervals.difference(own, without, pictures),
                }
            )
    return found


def right(study: studies.Study, plan: Plan) -> Any:
    """Return which questions a plan answers right, 0 or 1."""
    return np.asarray(study._right("report", plan), dtype=np.float64)


def page(found: dict[str, Any], about: dict[str, Any]) -> str:
    """Return the document; every figure in it was measured by the run that writes it."""
    lines = [
        "# One aggregate row for what a prune drops: measurements",
        "",
        f"Written by `{about['command']}` in `examples`. Do not edit: run it again.",
        "",
        f"Model of [examples/glyph_deep](../../examples/glyph_deep/MODEL_CARD.md), checkpoint sha256 "
        f"`{about['weights'][:16]}`. {about['count']} held-out questions a ground, one prune before LLM layer 0. At "
        "one budget of rows, and so at equal FLOPs: without, all are chosen tokens; with it (`--aggregate`) one is the "
        "mean of the dropped. 95 % intervals, clustered by picture; differences are paired by question. The model was "
        "not trained with such a row, and its tasks ask for single figures of a picture. It answers on no clips and no "
        "tiles, so quotas (`--quota`) are not measured here.",
        "",
    ]
    for ground, rows in found.items():
        names = ("without", "aggregate", "difference")
        cells = [[f"{r['speedup']:g}x", r["name"], str(r["rows"]), *(interval(r[n]) for n in names)] for r in rows]
        head = ["FLOPs fewer", "score", "rows", "accuracy without", "with", "difference"]
        lines += [f"## {ground.capitalize()}", "", table(head, cells), ""]
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure, write the page and its data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page and its measurements")
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).parent / "checkpoint")
    parser.add_argument("--count", type=int, default=300, help="held-out questions a ground")
    parser.add_argument("--grounds", nargs="*", choices=GROUNDS, default=list(GROUNDS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for ground in args.grounds:
        study = study_of(ground, args.output, args.checkpoint, args.count, args.count)
        found[ground] = measure(study, SPEEDUPS)
    said = f" --count {args.count}" * (args.count != parser.get_default("count"))
    said += f" --grounds {' '.join(args.grounds)}" * (tuple(args.grounds) != GROUNDS)
    about = {
        "command": f"python -m glyph_deep.aggregate -o ../docs/results{said}",
        "weights": weights_hash(args.checkpoint),
        "count": args.count,
    }
    (args.output / "glyph-deep-aggregate.json").write_text(lines_of({"about": about, **studies.plain(found)}))
    (args.output / "glyph-deep-aggregate.md").write_text(page(found, about), encoding="utf-8")


if __name__ == "__main__":
    main()
