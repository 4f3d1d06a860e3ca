"""Questions about what a picture does not show, by score: `python -m pretrained.absent MERGED -o FOLDER` in `examples`.

Two forms of question, asked of what is there and of what is not ("none" is right), held out: a score that covers the
picture with tokens may answer the first and name, of the second, what no picture shows (arXiv 2603.01236). Prints
Markdown; a killed run goes on in FOLDER.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from glyph_deep.data.cases import SIZES
from glyph_deep.studies.plans.instruments import TEXT
from glyph_deep.studies.plans.recipes import request

from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, weights_hash
from luvc_export.calibration.ablation.study import Study
from luvc_export.calibration.ablation.variants import Shapes, Variant
from luvc_export.calibration.runners.compressed import load_model
from luvc_export.core.files import pages
from luvc_export.core.planning import solve
from luvc_export.demo.questions import GlyphCase
from luvc_export.export.checkpoint import open_checkpoint
from pretrained import questions

#: Kinds of questions about what is there, in the words of those about what is not.
THERE, ABSENT = ("colour_of_digit", "digit_of_colour"), ("absent",)
#: What is unlike the mean, what covers, what is far apart, what the text attends to; what is like the mean; and none.
SCORES = ("residual", "scope", "maxmin", "fastv", "low", "stride", "random")
#: As the plan `staged`: one share after the first eighth, none at the last layer.
SHAPE = "whole=1/8,every=1,gone=1,works=1/8"


def cases(ground: str, kinds: tuple[str, ...], number: int) -> Iterator[GlyphCase]:
    """Yield `number` held-out questions of some kinds."""
    some = (case for case in questions.cases("heldout", ground, 8 * number) if case.kind in kinds)
    for case in islice(some, number):
        yield GlyphCase((case.image,), case.prompt, case.answer, case.kind, case.picture)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("merged", type=Path, help="checkpoint of `pretrained.merge`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder in which a killed run goes on")
    parser.add_argument("--ground", choices=("plain", "textured"), default="plain")
    parser.add_argument("--count", type=int, default=150, help="questions of each of the two, at most")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.125], help="of the visual tokens")
    parser.add_argument("--scores", nargs="+", default=list(SCORES))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    opened = open_checkpoint(str(args.merged))
    model, unit = load_model(opened), opened.family.unit_pixels(opened.config)
    llm, encoder = opened.family.decoder_shape(opened.config), opened.family.encoder_shape(opened.config)
    height, width = SIZES[args.ground]
    shapes = Shapes((height // unit, width // unit), llm, encoder)
    plans = {
        f"{score} {share:g}": solve(request(f"{score}:share={share:g},{SHAPE}"), shapes.grid, llm, encoder)
        for share in args.shares
        for score in args.scores
    }
    variants = [Variant("none", (shapes.none(),)), *(Variant(name, (plan,)) for name, plan in plans.items())]
    head, answered = ["score and share"], []
    for name, kinds in (("there", THERE), ("absent", ABSENT)):
        engine = PlanEvaluator(opened, model, list(cases(args.ground, kinds, args.count)), True)
        head.append(f"right about what is {'there' if kinds is THERE else 'not'} ({len(engine.cases)})")
        about = {
            "model": "pretrained",
            "ground": f"{args.ground}, {name}",
            "weights": weights_hash(args.merged),
        }
        store = Store(args.output / f"{args.ground}-{name}-measurements.json", about)
        study = Study({"report": engine}, shapes, store, TEXT, lambda stage, done, of=name: print(of, done, flush=True))
        answered.append({row.name: row.accuracy for row in study.rows(name, variants)})
    print(pages.table(head, [(one.name, *(of[one.name].text(3) for of in answered)) for one in variants], left=1))


if __name__ == "__main__":
    main()
