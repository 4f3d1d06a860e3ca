"""What matters of a plan on `pretrained`: `python -m pretrained.ablations MERGED -o FOLDER` in `examples`.

Schedules, scores at three shares and behind three depths, and merging in the encoder and the LLM, on plain digits of
the search split, which no figure of a named plan is of. Says how long is left; a killed run goes on in FOLDER.
Writes docs/results/pretrained.json, a record a line, and the table of docs/results/pretrained.md; `--page` writes the
table alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from glyph_deep.data.cases import SIZES
from glyph_deep.studies.plans.instruments import TEXT, asked
from glyph_deep.studies.plans.recipes import request

from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, weights_hash
from luvc_export.calibration.ablation.study import Study
from luvc_export.calibration.ablation.variants import Shapes, Variant, encoder_merges, merged
from luvc_export.calibration.intervals import Interval
from luvc_export.calibration.runners.compressed import load_model
from luvc_export.core.budgets import SCHEDULES
from luvc_export.core.files import pages
from luvc_export.core.plan.cost import encoder_ratio
from luvc_export.core.plan.request import EncoderRequest, LlmRequest, PlanRequest
from luvc_export.export.checkpoint import open_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "results" / "pretrained.md"
FIGURES = PAGE.with_suffix(".json")
GROUND = "plain"
SCORES = ("residual", "scope", "maxmin", "low", "stride", "random")
SHARES = (0.5, 0.25, 0.12)
#: Shares of the depth in front of the prune, and what they are called; an eighth is what named plans have.
DEPTHS = {"1/15": "layer 2", "1/4": "a quarter"}
EIGHTH = "an eighth"


def variants(shapes: Shapes) -> Iterator[tuple[str, Variant]]:
    """Yield (section, variant): one share behind a depth is `staged`'s shape, none at the last layer."""

    def of(section: str, name: str, wanted: PlanRequest) -> tuple[str, Variant]:
        return section, Variant(name, (shapes.solved(wanted),))

    def staged(score: str, share: float, whole: str) -> PlanRequest:
        return request(f"{score}:share={share:g},every=1,gone=1,works={whole},whole={whole}")

    for name in SCHEDULES:
        yield of("schedules, nothing merged", name, PlanRequest(LlmRequest(name), EncoderRequest(merge_keep=1.0)))
    for share in SHARES:
        for score in SCORES:
            yield of(f"{share:.0%} of the tokens behind {EIGHTH} of the LLM", score, staged(score, share, "1/8"))
    for whole, name in DEPTHS.items():
        for score in SCORES[:2]:
            yield of(f"25% of the tokens behind {name} of the LLM", score, staged(score, 0.25, whole))
    for share in (0.75, 0.5):
        for variant in encoder_merges(shapes, share):
            if variant.name in ("OIM, mean", "OIM, spread"):
                yield f"{share:.0%} of the units, merged in the encoder", variant
        half = shapes.solved(staged("residual", share, "1/8"))
        yield f"{share:.0%} of the tokens behind {EIGHTH} of the LLM, merged", Variant("merge", (merged(half),))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown, in the order of the record."""
    head = ("", "", "right", "kept", "LLM FLOPs", "encoder FLOPs")
    body = [
        (
            row["section"],
            row["name"],
            Interval(*row["accuracy"]).text(3),
            Interval(*row["retention"]).text(3),
            f"{row['flops']:.2f}x",
            f"{row['encoder_flops']:.2f}x",
        )
        for row in rows
    ]
    return pages.table(head, body, left=2)


def main() -> None:
    """Measure, and write the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("merged", nargs="?", type=Path, help="checkpoint of `pretrained.merge`")
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder in which a killed run goes on")
    parser.add_argument("--count", type=int, default=400, help="questions")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="write the table from the record, and measure nothing")
    args = parser.parse_args()
    if not args.page:
        if args.merged is None:
            parser.error("MERGED is missing: the checkpoint that `python -m pretrained.merge` writes")
        FIGURES.write_text("[\n" + ",\n".join(map(json.dumps, measured(args))) + "\n]\n", encoding="utf-8")
    text = table(json.loads(FIGURES.read_text(encoding="utf-8")))
    PAGE.write_text(pages.within(PAGE.read_text(encoding="utf-8"), "ablations", text), encoding="utf-8")


def measured(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a record of every variant."""
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    opened = open_checkpoint(str(args.merged))
    unit, (height, width) = opened.family.unit_pixels(opened.config), SIZES[GROUND]
    llm, encoder = opened.family.decoder_shape(opened.config), opened.family.encoder_shape(opened.config)
    shapes = Shapes((height // unit, width // unit), llm, encoder)
    engine = PlanEvaluator(opened, load_model(opened), asked("pretrained", GROUND, args.count, True), True)
    about = {"model": "pretrained", "ground": f"search-{GROUND}", "weights": weights_hash(args.merged)}
    store = Store(args.output / f"ablations-{GROUND}-measurements.json", about)
    study = Study({"report": engine}, shapes, store, TEXT, lambda stage, done: None)
    rows, every = [], [("", Variant("none", (shapes.none(),))), *variants(shapes)]
    begun = time.monotonic()
    for number, (section, variant) in enumerate(every):
        (row,) = study.rows(section, [variant])
        rows.append(
            {
                "section": section,
                "name": f"{row.name}, {row.remark}" if row.remark else row.name,
                "questions": row.questions,
                "accuracy": [round(value, 4) for value in row.accuracy],
                "retention": [round(value, 4) for value in row.retention],
                "flops": round(row.flops_ratio, 3),
                "encoder_flops": round(encoder_ratio(variant.plans[0].encoder, encoder), 3),
            }
        )
        left = (time.monotonic() - begun) / (number + 1) * (len(every) - number - 1)
        print(f"{section} {row.name}: {row.retention.text(3)}; about {left / 60:.0f} minutes left", flush=True)
    return rows


if __name__ == "__main__":
    main()
