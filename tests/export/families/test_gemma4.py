"""Gemma 4: what it refuses, caches that layers share, and what reaches its layers beside the hidden states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import family_harness as harness
import pytest
import torch
from family_harness import SABOTAGE, TOLERANCE, Case, case
from flat_plans import flat_request, replan
from torch import Tensor

from luvc_export.core.budgets import kv_bytes, prefill_flops
from luvc_export.core.graph_io import past_names
from luvc_export.core.plan import Plan
from luvc_export.core.planning import check_model, solve
from luvc_export.errors import CheckpointError, PlanError


def ask(tiny: Case, plan: Plan, rows: list[int] | None = None) -> tuple[Tensor, list[Tensor]]:
    """Logits of text rows of a prompt with two pictures, and its caches."""
    decoder = tiny.family.decoder(tiny.model, plan)
    run = harness.lay_out(tiny, plan, tiny.prompt(2), *harness.encode_images(tiny, plan, tiny.images(2))[:2])
    if rows is not None:
        run.change["logits_indices"] = lambda ids: torch.tensor([rows])
    with torch.no_grad():
        logits, past, _ = decoder(*run.inputs(), harness.empty_past(tiny))
    return logits[0], past


@pytest.mark.parametrize("plan", ["none", "thirds"])
def test_rows_that_are_not_asked_for_change_nothing(plan: str) -> None:
    """One row, several, in another order, one twice: as where all rows go through the layers that share caches."""
    tiny = case("gemma4")
    chosen = tiny.plan if plan == "none" else tiny.thirds
    whole, _ = ask(tiny, chosen)
    for rows in ([len(whole) - 1], [2, 0, 5], [4, 4]):
        some, _ = ask(tiny, chosen, rows)
        assert harness.difference(some, whole[rows]) < TOLERANCE
    assert harness.difference(whole[[0]], whole[[1]]) > SABOTAGE


def test_layers_that_share_have_no_cache() -> None:
    tiny = case("gemma4")
    shape = tiny.family.decoder_shape(tiny.config)
    assert (shape.layers, shape.shared, shape.cached) == (6, 2, 4)
    assert [shape.layer(number).reads for number in range(6)] == [0, 1, 2, 3, 2, 3]
    _, past = ask(tiny, tiny.plan)
    assert len(past) == len(past_names(tiny.plan.cached)) == 8
    assert [(cache.shape[1], cache.shape[3]) for cache in past[::2]] == [*shape.caches] == [(1, 16), (1, 32)] * 2
    assert kv_bytes(shape, tiny.plan.keep, 10)[4:] == (0, 0)
    flops = prefill_flops(shape, tiny.plan.keep, 10)
    apart = prefill_flops(replace(shape, per_layer=(), shared=0), (24,) * 6, 10)
    assert flops[4] < apart[4] / 10, "one row of 34, with an MLP twice as wide"


def test_budgets_are_of_layers_with_caches() -> None:
    """By name a plan has none for the others; stated ones, and freezing there, are refused."""
    tiny = case("gemma4")
    shapes = tiny.family.decoder_shape(tiny.config), tiny.family.encoder_shape(tiny.config)
    for name in ("none", "safe", "even"):
        budget = solve(flat_request(schedule=name), (4, 6), *shapes)
        assert budget.keep[3] and budget.keep[4:] == (0, 0) and budget.llm.shared == 2
        assert Plan.from_json(budget.to_json()) == budget
    with pytest.raises(PlanError, match=r"keep\[4\]: got 24; layers from 4 on read(.|\n)*use 0"):
        replan(tiny.plan, keep=(24,) * 6)
    with pytest.raises(PlanError, match=r"kv_only\[0\]: no visual token enters layer 4"):
        replan(tiny.plan, kv_only=(4,))
    other = case("gemma3")
    with pytest.raises(PlanError, match=r"llm.shared: got 0; the model's last 2 layers read earlier caches"):
        check_model(replan(other.plan, keep=(16,) * 6), *shapes)


def test_a_prune_carries_what_layers_make_of_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that a prune keeps meet their own embeddings, not those of the rows that stood there before."""
    tiny = case("gemma4")
    plan = replan(tiny.plan, keep=(24, 12, 12, 12, 0, 0))
    right, _ = ask(tiny, plan)
    kind: Any = type(tiny.family.decoder(tiny.model, plan))
    honest = kind.own_embeddings

    def shifted(self: Any, layers: range, visual: Tensor | None, words: Tensor, input_ids: Tensor) -> Any:
        return honest(self, layers, None if visual is None else visual.roll(1, 1), words, input_ids)

    monkeypatch.setattr(kind, "own_embeddings", shifted)
    wrong, _ = ask(tiny, plan)
    assert harness.difference(right, wrong) > SABOTAGE


@pytest.mark.parametrize(
    ("part", "field", "value", "refusal"),
    [
        ("text_config", "enable_moe_block", True, "text_config.enable_moe_block"),
        ("text_config", "use_bidirectional_attention", "all", "use_bidirectional_attention(.|\n)*null or vision"),
        ("", "vision_config", None, "vision_config(.|\n)*a vision tower"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(part: str, field: str, value: Any, refusal: str) -> None:
    config = case("gemma4").family.tiny_config()
    setattr(getattr(config, part) if part else config, field, value)
    with pytest.raises(CheckpointError, match=refusal):
        case("gemma4").family.build(config)


def test_the_audio_tower_is_left_out() -> None:
    family: Any = case("gemma4").family
    config = family.tiny_config()
    config.audio_config = type(config).sub_configs_defaults["audio_config"].config_class()
    with torch.device("meta"):
        assert family.build(config).model.audio_tower is None
    assert "audio" in family.limits
