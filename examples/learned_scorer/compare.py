"""A learned scorer against scores that need no training: `python -m learned_scorer.compare FILE -o ../docs/results`.

Held-out questions of the three grounds of `glyph_deep`; a quarter and a tenth of the visual tokens from before the
first layer on. The best of the others is picked on the very questions that are reported, which favours it. A killed run
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from glyph_deep.data.splits import GROUNDS
from glyph_deep.studies.evaluate import lines_of
from glyph_deep.studies.methods.compare import even
from glyph_deep.studies.methods.compare_page import interval, table
from glyph_deep.studies.methods.past import study_of

from luvc_export.calibration import intervals
from luvc_export.calibration.ablation import past, variants
from luvc_export.calibration.ablation import study as studies
from luvc_export.calibration.ablation.store import weights_hash
from luvc_export.calibration.ablation.variants import Variant
from luvc_export.export.compression.scorer_file import Scorer, open_scorer

from .train import CHECKPOINT

SHARES = (0.25, 0.1)
LEARNED = "learned"


def compared(study: studies.Study, share: float) -> dict[str, Any]:
    """Return the rows of a share, the best of the scores that need no training, and how far apart they are."""
    plan = even(study.shapes, share)
    some = [Variant(name, (plan.changed(method=method),)) for name, method in past.rows(study.scorer).items()]
    some.append(Variant("random", variants.random(plan), "3 seeds"))
    small = variants.smaller(study.shapes, plan.keep[0])
    down = Variant("downsampling", (small,), f"{small.grid[0]}x{small.grid[1]} units")
    rows = study.rows(f"{share:.0%}", [*some, down])
    by_name = {variant.name: variant for variant in some}
    best = max((row for row in rows if row.name in past.METHODS), key=lambda row: row.accuracy.value).name
    right = [np.asarray(study.right("report", by_name[name].plans[0]), dtype=np.float64) for name in (LEARNED, best)]
    pictures = [case.picture for case in study.engines["report"].cases]
    return {"keep": plan.keep[0], "rows": rows, "best": best, "ahead": intervals.difference(*right, pictures)}


def page(figures: dict[str, Any], about: dict[str, Any]) -> str:
    """Return the document; every figure in it was measured by the run that writes it."""
    lines = [
        "# A learned score against those that need no training: measurements",
        "",
        f"Written by `{about['command']}` in `examples`. Do not edit: run it again.",
        "",
        f"Model of [examples/glyph_deep](../../examples/glyph_deep/MODEL_CARD.md), checkpoint sha256 "
        f"`{about['weights'][:16]}`; scorer sha256 `{about['scorer'][:16]}`, {about['bytes'] / 1024:.0f} KiB, by "
        f"`{about['learned_by']}` from pictures of the train splits of the grounds and the model's own answers. "
        f"{about['count']} held-out questions a ground; a share of the visual tokens stays from before the first layer "
        "on. Intervals are 95 %, clustered by picture; retention is against the uncompressed model on the same "
        "questions.",
        "",
        "## In short",
        "",
    ]
    for ground, shares in figures.items():
        for share, parts in shares.items():
            rows = {row.name: row for row in parts["rows"]}
            lines.append(
                f"- {ground}, {share}: learned {interval(rows[LEARNED].accuracy)}, best without training "
                f"({parts['best']}) {interval(rows[parts['best']].accuracy)}, paired difference "
                f"{interval(parts['ahead'])}."
            )
    for ground, shares in figures.items():
        for share, parts in shares.items():
            body = [
                [" ".join((row.name, row.remark)).strip(), interval(row.accuracy), interval(row.retention)]
                for row in sorted(parts["rows"], key=lambda row: -row.accuracy.value)
            ]
            lines += ["", f"## {ground.capitalize()}, {share}: {parts['keep']} tokens", ""]
            lines.append(table(["method", "accuracy", "retention"], body))
    return "\n".join([*lines, ""])


def learned_by(scorer: Scorer) -> str:
    """Return the trainer's command as the file's metadata tells it."""
    length = int.from_bytes(scorer.data[:8], "little")
    words = json.loads(scorer.data[8 : 8 + length]).get("__metadata__", {}).get("command", "unknown")
    return str(words)


def main() -> None:
    """Read the command line, measure, write the page and its data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scorer", type=Path, help="learned scorer, .safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page and its measurements")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--count", type=int, default=420, help="held-out questions a ground")
    parser.add_argument("--grounds", nargs="*", choices=GROUNDS, default=list(GROUNDS))
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scorer = open_scorer(args.scorer)
    figures = {}
    for ground in args.grounds:
        study = study_of(ground, args.output, args.checkpoint, args.count, args.count, scorer.sha256)
        figures[ground] = {f"{share:.0%}": compared(study, share) for share in SHARES}
    usual = args.count == parser.get_default("count")
    about = {
        "command": f"python -m learned_scorer.compare {args.scorer} -o ../docs/results"
        + ("" if usual else f" --count {args.count}")
        + ("" if tuple(args.grounds) == GROUNDS else f" --grounds {' '.join(args.grounds)}"),
        "weights": weights_hash(args.checkpoint),
        "scorer": scorer.sha256,
        "bytes": len(scorer.data),
        "learned_by": learned_by(scorer),
        "count": args.count,
    }
    (args.output / "learned.json").write_text(lines_of({"about": about, **studies.plain(figures)}))
    write_page(args.output)


def write_page(folder: Path) -> None:
    """Write `learned.md` from the figures in `learned.json` beside it."""
    data = studies.from_plain(json.loads((folder / "learned.json").read_text(encoding="utf-8")))
    about = data.pop("about")
    for shares in data.values():
        for parts in shares.values():
            parts["ahead"] = intervals.Interval(*parts["ahead"])
    (folder / "learned.md").write_text(page(data, about), encoding="utf-8")


if __name__ == "__main__":
    main()
