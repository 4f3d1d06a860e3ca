"""What plans keep of answers about films: `python -m glyph_clips.study`.

Every plan prunes once, before layer 1 of 6, to a quarter of the 288 tokens of a film unless its name says otherwise:
`dymu` merges to a quarter in the encoder, `adsc` keeps a quarter of the tokens on the mean of layers 1 to 5. Beside the
scores for clips stand what needs no score: tokens evenly spread over the film, whole frames left out, and frames at
half the width and height. Intervals know that three questions are about one film. Writes
`docs/results/glyph-clips.json`, a record a line, and `docs/results/glyph-clips.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import weights_hash
from luvc_export.calibration.runners.canvas import canvas
from luvc_export.calibration.runners.compressed import load_model
from luvc_export.core.plan import EncoderPlan, LlmPlan, Method, Plan, Quota, Sharing
from luvc_export.core.plan.request import LlmRequest, PlanRequest
from luvc_export.core.planning import place_merges, solve
from luvc_export.core.shapes import EncoderShape
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.export.compression import scores

from .cases import CHECKPOINT, SIZE, ClipCase, cases, still
from .films import GRID, MOMENTS

TOKENS = MOMENTS * GRID[0] * GRID[1]
LAYERS = 6
PLANS: dict[str, tuple[str, Quota]] = {
    "stride": ("stride", "none"),
    "random": ("random", "none"),
    "evs": ("evs", "none"),
    "dycoke": ("dycoke", "dycoke"),
    "vidcom2": ("vidcom2", "vidcom2"),
    "holitom": ("holitom", "none"),
    "residual": ("residual", "none"),
    "residual, v-cast's quota": ("residual", "v-cast"),
    "residual, equal quotas": ("residual", "uniform"),
    "scope": ("scope", "none"),
    "maxmin": ("maxmin", "none"),
}
RESULTS = Path(__file__).parents[2] / "docs" / "results"
LEAST = 0.9  # accuracy that makes an instrument of the model
MOST_ALONE = 0.35  # what single frames may answer: one of four colours, or of four counts, by chance
KINDS = ("came", "moved", "changed")
#: Rows that are no plan of the film as it is.
ALONE, FEWER, HALF = "a single frame", "a quarter of the frames", "frames at half the size"
#: Scores at the budgets of the named plan `staged`, whose own is `residual`.
AS_STAGED = ("stride", "evs", "dycoke")
#: What each plan is held against, question by question.
BASELINE = "evs"
#: Tokens in each layer of `adsc`: halved twice, a quarter of all on the mean of layers 1 to 5.
HALVED = (TOKENS, TOKENS // 2, TOKENS // 4, TOKENS // 4, TOKENS // 8, TOKENS // 8)


def plan(score: str, quota: Quota, keep: int, moments: int = MOMENTS, grid: tuple[int, int] = GRID) -> Plan:
    """All tokens in layer 0, `keep` from layer 1 on, none computed in the last."""
    whole = moments * grid[0] * grid[1]
    budgets = (whole, *(keep,) * (LAYERS - 1))
    llm = LlmPlan(budgets, scores.method(score), "kv_only")
    return Plan(EncoderPlan(grid), llm, Sharing(moments, None, quota))


def adsc() -> Plan:
    """Evenly spread tokens, fewer in every later layer."""
    return Plan(EncoderPlan(GRID), LlmPlan(HALVED, scores.method("stride"), "kv_only"), Sharing(MOMENTS))


def dymu(encoder: EncoderShape) -> Plan:
    """A quarter of the units of every moment by merging after each block of the encoder."""
    merges = place_merges(GRID, 0.25, encoder, schedule="every")
    seen = EncoderPlan(GRID, merges, positions="multi", size_bias=True)
    left = MOMENTS * seen.tokens
    return Plan(seen, LlmPlan((left,) * LAYERS, scores.method("stride"), "kv_only"), Sharing(MOMENTS))


def nothing(moments: int = MOMENTS, grid: tuple[int, int] = GRID) -> Plan:
    """Every token in every layer."""
    whole = moments * grid[0] * grid[1]
    llm = LlmPlan((whole,) * LAYERS, Method("stride"), "full")
    return Plan(EncoderPlan(grid), llm, Sharing(moments))


def fewer_frames(asked: Sequence[ClipCase], moments: int) -> list[ClipCase]:
    """The films with `moments` of their 8 moments, evenly taken, at their times."""
    taken = [index * MOMENTS // moments for index in range(moments)]
    return [
        replace(
            case, video=tuple(case.video[2 * m + f] for m in taken for f in (0, 1)), fps=case.fps * moments / MOMENTS
        )
        for case in asked
    ]


def smaller(asked: Sequence[ClipCase]) -> list[ClipCase]:
    """The films at half their width and height."""
    half = (SIZE[1] // 2, SIZE[0] // 2)
    return [
        replace(
            case, video=tuple(np.asarray(Image.fromarray(f).resize(half, Image.Resampling.BICUBIC)) for f in case.video)
        )
        for case in asked
    ]


class Study:
    """Answers under plans, by film."""

    def __init__(self, checkpoint: Checkpoint, asked: Sequence[ClipCase]) -> None:
        self.checkpoint, self.model, self.asked = checkpoint, load_model(checkpoint), list(asked)
        self.whole = PlanEvaluator(
            checkpoint, self.model, self.asked, stops=True, image=canvas(checkpoint, SIZE, video=True)
        )

    def of(self, one: Plan) -> np.ndarray:
        """Whether each case is answered right, bool [cases]."""
        return np.array(self.whole.right(one))

    def shown(self, asked: Sequence[ClipCase], one: Plan, size: tuple[int, int] = SIZE) -> np.ndarray:
        """The same of other films."""
        image = canvas(self.checkpoint, size, video=True)
        return np.array(PlanEvaluator(self.checkpoint, self.model, asked, stops=True, image=image).right(one))

    def row(
        self, name: str, tokens: int, right: np.ndarray, full: np.ndarray, against: np.ndarray | None = None
    ) -> dict[str, object]:
        """Accuracy and retention with their intervals, clustered by film, and accuracy by kind.

        `against`: what the baseline answers right, at as many tokens; the difference to it has an interval too.
        """
        films, kinds = [case.picture for case in self.asked], np.array([case.kind for case in self.asked])
        gap = {} if against is None else {"against": intervals.difference(right, against, films)}
        return {
            "plan": name,
            "tokens": tokens,
            "questions": len(right),
            "accuracy": [round(value, 4) for value in intervals.accuracy(right, films)],
            "retention": [round(value, 4) for value in intervals.retention(right, full, films)],
            **{kind: round(float(right[kinds == kind].mean()), 3) for kind in sorted(set(kinds.tolist()))},
            **{name: [round(value, 4) for value in gaps] for name, gaps in gap.items()},
        }


def staged(checkpoint: Checkpoint) -> Plan:
    """The named plan for a whole film."""
    family, config = checkpoint.family, checkpoint.config
    request = PlanRequest(LlmRequest("staged"), sharing=Sharing(MOMENTS))
    return solve(request, GRID, family.decoder_shape(config), family.encoder_shape(config))


def rows(study: Study, split: str, count: int) -> Iterator[dict[str, object]]:
    """Yield the row of every plan."""
    full = study.of(nothing())
    yield study.row("none", TOKENS, full, full)
    alone = study.shown(list(still(split, count)), nothing())
    yield study.row(ALONE, TOKENS, alone, full)
    quarter = TOKENS // 4
    encoder = study.checkpoint.family.encoder_shape(study.checkpoint.config)
    plans = {name: plan(*chosen, quarter) for name, chosen in PLANS.items()}
    plans |= {"adsc": adsc(), "dymu": dymu(encoder)}
    baseline = study.of(plans[BASELINE])
    for name, one in plans.items():
        yield study.row(name, quarter, study.of(one), full, baseline)
    few = study.shown(fewer_frames(study.asked, MOMENTS // 4), nothing(MOMENTS // 4))
    yield study.row(FEWER, quarter, few, full, baseline)
    half = (GRID[0] // 2, GRID[1] // 2)
    small = study.shown(smaller(study.asked), nothing(MOMENTS, half), (SIZE[0] // 2, SIZE[1] // 2))
    yield study.row(HALF, quarter, small, full, baseline)
    recipe = staged(study.checkpoint)
    kept = recipe.llm.keep[1]
    yield study.row("staged", kept, study.of(recipe), full)
    for score in AS_STAGED:
        llm = replace(recipe.llm, method=scores.method(score))
        yield study.row(f"{score}, as many as staged", kept, study.of(replace(recipe, llm=llm)), full)


def verdict(records: Sequence[dict[str, Any]]) -> str:
    """Whether these rows make an instrument of the model: what it answers of films, and of one frame."""
    by = {row["plan"]: row for row in records}
    whole, alone = (by[name]["accuracy"][0] for name in ("none", ALONE))
    bars = (
        f"It answers {whole:.3f} of whole films (bar: at least {LEAST:.2f})"
        f" and {alone:.3f} of single frames (at most {MOST_ALONE:.2f})"
    )
    if whole < LEAST or alone > MOST_ALONE:
        return f"{bars}: **below its bar and not used as an instrument yet**; what follows is no verdict on a plan."
    weak = " and ".join(f"`{kind}` ({by['none'][kind]:.3f})" for kind in KINDS if by["none"][kind] < LEAST)
    return f"{bars}: it is an instrument." + (f" Below the bar when taken alone: {weak}." if weak else "")


def page(records: Sequence[dict[str, Any]], split: str, weights: str) -> str:
    """Return the document."""
    kinds = KINDS
    lines = [
        "# Plans for clips, on films of moving digits",
        "",
        "Written by `python -m glyph_clips.study` in `examples`. Do not edit: run it again.",
        "",
        f"`glyph_clips` (examples/glyph_clips/MODEL_CARD.md), checkpoint sha256 `{weights}`, split `{split}`,"
        f" {records[0]['questions']} questions, three about each film of 16 frames.",
        "",
        verdict(records),
        "",
        "Intervals are 95 %, clustered by film; retention is against the uncompressed model on the same"
        " questions. Plans keep every token in layer 0 and the number below from layer 1 of 6 on. A single frame"
        " is a random one of the film, shown 16 times; half the size is half of width and height. `staged`"
        " and its rivals leave no visual token for the last layer. `adsc` keeps"
        f" {', '.join(map(str, HALVED))} tokens layer by layer, `dymu` merges to a quarter in the encoder; the model"
        f" was trained for neither. Against `{BASELINE}`: share of right answers more, on the same questions at as many"
        " tokens; on [more films](clip-rivals.md) the intervals are narrower, and"
        " [at equal first-token time](clip-first-token.md) there are fewer and smaller frames beside.",
        "",
        f"| plan | tokens | accuracy | retention | against {BASELINE} | {' | '.join(kinds)} |",
        f"|---|---:|---:|---:|---:|{'---:|' * len(kinds)}",
    ]
    for row in records:
        accuracy, retention = ("{:.3f} ({:.3f} to {:.3f})".format(*row[name]) for name in ("accuracy", "retention"))
        parts = " | ".join(f"{row[kind]:.3f}" for kind in kinds)
        gap = "{:+.3f} ({:+.3f} to {:+.3f})".format(*row["against"]) if "against" in row else ""
        lines.append(f"| {row['plan']} | {row['tokens']} | {accuracy} | {retention} | {gap} | {parts} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Read the command line, answer and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=600, help="three about each film")
    parser.add_argument("--split", default="heldout", help="heldout, harder or search")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the figures and the page")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    study = Study(open_checkpoint(str(args.checkpoint)), list(cases(args.split, args.questions)))
    records = []
    for row in rows(study, args.split, args.questions):
        print(row, flush=True)
        records.append(row)
    weights = weights_hash(args.checkpoint)[:16]
    args.output.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in records)
    text = f'{{"weights": "{weights}", "split": "{args.split}", "rows": [\n{lines}\n]}}\n'
    (args.output / "glyph-clips.json").write_text(text, encoding="utf-8")
    (args.output / "glyph-clips.md").write_text(page(records, args.split, weights), encoding="utf-8")


if __name__ == "__main__":
    main()
