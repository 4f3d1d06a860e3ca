"""How the recipes of the named plans are searched: `python -m glyph_deep.studies.plans.recipes -o FOLDER`.

Every token in the first eighth of the LLM, then a share of them, none at the last layer: share by score by the filter's
width rho where a score takes one, on the search splits alone. The best of equal FLOPs has the highest retention on the
ground where it is least. Prints Markdown; a killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from itertools import product
from pathlib import Path

import torch

from glyph_deep.data.cases import SIZES, cases
from glyph_deep.data.splits import GROUNDS
from glyph_deep.studies.methods.compare import say
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, weights_hash
from luvc_export.calibration.ablation.study import Row, Study
from luvc_export.calibration.ablation.variants import Shapes, Variant
from luvc_export.calibration.runners.compressed import load_model
from luvc_export.core.plan import Method
from luvc_export.core.plan.request import LlmRequest, PlanRequest
from luvc_export.core.planning import solve
from luvc_export.export.checkpoint import open_checkpoint

CHECKPOINT = Path(__file__).parents[2] / "checkpoint"
AFTER = Fraction(1, 8)
SHARES, RHOS = (0.3, 0.34, 0.38, 0.415, 0.45), (0.25, 0.5)
#: Scores that take the width of the filter, rho, and those that have none.
FILTERED, PLAIN = ("residual", "scope"), ("maxmin",)
TEXT = 64  # tokens that costs count, as `luvc-export plan` does


def request(share: float, score: str, rho: float) -> PlanRequest:
    """Return what a recipe asks for, as those of `luvc_export.core.named_plans`."""
    method = Method(score, (("rho", rho),) if score in FILTERED else ())
    return PlanRequest(LlmRequest(method=method, stages=((Fraction(0), 1.0), (AFTER, share))))


def study_of(ground: str, count: int, folder: Path) -> Study:
    """Return the study of a ground on its search split."""
    opened = open_checkpoint(str(CHECKPOINT))
    unit = opened.family.unit_pixels(opened.config)
    height, width = SIZES[ground]
    llm, encoder = opened.family.decoder_shape(opened.config), opened.family.encoder_shape(opened.config)
    shapes = Shapes((height // unit, width // unit), llm, encoder)
    engine = PlanEvaluator(opened, load_model(opened), list(cases(f"search-{ground}", count, 0)), True)
    about = {"ground": ground, "weights": weights_hash(CHECKPOINT)}
    store = Store(folder / f"recipes-{ground}-measurements.json", about)
    return Study({"report": engine}, shapes, store, TEXT, lambda stage, done: say(f"{ground}: {stage}", done))


def main() -> None:
    """Read the command line, search, print the worst ground of every recipe, best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder in which a killed run goes on")
    parser.add_argument("--count", type=int, default=300, help="questions a ground")
    parser.add_argument("--grounds", nargs="*", choices=GROUNDS, default=list(GROUNDS))
    parser.add_argument(
        "--shares", nargs="*", type=float, default=list(SHARES), help="of tokens after the first eighth"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    some_asked = [*product(args.shares, FILTERED, RHOS), *product(args.shares, PLAIN, (0.0,))]
    asked = {
        f"{share:g} by {score}" + f", rho {rho:g}" * bool(rho): (share, score, rho) for share, score, rho in some_asked
    }
    rows: dict[str, list[Row]] = {name: [] for name in asked}
    for ground in args.grounds:
        study = study_of(ground, args.count, args.output)
        shapes = study.shapes
        plans = {
            name: solve(request(*options), shapes.grid, shapes.llm, shapes.encoder) for name, options in asked.items()
        }
        some = [Variant("none", (shapes.none(),)), *(Variant(name, (plan,)) for name, plan in plans.items())]
        for row in study.rows(f"search-{ground}", some):
            if row.name in rows:
                rows[row.name].append(row)
    print(f"| recipe | {' | '.join(args.grounds)} | least | FLOPs fewer on {args.grounds[-1]} |")
    print("|---|" + "---:|" * (len(args.grounds) + 2))
    for name, some_rows in sorted(rows.items(), key=lambda item: -min(row.retention.value for row in item[1])):
        kept = [row.retention.value for row in some_rows]
        cells = " | ".join(f"{value:.3f}" for value in (*kept, min(kept)))
        print(f"| {name} | {cells} | {some_rows[-1].flops_ratio:.2f}x |")


if __name__ == "__main__":
    main()
