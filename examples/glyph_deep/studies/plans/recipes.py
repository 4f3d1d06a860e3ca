"""How the recipe of the plan `safe` is searched: `python -m glyph_deep.studies.plans.recipes -o FOLDER`.

Scores, stripes (`luvc_export.core.plan.stripes`) and turns as `scope:share=0.4,every=3,turns=2`, those of
the page where none is named, on the search splits of the instruments alone. A recipe's place is its least retention of
all grounds. Prints the table, or puts it into docs/results/stripes.md; a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from glyph_deep.studies.plans.instruments import SEARCHED, TEXT, studies
from luvc_export.calibration.ablation.variants import Variant
from luvc_export.calibration.intervals import Interval
from luvc_export.core.files import pages
from luvc_export.core.plan import Method, stripes
from luvc_export.core.plan.cost import cost
from luvc_export.core.plan.request import LlmRequest, PlanRequest
from luvc_export.core.plan.stripes import STRIPED
from luvc_export.core.planning import solve
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.synthetic.presets import PRESETS

#: Scores that take the width of the filter, which is 0.5.
FILTERED, RHO = ("residual", "scope"), 0.5
#: What the page holds: `safe`, what it was for a day before any of its tokens moved others, what is near that in score,
#: tokens, depth and working layers, and `staged` (the last).
TRIED = (
    "maxmin:share=0.48,turns=2",
    "maxmin:whole=1/12,share=0.43,every=2,gone=9/10",
    "maxmin:whole=1/15,share=0.4,every=2,works=3/5,gone=9/10",
    "scope:whole=1/15,share=0.4,every=2,works=3/5,gone=9/10",
    "residual:whole=1/8,share=0.415,every=1,gone=1,works=1/8",
)
PAGE = Path(__file__).parents[4] / "docs" / "results" / "stripes.md"
LARGE, GRID = "qwen2.5-vl-3b", (24, 24)  # the shape whose savings are printed, and 576 tokens of it


def request(recipe: str) -> PlanRequest:
    """Return what a recipe, as the command takes it, asks for."""
    score, _, shape = recipe.partition(":")
    shape, _, turns = shape.partition(",turns=")
    method = Method(score, (("rho", RHO),) if score in FILTERED else ())
    return PlanRequest(LlmRequest(STRIPED, method=method, stripes=stripes.read(shape), turns=int(turns or 0)))


def large() -> tuple[DecoderShape, EncoderShape]:
    """Return the shape of the model whose savings are printed."""
    with tempfile.TemporaryDirectory() as folder:
        for name, record in (("config", PRESETS[LARGE].config), ("preprocessor_config", PRESETS[LARGE].processor)):
            (Path(folder) / f"{name}.json").write_text(json.dumps(record))
        opened = open_checkpoint(folder, weights=False)
        return opened.family.decoder_shape(opened.config), opened.family.encoder_shape(opened.config)


def saved(asked: dict[str, PlanRequest]) -> dict[str, float]:
    """Return times fewer FLOPs of the prefill at `LARGE`'s shape and `GRID`, by recipe."""
    llm, encoder = large()
    return {name: cost(solve(one, GRID, llm, encoder), llm, TEXT).flops_ratio for name, one in asked.items()}


def main() -> None:
    """Read the command line, search, print the retention of every recipe on every ground, best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder in which a killed run goes on")
    parser.add_argument("recipes", nargs="*", default=TRIED, help="score:stripes,turns=N")
    parser.add_argument("--count", type=int, default=1500, help="questions a ground")
    parser.add_argument("--models", nargs="+", choices=list(SEARCHED), default=list(SEARCHED))
    parser.add_argument("--merged", type=Path, help="checkpoint of `pretrained`; without it that model is left out")
    parser.add_argument("--page", action="store_true", help="write docs/results/stripes.md")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="where torch asks: cpu, cuda")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    asked = {recipe: request(recipe) for recipe in args.recipes}
    kept: dict[str, list[Interval]] = {name: [] for name in asked}
    grounds = []
    for model in (name for name in args.models if name != "pretrained" or args.merged):
        for ground, study in studies(model, args.count, args.output, True, args.merged, args.device):
            grounds.append(f"{model}, {ground}")
            plans = {name: study.shapes.solved(one) for name, one in asked.items()}
            for row in study.rows(grounds[-1], [Variant(name, (plan,)) for name, plan in plans.items()]):
                kept[row.name].append(row.retention)
    text = table(grounds, kept, saved(asked))
    if args.page:
        PAGE.write_text(pages.within(PAGE.read_text(encoding="utf-8"), "recipes", text), encoding="utf-8")
    else:
        print(text)


def table(grounds: list[str], kept: dict[str, list[Interval]], fewer: dict[str, float]) -> str:
    """Return the results as a table, the recipe first whose least retention is greatest."""
    rows = [
        (f"`{name}`", *(one.text(3) for one in kept[name]), f"{fewer[name]:.2f}x")
        for name in sorted(kept, key=lambda name: -min(one.value for one in kept[name]))
    ]
    return pages.table(("score and stripes", *grounds, f"LLM FLOPs, {LARGE} at {GRID[0] * GRID[1]}"), rows, left=1)


if __name__ == "__main__":
    main()
