"""What standing still costs: `python -m glyph_deep.studies.plans.moved -o FOLDER --merged CHECKPOINT`, in `examples`.

Layers that do not work on visual tokens leave them as they entered (`LlmPlan.kv_only`), move them by the mean of
what they add to a few of the picture's own (`LlmPlan.sampled`), or work on some in turns and move each of the others as
those like it (`LlmPlan.turns`). Here also by one vector a layer: the mean of what it would have added to them, over
other questions of the search split, by switches on the torch modules that are exported.
Writes the table of docs/results/stripes.md; a killed run goes on.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from glyph_deep.studies.plans.instruments import SEARCHED, asked, studies
from glyph_deep.studies.plans.recipes import GRID, LARGE, PAGE, request, saved
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import pack, plan_key, unpack
from luvc_export.calibration.intervals import retention
from luvc_export.core.files import pages
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.working import Working

#: What `safe` was before tokens took turns, and a shape in which a third of the layers behind the first fifth work.
RECIPES = ("maxmin:whole=1/15,share=0.45,every=2", "maxmin:whole=1/12,share=0.5,works=1/5,every=3,gone=9/10")
FIT, OWN, TURNS = 200, 8, 2  # questions, and tokens of the picture itself, that the means are of; turns


@dataclass
class Changes:
    """What layers would have added to visual rows: sums [D] and of squares, and rows, by layer."""

    total: dict[int, Tensor] = field(default_factory=lambda: defaultdict(lambda: torch.zeros(())))
    squares: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    rows: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    missed: float = 0.0

    def add(self, number: int, entered: Tensor, change: Tensor) -> Tensor:
        """Count the change [B, V, D] of a layer's rows, and what turns miss of it, and return its mean [D]."""
        works = Working(1, change.shape[1], tuple(range(number % TURNS, change.shape[1], TURNS)), True)
        self.missed += float((entered + change - works.after(entered, works.of(entered + change))).pow(2).sum())
        self.total[number] = self.total[number] + change.sum((0, 1))
        self.squares[number] += float(change.pow(2).sum())
        self.rows[number] += change.shape[0] * change.shape[1]
        return change.mean((0, 1))

    def means(self) -> dict[int, Tensor]:
        """Return the mean change [D] by layer."""
        return {number: total / self.rows[number] for number, total in self.total.items()}

    def explained(self) -> float:
        """Return the share of what all layers would have added, squared, that the means are."""
        means = sum(float(mean.pow(2).sum()) * self.rows[number] for number, mean in self.means().items())
        return means / sum(self.squares.values())

    def by_turns(self) -> float:
        """Return the share of what all layers would have added to rows not in turn, squared, that they move by."""
        return 1 - self.missed / (sum(self.squares.values()) * (1 - 1 / TURNS))


@contextmanager
def moved(layers: Collection[int], by: Mapping[int, Tensor] | Changes) -> Iterator[None]:
    """In `layers` visual rows of every decoder move by their vector [D] alone; of `Changes`, by the mean of a call."""
    whole_layer = Decoder._layer

    def layer_of(self: Any, layer: Any, x: Any, sight: Any, *rest: Any) -> Any:
        number = next(n for n, known in enumerate(self.layers) if known is layer)
        after, held = whole_layer(self, layer, x, sight, *rest)
        if number in layers and (visual := sight.pictures):
            still, change = x[:, :visual], after[:, :visual] - x[:, :visual]
            rows = still + (by.add(number, still, change) if isinstance(by, Changes) else by[number])
            after = torch.cat([rows, after[:, visual:]], 1)
        return after, held

    with patch.object(Decoder, "_layer", layer_of):
        yield


def fitted(engine: PlanEvaluator, plan: Any, layers: Collection[int]) -> Changes:
    """Return what `layers` would have added to rows that moved by the mean in the layers before."""
    changes = Changes()
    with moved(layers, changes):
        engine.right(plan)
    return changes


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder in which a killed run goes on")
    parser.add_argument("--count", type=int, default=1000, help="questions a ground")
    parser.add_argument("--models", nargs="+", choices=list(SEARCHED), default=list(SEARCHED))
    parser.add_argument("--merged", type=Path, required=True, help="checkpoint of `pretrained`")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    fewer, rows = saved({recipe: request(recipe) for recipe in RECIPES}), []
    for model in args.models:
        for ground, study in studies(model, args.count, args.output, True, args.merged):
            engine = study.engines["report"]
            others = asked(model, ground, args.count + FIT, True)[args.count :]
            pictures = [case.picture for case in engine.cases]
            full = np.asarray(study.right("report", study.shapes.none()), dtype=np.float64)
            for recipe in RECIPES:
                plan = study.shapes.solved(request(recipe))
                layers = plan.llm.kv_only
                working = plan.changed(kv_only=())
                calibrated = PlanEvaluator(engine.checkpoint, engine.model, others, True)

                def answers(
                    by: Any = calibrated, of: Any = engine, working: Any = working, layers: Any = layers
                ) -> Any:
                    changes = fitted(by, working, layers)
                    with moved(layers, changes.means()):
                        return [pack(of.right(working)), changes.explained()]

                def of_turns(by: Any = calibrated, working: Any = working, layers: Any = layers) -> float:
                    return fitted(by, working, layers).by_turns()

                text, explained = study.store.of(["moved", plan_key(plan), args.count, FIT], answers)
                shares = explained, study.store.of(["turns", plan_key(plan), FIT, TURNS], of_turns)
                still = np.asarray(study.right("report", plan), dtype=np.float64)
                own = np.asarray(study.right("report", plan.changed(sampled=OWN)), dtype=np.float64)
                turns = np.asarray(study.right("report", plan.changed(turns=TURNS)), dtype=np.float64)
                others_mean = np.asarray(unpack(text, len(engine.cases)), dtype=np.float64)
                kept = [retention(one, full, pictures).text(3) for one in (still, others_mean, own, turns)]
                known = *kept, *(f"{share:.2f}" for share in shares)
                rows.append((f"`{recipe}`", f"{fewer[recipe]:.2f}x", f"{model}, {ground}", *known))
                print(*rows[-1], flush=True)
    if args.models != list(SEARCHED):
        return
    moves = ("by the mean", f"by that of {OWN} of their own", f"{TURNS} turns")
    figures = ("rows stand still", *moves, "share of the change by the mean", f"{TURNS} turns")
    head = ("score and stripes", f"LLM FLOPs, {LARGE} at {GRID[0] * GRID[1]}", "ground", *figures)
    table = pages.table(head, sorted(rows), left=1)
    PAGE.write_text(pages.within(PAGE.read_text(encoding="utf-8"), "moved", table), encoding="utf-8")


if __name__ == "__main__":
    main()
