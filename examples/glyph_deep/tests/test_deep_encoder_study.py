"""The page about a cheaper encoder says what its figures say."""

from __future__ import annotations

import json
from pathlib import Path

from glyph_deep.studies.measured import command, parser_of
from glyph_deep.studies.vision.encoder import page

import luvc_export
from luvc_export.calibration.ablation.encoder_section import cheaper_encoders
from luvc_export.calibration.ablation.study import from_plain
from luvc_export.calibration.ablation.variants import Shapes
from luvc_export.core.planning import check_model
from luvc_export.core.shapes import DecoderShape, EncoderShape

RESULTS = Path(luvc_export.__file__).resolve().parents[1] / "docs/results"


def test_the_page_is_its_figures() -> None:
    """A figure that changes is seen in the text."""
    data = json.loads((RESULTS / "encoder.json").read_text(encoding="utf-8"))
    about = data.pop("about")
    figures = from_plain(data)
    written = (RESULTS / "encoder.md").read_text(encoding="utf-8")
    assert page(figures, about) == written
    figures["pages"]["ratios"][3] += 1
    assert page(figures, about) != written


def test_variants_fit_towers_with_and_without_windows() -> None:
    """Each is another one, and a plan the model takes."""
    llm = DecoderShape(2, 8, 2, 2, 4, 16, 9, 99)
    for window, full in ((4, (3, 7, 11)), (0, tuple(range(12)))):
        encoder = EncoderShape(12, 8, 16, 4, window, full)
        some = cheaper_encoders(Shapes((9, 12), llm, encoder))
        assert len({variant.name + variant.remark for variant in some}) == len(some) >= 18
        for variant in some:
            check_model(variant.plans[0], llm, encoder)


def test_a_recorded_command_says_what_is_not_as_by_default() -> None:
    """A page's command measures the same again: its places and threads left out, all else said."""
    parser = parser_of(None, 420, "questions")
    parser.add_argument("--speedup", type=float, default=3.0)
    for words in ("", " --count 210", " --count 210 --grounds plain pages --speedup 2.5"):
        args = parser.parse_args(["-o", "here", "--threads", "1", *words.split()])
        line = command("methods.past", parser, args)
        assert line == f"python -m glyph_deep.studies.methods.past -o ../docs/results{words}"
