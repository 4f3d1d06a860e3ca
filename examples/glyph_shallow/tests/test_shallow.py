"""The shallow model: it grows from glyph_deep without a change, blocks fade, and the page says what counts."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from glyph_deep.train.encoder import encode
from glyph_deep.train.model import load
from glyph_shallow import study
from glyph_shallow.model import BEFORE, BLOCKS, LAYERS, SCALE, cut, faded, grow, shares
from transformers import Qwen2_5_VLForConditionalGeneration

HERE = Path(study.__file__).parent


@pytest.fixture(scope="module")
def grown() -> Qwen2_5_VLForConditionalGeneration:
    """Return the model as it begins."""
    return grow()


@torch.no_grad()
def test_it_begins_as_glyph_deep(grown: Qwen2_5_VLForConditionalGeneration) -> None:
    """Scaling the residual stream and adding identities changes nothing."""
    deep = load(BEFORE)
    picture = np.random.default_rng(0).integers(0, 256, (1, 56, 84, 3)).astype(np.uint8)
    before = encode(deep.model.visual, picture)
    after = encode(grown.model.visual, picture)
    torch.testing.assert_close(after, before * SCALE, rtol=1e-4, atol=1e-4)
    ids = torch.arange(5, 25)[None]
    torch.testing.assert_close(grown(ids).logits, deep(ids).logits, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_what_has_faded_can_be_cut(grown: Qwen2_5_VLForConditionalGeneration) -> None:
    """The cut model is the one whose blocks add nothing."""
    picture = np.random.default_rng(1).integers(0, 256, (1, 56, 56, 3)).astype(np.uint8)
    small = cut(grown)
    assert len(small.model.visual.blocks) == BLOCKS and len(small.model.language_model.layers) == LAYERS
    gone = encode(faded(grown.model.visual, shares(1.0)), picture)
    torch.testing.assert_close(encode(small.model.visual, picture), gone)
    half = encode(faded(grown.model.visual, shares(0.5)), picture)
    assert (half - gone).abs().max() > 1e-2, "blocks that are half there count"
    torch.testing.assert_close(
        encode(faded(grown.model.visual, shares(0.0)), picture), encode(grown.model.visual, picture)
    )


def test_blocks_fade_from_the_last_to_the_first_that_goes() -> None:
    """Monotone in time and along the depth."""
    steps = [shares(progress) for progress in np.linspace(0, 1, 23)]
    assert steps[0] == [1.0] * 12 and steps[-1] == [1.0] * BLOCKS + [0.0] * 9
    for before, after in pairwise(steps):
        assert all(a <= b for a, b in zip(after, before, strict=True))
    assert all(step == sorted(step, reverse=True) for step in steps)


def test_layers_that_are_frozen_by_position() -> None:
    """Quarters and halves make the whole."""
    parts = study.frozen(12)
    assert sorted(sum((parts[f"quarter {n}"] for n in (1, 2, 3, 4)), ())) == [*range(12)]
    assert parts["first half"] + parts["last half"] == parts["every layer"]
    assert study.spans([0, 2, 3, 7, 8, 9]) == "0, 2-3, 7-9"


def test_the_page_and_the_card_are_of_these_weights() -> None:
    """A changed figure, page or checkpoint is seen."""
    figures = json.loads((study.RESULTS / "glyph-shallow.json").read_text())
    assert figures["weights"] == study.weights_hash(HERE / "checkpoint")[:16]
    assert (study.RESULTS / "glyph-shallow.md").read_text() == study.page(figures["rows"], figures["weights"])
    card = (HERE / "MODEL_CARD.md").read_text()
    rows = {(row["ground"], row["variant"]): row for row in figures["rows"]}
    for ground in ("plain", "textured"):
        for variant in ("none", "every layer"):
            value, low, high = rows[ground, variant]["accuracy"]
            assert f"{value:.3f} ({low:.3f} to {high:.3f})" in card
    counts = {row["ground"]: row["counts"] for row in figures["rows"]}
    assert counts["plain"] and not counts["textured"]
