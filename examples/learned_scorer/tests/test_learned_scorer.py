"""Gates are a prune in the limit, learning lowers the loss, and the page is made of its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learned_scorer import compare, train
from learned_scorer.gates import gated, scores, soften

from luvc_export.calibration.ablation.study import from_plain
from luvc_export.calibration.intervals import Interval
from luvc_export.calibration.runners.compressed import TorchCalls, load_model
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.compression import scores as built_in_scores
from luvc_export.export.compression.scorer_file import open_scorer

FILE = Path(train.__file__).parent / "glyph_deep.safetensors"
RESULTS = Path(train.__file__).parents[2] / "docs/results"


def test_gates_add_up_and_harden() -> None:
    """They add up to K at every temperature, and become the choice of the K largest."""
    score = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for temperature in (1.0, 0.1, 0.001):
        gates = soften(score, 7, temperature).sigmoid()
        torch.testing.assert_close(gates.sum(1), torch.full((3,), 7.0), atol=1e-3, rtol=0)
    assert torch.equal((gates > 0.5).nonzero()[:, 1].reshape(3, 7), score.topk(7).indices.sort().values)
    weights = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(
        lambda s: (soften(s, 7, 0.5).sigmoid() * weights).sum(), score.double().detach().requires_grad_(), atol=1e-4
    )


@pytest.fixture(scope="module")
def taught() -> train.Lesson:
    """Return a few questions about digits, with what the model says of them."""
    torch.set_num_threads(1)
    checkpoint = open_checkpoint(str(train.CHECKPOINT))
    return train.lesson(checkpoint, load_model(checkpoint), "plain", 6)


def test_hard_gates_are_a_prune(taught: train.Lesson) -> None:
    """The gated model predicts what a plan of the same scorer's file does; with other gates it does not."""
    scorer, keep = open_scorer(FILE), 30
    chosen = range(len(taught.feeds))
    maps = scorer.of(0, taught.calls.decoder.hidden)
    with torch.no_grad(), gated(taught.calls.decoder, 0, 108, lambda n: soften(scores(maps, n), keep, 1e-5)):
        logits, wanted = train.ask(taught, chosen)
    learned = built_in_scores.method("learned", scorer=scorer.sha256)
    plan = taught.calls.plan.changed(keep=(keep,) * 8, method=learned)
    pruned = replace(taught, calls=TorchCalls.__new__(TorchCalls))
    pruned.calls.__dict__ |= taught.calls.__dict__
    pruned.calls.plan, checkpoint = plan, open_checkpoint(str(train.CHECKPOINT))
    pruned.calls.decoder = checkpoint.family.decoder(load_model(checkpoint), plan).eval()
    with torch.no_grad():
        really, _ = train.ask(pruned, chosen)
    torch.testing.assert_close(logits, really, atol=1e-3, rtol=0)
    assert (logits - wanted).abs().max() > 0.01
    with torch.no_grad():
        torch.testing.assert_close(train.ask(taught, chosen)[0], wanted, atol=1e-4, rtol=0)  # the gates are gone


def test_steps_move_both_maps(taught: train.Lesson) -> None:
    """The gradient passes the choice: after two steps neither map is what it began with."""
    begun, moved = (train.learn([taught], 0, 8, steps, 6, 0, 0.01, (0.2, 0.2), (0.3, 0.3)) for steps in (0, 2))
    assert torch.isfinite(moved).all() and all((moved - begun)[half].abs().max() > 1e-3 for half in (0, 1))


def test_the_committed_page_is_its_figures() -> None:
    """One figure changed in the data is another page; the file measured is the one that is here."""
    data = from_plain(json.loads((RESULTS / "learned.json").read_text(encoding="utf-8")))
    about, text = data.pop("about"), (RESULTS / "learned.md").read_text(encoding="utf-8")
    assert about["scorer"] == open_scorer(FILE).sha256 and about["learned_by"] == compare.learned_by(open_scorer(FILE))
    for shares in data.values():
        for parts in shares.values():
            parts["ahead"] = Interval(*parts["ahead"])
    assert compare.page(data, about) == text
    data["plain"]["25%"]["rows"][0] = replace(data["plain"]["25%"]["rows"][0], accuracy=Interval(0.5, 0.4, 0.6))
    assert compare.page(data, about) != text
