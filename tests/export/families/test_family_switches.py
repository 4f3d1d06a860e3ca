"""Every switch of a plan runs in every family; those that are exact stay exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import family_harness as harness
import pytest
import torch
from family_harness import MADE_HERE, TOLERANCE, Case, case
from flat_plans import replan
from torch import Tensor

from luvc_export.core.plan import Plan

FAMILIES = MADE_HERE


def _logits(tiny: Case, plan: Plan) -> Tensor:
    run = harness.lay_out(tiny, plan, tiny.prompt(1), *harness.encode_images(tiny, plan, tiny.images(1))[:2])
    return harness.logits(tiny, tiny.family.decoder(tiny.model, plan), run)


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_and_values_alone_in_the_last_layer_are_exact(name: str) -> None:
    tiny = case(name)
    alone = _logits(tiny, replan(tiny.plan, last_layer="kv_only"))
    assert harness.difference(alone, _logits(tiny, tiny.plan)) < TOLERANCE


@pytest.mark.parametrize("switch", [{"size_bias": True}, {"merge_mode": "max"}, {"positions": "multi"}])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_switch_is_heard(name: str, switch: dict[str, Any]) -> None:
    """Merging is on; the last block but the merge's must follow it for a size to matter, which early merges give."""
    tiny = case(name)
    if not tiny.thirds.encoder.merges:
        pytest.skip("nothing merges in this tower")
    early = tiny.family.encoder_shape(tiny.config).full_attention[0]
    merges = tuple(replace(step, block=early) for step in tiny.thirds.encoder.merges)
    plan = replan(tiny.thirds, merges=merges)
    changed, right = _logits(tiny, replan(plan, **switch)), _logits(tiny, plan)
    assert torch.isfinite(changed).all()
    assert harness.difference(changed, right) > TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_merging_identical_units_changes_nothing_but_their_number(name: str) -> None:
    """A picture of one colour: after a merge every unit is still the mean of equals, and sizes and places add up."""
    tiny = case(name)
    images = torch.full_like(tiny.images(1), 90)
    embeds, positions, places = harness.encode_images(tiny, tiny.thirds, images)
    assert embeds.shape[1] == positions.shape[1] == tiny.thirds.vision_tokens
    sizes = torch.bincount(places[0], minlength=tiny.thirds.vision_tokens)
    assert sizes.min() >= 1
    assert int(sizes.sum()) == tiny.plan.units
    rows, columns = tiny.plan.grid
    middle = (positions[0] * sizes[:, None]).sum(0) / sizes.sum()
    assert torch.allclose(middle, torch.tensor([(rows - 1) / 2, (columns - 1) / 2]), atol=1e-4)


def test_how_rounds_share_a_budget_is_heard() -> None:
    tiny = case("qwen2_vl")
    plan = replan(tiny.thirds, merges=(), keep=(12, 12, 0), last_layer="drop", score="scope", rho=0.5, steps=4)
    embeds = harness.encode_images(tiny, plan, tiny.images(1))[:2]
    run, heard = harness.lay_out(tiny, plan, tiny.prompt(1), *embeds), []
    for rounds in ("growing", "equal"):
        decoder = tiny.family.decoder(tiny.model, replan(plan, rounds=rounds))  # type: ignore[arg-type]
        real = decoder.score
        decoder.score = lambda inputs, real=real: heard.append(inputs.settings["rounds"]) or real(inputs)  # type: ignore[func-returns-value]
        harness.logits(tiny, decoder, run)
    assert heard == ["growing", "equal"]
