"""Frozen layers by position and the named plans on the shallow model: `python -m glyph_shallow.study`.

A frozen layer computes keys and values for visual rows and nothing else (`kv_only`). A ground counts where the
uncompressed model answers 85 % and freezing every layer costs 30 points; the others are written down and say nothing.
Writes `docs/results/glyph-shallow.json`, a record a line, and `docs/results/glyph-shallow.md`. A killed run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from glyph_deep.data.cases import SIZES, cases

from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, weights_hash
from luvc_export.calibration.ablation.study import Study
from luvc_export.calibration.ablation.variants import Shapes, Variant
from luvc_export.calibration.runners.compressed import load_model
from luvc_export.core.named_plans import NAMED, PICTURES
from luvc_export.core.plan import Plan
from luvc_export.core.plan.request import LlmRequest, PlanRequest
from luvc_export.core.planning import solve
from luvc_export.export.checkpoint import open_checkpoint

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "docs" / "results"
GROUNDS = ("search-plain", "plain", "textured")
LEAST, COST = 0.85, 0.30  # what makes a ground count: uncompressed accuracy, and what freezing every layer loses
TEXT = 64


def frozen(depth: int) -> dict[str, tuple[int, ...]]:
    """Return layers to freeze, by what they are; `as ShortV` are its kind of list: late ones, and 0, 2 and 3."""
    quarter = depth // 4
    parts = {f"quarter {n + 1}": tuple(range(n * quarter, (n + 1) * quarter)) for n in range(4)}
    return {
        "every layer": tuple(range(depth)),
        **parts,
        "first half": tuple(range(depth // 2)),
        "middle half": tuple(range(quarter, depth - quarter)),
        "last half": tuple(range(depth // 2, depth)),
        "2/8 to 7/8": tuple(range(depth * 2 // 8, depth * 7 // 8)),
        "as ShortV": (0, 2, 3, *range(depth * 5 // 8, depth)),
    }


def without(plan: Plan, layers: tuple[int, ...]) -> Plan:
    """Return the uncompressed plan with these layers frozen."""
    last = plan.layers - 1
    ways = {"kv_only": tuple(n for n in layers if n < last), "last_layer": "kv_only" if last in layers else "full"}
    return replace(plan, llm=replace(plan.llm, **ways))


def records(folder: Path, count: int, measurements: Path) -> Iterator[dict[str, Any]]:
    """Yield accuracy and retention of every variant on every ground."""
    opened = open_checkpoint(str(folder))
    model, unit = load_model(opened), opened.family.unit_pixels(opened.config)
    llm, encoder = opened.family.decoder_shape(opened.config), opened.family.encoder_shape(opened.config)
    for ground in GROUNDS:
        height, width = SIZES[ground.removeprefix("search-")]
        shapes = Shapes((height // unit, width // unit), llm, encoder)
        about = {"model": "glyph_shallow", "ground": ground, "weights": weights_hash(folder)}
        store = Store(measurements / f"shallow-{ground}-measurements.json", about)
        engine = PlanEvaluator(opened, model, list(cases(ground, count, 0)), True)
        study = Study({"report": engine}, shapes, store, TEXT, lambda stage, done: None)
        none = shapes.none()
        some = [Variant("none", (none,))]
        some += [Variant(name, (without(none, layers),)) for name, layers in frozen(llm.layers).items()]
        for name in PICTURES:
            some.append(Variant(name, (solve(PlanRequest(LlmRequest(name)), shapes.grid, llm, encoder),)))
        rows = {row.name: row for row in study.rows(ground, some)}
        lost = rows["none"].accuracy[0] - rows["every layer"].accuracy[0]
        for row in rows.values():
            print(ground, row.name, *(f"{value:.3f}" for value in row.retention), flush=True)
            yield {
                "ground": ground,
                "counts": bool(rows["none"].accuracy[0] >= LEAST and lost >= COST),
                "variant": row.name,
                "frozen": list(frozen(llm.layers).get(row.name, ())),
                "questions": row.questions,
                "accuracy": [round(value, 4) for value in row.accuracy],
                "retention": [round(value, 4) for value in row.retention],
                "flops": round(row.flops_ratio, 3),
            }


def page(rows: list[dict[str, Any]], weights: str) -> str:
    """Return the document."""
    lines = [
        "# Frozen layers on a model whose LLM does the seeing",
        "",
        "Written by `python -m glyph_shallow.study` in `examples`. Do not edit: run it again.",
        "",
        "`glyph_shallow` (examples/glyph_shallow/MODEL_CARD.md) has three encoder blocks that see 112 pixels at a time"
        f" and twelve LLM layers that were trained on answers alone; checkpoint sha256 `{weights}`. A ground counts"
        f" where the uncompressed model answers {LEAST:.0%} and freezing every layer loses {COST * 100:.0f} points."
        " Intervals are 95 %, clustered by picture; retention is against the uncompressed model on the same questions."
        " A frozen layer makes keys and values of visual tokens and nothing else; in plans with names"
        " half of the tokens may work there, by turns.",
        "",
    ]
    for ground in GROUNDS:
        some = [row for row in rows if row["ground"] == ground]
        verdict = "counts" if some[0]["counts"] else "does not count: read nothing off it"
        lines += [f"## {ground}, {some[0]['questions']} questions ({verdict})", ""]
        lines += ["| what | layers frozen | accuracy | retention | LLM FLOPs |", "|---|---|---:|---:|---:|"]
        for row in some:
            accuracy, retention = ("{:.3f} ({:.3f} to {:.3f})".format(*row[name]) for name in ("accuracy", "retention"))
            name = f"`{row['variant']}`" if row["variant"] in NAMED or row["variant"] == "none" else row["variant"]
            lines.append(f"| {name} | {spans(row['frozen'])} | {accuracy} | {retention} | {row['flops']:.2f}x |")
        lines.append("")
    return "\n".join(lines)


def spans(layers: list[int]) -> str:
    """Return runs of layers such as 3-8, 11."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in runs)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=HERE / "checkpoint")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the figures and the page")
    parser.add_argument("--measurements", type=Path, default=Path(), help="folder in which a killed run goes on")
    parser.add_argument("--count", type=int, default=1000, help="questions a ground")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.measurements.mkdir(parents=True, exist_ok=True)
    rows = list(records(args.checkpoint, args.count, args.measurements))
    weights = weights_hash(args.checkpoint)[:16]
    lines = ",\n".join(json.dumps(row) for row in rows)
    (args.output / "glyph-shallow.json").write_text(f'{{"weights": "{weights}", "rows": [\n{lines}\n]}}\n')
    (args.output / "glyph-shallow.md").write_text(page(rows, weights))


if __name__ == "__main__":
    main()
