"""A page of text under the default plan and under its predecessor: `python -m glyph_deep.studies.plans.before_after`.

Exports the checkpoint with `none`, `even` (the default until pages were measured) and the default of today, asks the
first held-out page in fonts that nothing was trained on every kind of question, and draws the page, what each plan
keeps of it, and the answers to `docs/results/page.png`. The page is number 0 and was not chosen.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from glyph_deep.data.cases import SIZES, cases
from luvc_export.core.named_plans import DEFAULT_PLAN
from luvc_export.demo.questions import GlyphCase
from luvc_export.pipeline import export_bundle, load_bundle, make_plans
from luvc_export.runtime.generation.result import Generation, kept_of
from luvc_export.runtime.media.token_visualisation import draw

HERE = Path(__file__).parents[2]
PLANS = ("none", "even", DEFAULT_PLAN)
GROUND, NUMBER = "fonts", 0
LINE, MARGIN = 24, 16
RIGHT, WRONG, INK = (20, 120, 50), (190, 30, 30), (20, 20, 20)


def asked() -> list[GlyphCase]:
    """Return the questions about the page, one of each kind that it allows."""
    return [case for case in cases(GROUND, 40) if case.picture == NUMBER]


def answers(folder: Path, some: list[GlyphCase]) -> dict[str, list[Generation]]:
    """Return every plan's answers, by ONNX Runtime."""
    checkpoint, size = str(HERE / "checkpoint"), SIZES[GROUND]
    plans = make_plans(checkpoint, PLANS, image_size=size)
    export_bundle(checkpoint, folder, plans, image_size=size)
    answers_of = {}
    for plan in PLANS:
        session = load_bundle(folder, "cpu", plan)
        answers_of[plan] = [session.generate([Image.fromarray(case.images[0])], case.prompt) for case in some]
    return answers_of


def survivors(answer: Generation) -> Image.Image:
    """Return what enters the first LLM layer that fewer tokens enter."""
    plan, chosen = answer.past.loaded.plan, answer.selection
    layer, groups = min(chosen.kept.items())
    canvas = answer.past.images[0][0]
    both = draw(canvas, plan.grid, chosen.merged_into[0], {layer: kept_of(groups, 0, plan)}, panel=canvas.shape[1])
    return both.crop((both.width // 2, 0, both.width, both.height))


def sheet(some: list[GlyphCase], answers: dict[str, list[Generation]]) -> Image.Image:
    """Return the page, what each plan keeps of it, and the answers, side by side."""
    page = Image.fromarray(some[0].images[0])
    columns = [("the page", page)]
    columns += [(f"--plan {plan}", survivors(answers[plan][0])) for plan in PLANS if plan != "none"]
    left = sum(each.width + MARGIN for _, each in columns) + MARGIN
    whole = Image.new("RGB", (left + 620, max(each.height for _, each in columns) + LINE + 2 * MARGIN), (255, 255, 255))
    write, small = ImageDraw.Draw(whole), ImageFont.load_default(15)
    across = MARGIN
    for title, each in columns:
        write.text((across, MARGIN), title, INK, small)
        whole.paste(each, (across, MARGIN + LINE + (34 if each is page else 0)))
        across += each.width + MARGIN
    places, top = [left + offset for offset in (0, 320, 390, 460, 530)], MARGIN
    for place, title in zip(places, ("question", "right", *PLANS), strict=True):
        write.text((place, top), title, INK, small)
    for number, case in enumerate(some):
        top += LINE
        words = [(case.prompt, INK), (case.answer, INK)]
        for plan in PLANS:
            answer = answers[plan][number].text.strip()
            words.append((answer, RIGHT if answer == case.answer else WRONG))
        for place, (text, colour) in zip(places, words, strict=True):
            write.text((place, top), text, colour, small)
    return whole


def main() -> None:
    """Export, ask, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE.parents[1] / "docs/results/page.png")
    args = parser.parse_args()
    some = asked()
    with tempfile.TemporaryDirectory() as folder:
        answered = answers(Path(folder) / "bundle", some)
    for plan, each in answered.items():
        right = sum(one.text.strip() == case.answer for one, case in zip(each, some, strict=True))
        print(f"{plan}: {right} of {len(some)} right")
    sheet(some, answered).quantize(96).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
