"""Accuracy and kept tokens on padded pictures, with padding told to the graphs and without, to docs/results/padding.md.

Run: python benchmarks/measure/pruning/padding.py. Held-out questions of the bundled model about a part of each picture,
which the fit rule puts in the middle of the canvas that the model knows, at the scale that it knows. Many questions ask
for what was cut away; what compression costs is told by those that the uncompressed model still answers right. "before"
is what 0.1.0 did: units of padding are units like all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luvc_export.calibration import intervals, runners
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.runners.canvas import canvas, prepare, uncompressed
from luvc_export.calibration.tasks import find
from luvc_export.core.plan import Plan
from luvc_export.core.planning import LlmRequest, PlanRequest, solve
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.compression import scores
from luvc_export.runtime.media.padding import padding_tokens

PAGE = Path(__file__).resolve().parents[3] / "docs" / "results" / "padding.md"
QUESTIONS = 504
#: Of them, those whose kept tokens are counted.
COUNTED = 28
HEIGHT, WIDTH = IMAGE_SIZE
#: Shares of the height and the width that are shown, from the top left.
PARTS = {
    "whole": (1.0, 1.0),
    "left three quarters": (1.0, 3 / 4),
    "upper two thirds": (2 / 3, 1.0),
    "left half": (1.0, 1 / 2),
}
_HEAD = """# Padded pictures

Written by `python benchmarks/measure/pruning/padding.py`: {questions} held-out questions of the bundled model about a
part of each picture, padded to the canvas of {height}x{width} that the model knows. "before" are graphs that are not
told of padding, as in 0.1.0. Accuracy is of all questions, many of which ask for what was cut away; retention is that
by the accuracy of plan `none` on the same pictures, with its 95 % interval, clustered by picture. "kept answers"
counts those of `none`'s right answers that stay right. Padding kept is the share of padding among the tokens that
enter the first layer that prunes; picture kept, how many of the tokens that hold picture do. What is done about
padding: [algorithm.md](../algorithm.md#padding).

| part shown | padding, units | plan | | accuracy | retention | kept answers | padding kept | picture kept |
|---|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Part:
    """A question about a part of its pictures."""

    images: tuple[Any, ...]
    prompt: str
    answer: str
    kind: str
    picture: int


def cut(case: Any, part: tuple[float, float]) -> Part:
    """``case`` about the upper left of its pictures."""
    height, width = round(part[0] * HEIGHT), round(part[1] * WIDTH)
    images = tuple(np.asarray(image)[:height, :width] for image in case.images)
    return Part(images, case.prompt, case.answer, case.kind, case.picture)


def rows() -> Iterator[str]:
    """The table, line by line."""
    task, checkpoint = find("glyph"), open_checkpoint(str(CHECKPOINT))
    model, whole = runners.load_model(checkpoint), list(task.cases("heldout", QUESTIONS, 0))
    shapes = checkpoint.family.decoder_shape(checkpoint.config), checkpoint.family.encoder_shape(checkpoint.config)
    clusters = [case.picture for case in whole]
    manifest, none = canvas(checkpoint, IMAGE_SIZE, "pad"), uncompressed(checkpoint, IMAGE_SIZE)
    for name, part in PARTS.items():
        cases = [cut(case, part) for case in whole]
        engine = PlanEvaluator(checkpoint, model, cases, task.stops, image=manifest)
        asked = [prepare(case, engine.tokens, manifest, none) for case in cases[:COUNTED]]
        share = float(np.mean([request.padding.mean() for request in asked if request.padding is not None]))
        full = engine.right(none)
        yield f"| {name} | {share:.0%} | `none` | | {np.mean(full):.1%} | | {sum(full)} | | |"
        for schedule in ("even", "thirds"):
            plain = scores.described(solve(PlanRequest(LlmRequest(schedule)), none.grid, *shapes))
            for when, plan in (("before", plain), ("after", plain.changed(padding=True))):
                right = engine.right(plan)
                kept, both = intervals.retention(right, full, clusters), int(np.sum(np.logical_and(right, full)))
                void, shown = counted(engine, plan, manifest)
                yield (
                    f"| | | `{schedule}` | {when} | {np.mean(right):.1%} |"
                    f" {kept.value:.3f} ({kept.low:.3f} to {kept.high:.3f}) | {both} | {void:.0%} | {shown:.0%} |"
                )


def counted(engine: PlanEvaluator, plan: Plan, manifest: object) -> tuple[float, float]:
    """Of what enters the first layer that prunes: share of padding; and share of all picture tokens that do."""
    runner = runners.open_torch(engine.checkpoint, plan, manifest, model=engine.model)  # type: ignore[arg-type]
    layer = next(layer for layer, _, keep in plan.prunes if keep)
    void = kept = picture = 0
    for case in engine.cases[:COUNTED]:
        request = prepare(case, engine.tokens, runner.prompting.manifest, plan)
        assert request.padding is not None
        [seen] = runner.observe([case])
        assert seen.merged_into is not None
        padding = padding_tokens(request.padding, seen.merged_into, plan.vision_tokens)
        chosen = np.take_along_axis(padding, seen.kept[layer], 1)
        void, kept = void + int(chosen.sum()), kept + chosen.size
        picture += int((~padding).sum())
    return void / kept, (kept - void) / picture


if __name__ == "__main__":
    torch.set_num_threads(1)
    text = _HEAD.format(questions=QUESTIONS, height=HEIGHT, width=WIDTH)
    for line in rows():
        print(line, flush=True)
        text += line + "\n"
    PAGE.write_text(text, encoding="utf-8")
