"""What layers may leave out for visual tokens: `python -m glyph_deep.studies.plans.operators -o FOLDER`, in `examples`.

Attention or the MLP alone, or both (`LlmPlan.kv_only`), in parts of the depth; and stale rows: tokens that are not
chosen stay where they stand, computed no more, and keys and values are still made of them. All by switches on the
torch modules that are exported, on the search splits of `plain`; no plan has the switches. Writes
docs/results/operators.json, a record a line, and the table of docs/results/pretrained.md; a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from glyph_deep.studies.plans.instruments import SEARCHED, TEXT, studies
from glyph_deep.studies.plans.recipes import GRID, LARGE, large
from luvc_export.calibration.ablation.store import pack, unpack
from luvc_export.calibration.ablation.variants import Shapes
from luvc_export.calibration.intervals import Interval, retention
from luvc_export.core.budgets import prefill_flops
from luvc_export.core.files import pages
from luvc_export.core.shapes import DecoderShape
from luvc_export.export.compression import scores, spu
from luvc_export.export.llm.decoder import Decoder

PAGE = Path(__file__).parents[4] / "docs" / "results" / "pretrained.md"
FIGURES = PAGE.with_name("operators.json")
GROUND = "plain"
METHOD = scores.method("residual", rho=0.5)  # as `staged` chooses

#: Layers of a depth by the names of the table.
PARTS: dict[str, Callable[[int], range]] = {
    "the first half": lambda layers: range(layers // 2),
    "the middle half": lambda layers: range(layers // 4, layers - layers // 4),
    "the last half": lambda layers: range(layers // 2, layers),
    "every second from an eighth on": lambda layers: range(max(1, layers // 8), layers, 2),
}
BEGINS, SHARES = (8, 4), (0.415, 0.25)  # stale rows: behind one part in so many, of so many tokens chosen


@dataclass(frozen=True)
class Switches:
    """Layers in which visual rows leave out attention's answer, or the MLP's; where rows become stale, and who works.

    Keys and values are made of every row in every layer.
    """

    attention: frozenset[int] = frozenset()
    mlp: frozenset[int] = frozenset()
    stale_from: int | None = None
    share: float = 1.0

    def flops(self, shape: DecoderShape, tokens: int, text: int) -> int:
        """FLOPs of the prefill of all `tokens` visual tokens."""
        keep, total = (tokens,) * shape.layers, 0
        whole = prefill_flops(shape, keep, text)
        frozen = prefill_flops(shape, keep, text, kv_only=range(shape.layers))
        for number in range(shape.layers):
            mlp = 2 * tokens * 3 * shape.hidden * shape.layer(number).intermediate
            attention = whole[number] - frozen[number] - mlp
            spared = mlp * (number in self.mlp) + attention * (number in self.attention)
            if self.stale_from is not None and number >= self.stale_from:
                spared = round((1 - self.share) * (mlp + attention))
            total += whole[number] - spared
        return total


def variants(layers: int) -> Iterator[tuple[str, Switches]]:
    """Yield what is tried at a depth, by name."""
    yield "nothing", Switches()
    for name, part in PARTS.items():
        chosen = frozenset(part(layers))
        yield f"attention in {name}", Switches(attention=chosen)
        yield f"the MLP in {name}", Switches(mlp=chosen)
        yield f"both in {name}", Switches(chosen, chosen)
    for share in SHARES:
        for begin in BEGINS:
            name = f"both behind 1/{begin} of the depth, but for {share:g} of the tokens (stale rows)"
            yield name, Switches(stale_from=max(1, round(layers / begin)), share=share)


@contextmanager
def switched(switches: Switches, shapes: Shapes) -> Iterator[None]:
    """Every decoder that runs inside leaves out what the switches say."""
    whole_layer, at = Decoder._layer, {"layer": 0, "visual": 0}
    resting: dict[str, Any] = {}

    def layer_of(self: Any, layer: Any, x: Any, sight: Any, *rest: Any) -> Any:
        number = next(n for n, known in enumerate(self.layers) if known is layer)
        at.update(layer=number, visual=sight.pictures)
        if number == switches.stale_from and sight.pictures:
            resting["rows"] = ~_chosen(self, layer, x[:, : sight.pictures], shapes, switches.share)
        after, held = whole_layer(self, layer, x, sight, *rest)
        if switches.stale_from is not None and number >= switches.stale_from and sight.pictures:
            visual = torch.where(resting["rows"], x[:, : sight.pictures], after[:, : sight.pictures])
            after = torch.cat([visual, after[:, sight.pictures :]], 1)
        return after, held

    def finish(self: Any, layer: Any, x: Any, mixed: Any, own: Any) -> Any:
        answers = at["layer"] in switches.attention, at["layer"] in switches.mlp
        working = torch.ones(x.shape[1], 1)
        working[: at["visual"]] = 0.0
        x = x + self.after_attention(layer, mixed) * (working if answers[0] else 1.0)
        return self.leave(layer, x + self.feed_forward(layer, x) * (working if answers[1] else 1.0), own)

    with patch.object(Decoder, "_layer", layer_of), patch.object(Decoder, "_finish", finish):
        yield


def _chosen(decoder: Any, layer: Any, visual: torch.Tensor, shapes: Shapes, share: float) -> torch.Tensor:
    """Which visual rows [B, V, D] go on working, bool [B, V, 1]: the best of each picture, as a prune would keep."""
    tokens, keep = shapes.units, round(share * shapes.units)
    plan = shapes.plan((tokens, *[keep] * (shapes.llm.layers - 1)), "stale", "full").changed(method=METHOD)
    basis = scores.constant(plan, 1, tokens, shapes.llm.hidden)
    normed = decoder.norm_of(decoder.parts(layer).before, visual).float().unflatten(1, (-1, tokens))
    entering = scores.ScoreInput(normed, basis, "token", keep, None, shapes.grid, 1, None, dict(METHOD.settings))
    best = spu.select(scores.find(METHOD.name).score(entering), keep)
    return torch.zeros(normed.shape[:3], dtype=torch.bool).scatter(2, best, True).flatten(1, 2)[..., None]


def main() -> None:
    """Measure, and write the record and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder in which a killed run goes on")
    parser.add_argument("--count", type=int, default=400, help="questions a model")
    parser.add_argument("--models", nargs="+", choices=list(SEARCHED), default=list(SEARCHED))
    parser.add_argument("--merged", type=Path, help="checkpoint of `pretrained`; without it that model is left out")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    (shape, _), tokens = large(), GRID[0] * GRID[1]
    whole = Switches().flops(shape, tokens, TEXT)
    rows: dict[str, dict[str, Any]] = {
        name: {"off": name, "flops": round(whole / each.flops(shape, tokens, TEXT), 3)}
        for name, each in variants(shape.layers)
    }
    for model in (name for name in args.models if name != "pretrained" or args.merged):
        for ground, study in studies(model, args.count, args.output, True, args.merged):
            if ground != GROUND:
                continue
            engine, shapes = study.engines["report"], study.shapes
            pictures = [case.picture for case in engine.cases]
            full: np.ndarray | None = None
            for name, switches in variants(shapes.llm.layers):

                def asked(switches: Switches = switches, shapes: Shapes = shapes, engine: Any = engine) -> str:
                    with switched(switches, shapes):
                        return pack(engine.right(shapes.none()))

                text = study.store.of([name, str(switches), args.count], asked)
                right = np.asarray(unpack(text, len(engine.cases)), dtype=np.float64)
                full = right if full is None else full
                kept = retention(right, full, pictures)
                rows[name][model] = [round(value, 4) for value in kept]
                print(f"{model} {name}: {kept.text(3)}", flush=True)
    if FIGURES.is_file():  # of models that were not asked again
        for row in json.loads(FIGURES.read_text(encoding="utf-8")):
            rows[row["off"]] = row | rows.get(row["off"], {})
    FIGURES.write_text("[\n" + ",\n".join(map(json.dumps, rows.values())) + "\n]\n", encoding="utf-8")
    PAGE.write_text(
        pages.within(PAGE.read_text(encoding="utf-8"), "operators", table([*rows.values()])), encoding="utf-8"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Return the records as Markdown."""
    models = [name for name in SEARCHED if name in rows[0]]
    body = [(row["off"], *(Interval(*row[name]).text(3) for name in models), f"{row['flops']:.2f}x") for row in rows]
    return pages.table(
        ("left out for visual tokens", *models, f"LLM FLOPs, {LARGE} at {GRID[0] * GRID[1]}"), body, left=1
    )


if __name__ == "__main__":
    main()
