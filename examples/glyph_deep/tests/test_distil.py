"""The encoder of training under a prune is the one that is exported, and its losses ask for what they say."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from glyph_deep.studies.vision import distilled
from glyph_deep.train import distil, pruned
from glyph_deep.train.model import load
from glyph_deep.train.see import draw

from luvc_export.calibration.runners.compressed import TorchCalls
from luvc_export.core.plan.cost import encoder_ratio
from luvc_export.export.checkpoint import open_checkpoint


def test_the_pruned_encoder_is_the_exported_one() -> None:
    """On a page: units chosen, computed and restored as the tower of the plan does."""
    opened = open_checkpoint(str(distil.CHECKPOINT))
    model = load(distil.CHECKPOINT).eval()
    image = draw("short", 5, 0, "search")[0]
    _, plan, fewer = distilled.plans_of(image.shape[:2])
    assert plan.encoder.prune == distil.prune_for((10, 10)) and fewer >= distil.FEWER
    seen = TorchCalls(opened, model, plan).vision(image[None, None], None)
    with torch.no_grad():
        embeds, _ = pruned.encode(model.model.visual, image[None], plan.encoder.prune)
        other, _ = pruned.encode(model.model.visual, image[None], replace(plan.encoder.prune, keep=0.5))
    np.testing.assert_allclose(embeds.numpy(), seen[0], atol=2e-4)
    assert np.abs(other.numpy() - seen[0]).max() > 0.1


def test_the_share_is_the_largest_that_saves_enough() -> None:
    """One step more would not."""
    opened = open_checkpoint(str(distil.CHECKPOINT))
    shape = opened.family.encoder_shape(opened.config)
    for grid in ((26, 10), (9, 12)):
        prune = distil.prune_for(grid)
        _, plan, _ = distilled.plans_of((28 * grid[0], 28 * grid[1]))
        more = replace(plan.encoder, prune=replace(prune, keep=prune.keep + distil.STEP))
        assert encoder_ratio(plan.encoder, shape) >= distil.FEWER > encoder_ratio(more, shape)


def test_losses_see_what_is_missed() -> None:
    """A unit that says something weighs more than a blank one, and a score that loses it costs."""
    target = torch.zeros(1, 8, 4)
    target[0, :3] = 2
    wrong = [target.clone() for _ in range(2)]
    wrong[0][0, 0] += 1
    wrong[1][0, 7] += 1
    assert distil.distance(target, target) == 0
    assert distil.distance(wrong[0], target) > 2 * distil.distance(wrong[1], target)
    scores = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1]], requires_grad=True)
    good, bad = (distil.ranking(some, target, 4) for some in (scores, scores.flip(1)))
    assert bad > good + 1
    bad.backward()
    assert (scores.grad[0, 5:] < 0).all()


def test_a_start_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """It is the teacher."""
    for start in ([], [tmp_path]):
        with pytest.raises(SystemExit, match="one checkpoint folder"):
            distil.Distil(torch.nn.Linear(1, 1), argparse.Namespace(start=start))


def test_the_page_says_whether_the_bar_is_met() -> None:
    """With training and without."""
    row = {"ground": "pages", "questions": 300, "pictures": 34, "keep": 1.0, "flops": 1.0, "accuracy": 0.9}
    rows = [
        {**row, "way": way, "retention": [kept, 0.9, 1.0]}
        for way, kept in zip(distilled.WAYS, (1, 0.9, 1, 0.99), strict=True)
    ]
    about = {"training": "Long.", "weights": "0" * 64, "exported": [{"ground": "pages", "exported": 9, "same": 9}]}
    text = distilled.page(about, rows)
    assert "as shipped, pruned 0.900, missed; distilled, pruned 0.990, met." in text
    assert "| pages | distilled, pruned | 1.000 | 1.00x | 300 | 34 | 0.9000 | 0.990 (0.900 to 1.000) |" in text
    assert "9 of 9 answers on pages" in text
