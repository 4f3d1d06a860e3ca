"""Ablations and seeds: what is tried is what is said, and the page is its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pretrained import ablations, seeds

from luvc_export.calibration.ablation.variants import Shapes
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.export.checkpoint import open_checkpoint

DEEP = Path(__file__).parents[2] / "glyph_deep" / "checkpoint"


@pytest.fixture
def shapes() -> Shapes:
    """Of glyph_deep, with as many layers as the pretrained model."""
    opened = open_checkpoint(str(DEEP), weights=False)
    llm: DecoderShape = opened.family.decoder_shape(opened.config)
    encoder: EncoderShape = opened.family.encoder_shape(opened.config)
    return Shapes((9, 12), replace(llm, layers=30), encoder)


def test_variants_are_shares_behind_depths_and_named_once(shapes: Shapes) -> None:
    """Those of one share have one budget, behind the layer that is named; the encoder merges."""
    every = list(ablations.variants(shapes))
    assert len({(section, variant.name) for section, variant in every}) == len(every) == 32
    for share in ablations.SHARES:
        same = [
            variant.plans[0] for section, variant in every if section.startswith(f"{share:.0%} of the tokens behind an")
        ]
        kept = {plan.keep for plan in same if plan.llm.reducer == "prune"}
        assert len(kept) == 1 and round(share * 108) in kept.pop()
    quarters = {section: variant.plans[0].keep for section, variant in every if section.startswith("25% of the t")}
    assert [keep.index(27) for keep in quarters.values()] == [4, 2, 8]
    assert all(v.plans[0].vision_tokens < 108 for section, v in every if "in the encoder" in section)


def test_the_page_is_its_figures() -> None:
    """Both tables; figures are apart where their intervals are."""
    text = ablations.PAGE.read_text(encoding="utf-8")
    assert ablations.table(json.loads(ablations.FIGURES.read_text(encoding="utf-8"))) in text
    second = json.loads(seeds.FIGURES.read_text(encoding="utf-8"))
    assert seeds.tables([seeds.records(seeds.NAMED, seeds.FIRST), second]) in text
    assert seeds.apart([1.0, 0.9, 1.1], [1.3, 1.2, 1.4]) and not seeds.apart([1.0, 0.9, 1.1], [1.1, 1.05, 1.2])
