"""An encoder that learns to lose units: `python -m glyph_deep.studies.distil CHECKPOINT -o ../docs/results`.

Of the units of a page those of least contrast leave after the first block and come back at the end. The pruned
encoder learns, from pictures alone and without a label, to give what the uncompressed one gives: the mean square of
the difference of visual embeddings, in units of their variance, is lessened for `--minutes`. Pictures are of the
search split; questions are held out. CHECKPOINT becomes a checkpoint like any other, with that encoder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glyph_deep.data.cases import SIZES, cases
from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.runners.compressed import TorchCalls, load_model
from luvc_export.core.cost.encoder import encoder_ratio
from luvc_export.core.plan import Plan
from luvc_export.core.planning import EncoderPruneRequest, EncoderRequest, LlmRequest, PlanRequest, solve
from luvc_export.demo.questions import GlyphCase
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint

SOURCE = Path(__file__).parents[1] / "checkpoint"
GROUND, LEARNED_FROM = "pages", "search-pages"
#: Encoder FLOPs uncompressed by pruned, at least, and shares of the units that are tried for it.
FEWER, SHARES = 1.5, [share / 100 for share in range(99, 30, -1)]
RATE, BATCH = 2e-4, 4
COMMAND = "python -m glyph_deep.studies.distil CHECKPOINT -o ../docs/results"


def plans(opened: Checkpoint) -> tuple[Plan, Plan]:
    """Return the plan without compression, and that of most units after the first block with `FEWER` fewer FLOPs."""
    unit = opened.family.unit_pixels(opened.config)
    height, width = SIZES[GROUND]
    grid = height // unit, width // unit
    llm, encoder = opened.family.decoder_shape(opened.config), opened.family.encoder_shape(opened.config)
    whole = LlmRequest([grid[0] * grid[1]] * llm.layers, last_layer="full")
    for keep in SHARES:
        prune = EncoderPruneRequest(keep, 0, "all")
        pruned = solve(PlanRequest(whole, EncoderRequest(prune=prune)), grid, llm, encoder)
        if encoder_ratio(pruned.encoder, encoder) >= FEWER:
            break
    return solve(PlanRequest(LlmRequest("none")), grid, llm, encoder), pruned


def pictures() -> Iterator[NDArray[np.uint8]]:
    """Yield pictures uint8 [BATCH, H, W, 3] of the search split, each once."""
    last, some = -1, []
    for case in cases(LEARNED_FROM, 10**9, 0):
        if case.picture != last:
            last = case.picture
            some.append(case.images[0])
        if len(some) == BATCH:
            yield np.stack(some)
            some = []


def embeddings(calls: TorchCalls, images: NDArray[np.uint8]) -> Tensor:
    """Return visual embeddings [B, units, D] of an encoder."""
    given = [torch.from_numpy(images)]
    if calls.plan.encoder.reads_padding:
        given.append(torch.zeros(len(images), *calls.plan.grid, dtype=torch.bool))
    embeds: Tensor = calls.encoder(*given)[0]
    return embeds


def learn(teacher: TorchCalls, student: TorchCalls, minutes: float) -> dict[str, float | int]:
    """Lessen the difference for so many minutes; return steps, pictures, and the loss of the first and last fifty."""
    weights = [weight for weight in student.encoder.parameters() if weight.dim()]
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(weights, RATE, betas=(0.9, 0.98), weight_decay=0.0)
    losses: list[float] = []
    began = time.monotonic()
    for images in pictures():
        spent = (time.monotonic() - began) / 60 / minutes
        if spent >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (len(losses) + 1) / 50) * (1 - spent)
        with torch.no_grad():
            wanted = embeddings(teacher, images)
        loss = (embeddings(student, images) - wanted).square().mean() / wanted.var()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        losses.append(float(loss))
        if len(losses) % 50 == 0:
            print(f"{len(losses)} steps, {60 * minutes * spent:.0f} s, loss {np.mean(losses[-50:]):.5f}", flush=True)
    for weight in weights:
        weight.requires_grad_(False)
    ends = {"first": float(np.mean(losses[:50])), "last": float(np.mean(losses[-50:]))}
    return {"steps": len(losses), "pictures": BATCH * len(losses), **{name: round(end, 5) for name, end in ends.items()}}


def retention(model: Any, opened: Checkpoint, plan: Plan, asked: list[GlyphCase], whole: list[bool]) -> list[float]:
    """Return the share of the uncompressed model's right answers that `model` keeps under `plan`, and its interval."""
    right = PlanEvaluator(opened, model, asked, True).right(plan)
    kept = intervals.retention(right, whole, [case.picture for case in asked])
    return [round(value, 4) for value in (kept.value, kept.low, kept.high)]


def main() -> None:
    """Learn, save, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder to make")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page and its figures")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--count", type=int, default=1000, help="questions")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    opened = open_checkpoint(str(SOURCE))
    whole_plan, pruned = plans(opened)
    own, student = load_model(opened), load_model(opened)
    learned = learn(TorchCalls(opened, own, whole_plan), TorchCalls(opened, student, pruned), args.minutes)
    student.save_pretrained(args.checkpoint)
    for file in SOURCE.iterdir():
        if not (args.checkpoint / file.name).exists() and ".safetensors" not in file.name:
            shutil.copy(file, args.checkpoint)
    asked = list(cases(GROUND, args.count, 0))
    whole = PlanEvaluator(opened, own, asked, True).right(whole_plan)
    figures = {
        "ground": GROUND,
        "questions": len(asked),
        "units": f"{pruned.encoder.computed_units} of {pruned.units}",
        "fewer": round(encoder_ratio(pruned.encoder, opened.family.encoder_shape(opened.config)), 3),
        **learned,
        "minutes": args.minutes,
        "accuracy": round(float(np.mean(whole)), 4),
        "before": retention(own, opened, pruned, asked, whole),
        "after": retention(student, opened, pruned, asked, whole),
        "after_whole": retention(student, opened, whole_plan, asked, whole),
    }
    print(json.dumps(figures), flush=True)
    (args.output / "distil.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (args.output / "distil.md").write_text(page(figures), encoding="utf-8")


def page(figures: dict[str, Any]) -> str:
    """Return the document."""
    before, after, other = (
        "{:.3f} ({:.3f} to {:.3f})".format(*figures[name]) for name in ("before", "after", "after_whole")
    )
    return f"""# An encoder that learns to lose units: measured, not shipped

Written by `{COMMAND}` in `examples`. Do not edit: run it again.

{figures["units"]} units of a page, those of most contrast, are computed after the first of twelve blocks
({figures["fewer"]:.2f}x fewer encoder FLOPs); the others come back at the end. The pruned encoder learned the
uncompressed one's embeddings from {figures["pictures"]} pictures without labels, {figures["steps"]} steps of {BATCH},
in {figures["minutes"]:.0f} minutes beside other work on two cores: the mean square of the difference fell from
{figures["first"]} to {figures["last"]} of the variance. {figures["questions"]} held-out questions; retention of the
uncompressed model's right answers with 95 % intervals clustered by picture. The bar was 0.99.

| encoder | retention |
|---|---:|
| pruned, as it is | {before} |
| pruned, after learning | {after} |
| whole, after learning | {other} |
"""


if __name__ == "__main__":
    main()
