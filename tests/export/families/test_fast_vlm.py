"""FastVLM's own: a tower that is timm's and convolutional, in which nothing merges and nothing leaves."""

from __future__ import annotations

import sys

import family_harness as harness
import pytest
import torch
from family_harness import case
from flat_plans import flat_request, replan
from torch import nn

from luvc_export.core.plan.cost import encoder_flops, encoder_ratio
from luvc_export.core.plan.merging import MergePass
from luvc_export.core.plan.request import EncoderPruneRequest
from luvc_export.core.planning import check_model, solve
from luvc_export.errors import CheckpointError, MachineError, PlanError
from luvc_export.export.families import fast_vlm
from luvc_export.export.families.fast_vlm import FAMILY


def test_plans_by_name_merge_nothing_and_prune_in_the_llm() -> None:
    tiny = case("fast_vlm")
    shapes = tiny.family.decoder_shape(tiny.config), tiny.family.encoder_shape(tiny.config)
    for name in ("safe", "luvc", "even"):
        budget = solve(flat_request(schedule=name), (4, 6), *shapes)
        assert not budget.encoder.merges and budget.encoder.prune is None and budget.keep[-1] < 24
        assert encoder_ratio(budget.encoder, shapes[1]) == 1 and encoder_flops(budget.encoder, shapes[1])[0] > 0


@pytest.mark.parametrize("asked", [{"merge_keep": 0.5}, {"merge_at": (0,)}, {"prune": EncoderPruneRequest(0.5)}])
def test_what_the_encoder_cannot_do_is_refused_by_name(asked: dict[str, object]) -> None:
    tiny = case("fast_vlm")
    shapes = tiny.family.decoder_shape(tiny.config), tiny.family.encoder_shape(tiny.config)
    with pytest.raises(
        PlanError,
        match=r"convolutional, or .* pooled: nothing merges or leaves inside it(.|\n)*tokens leave in the LLM",
    ):
        solve(flat_request(schedule="even", **asked), (4, 6), *shapes)


@pytest.mark.parametrize(
    "change", [{"merges": (MergePass(0, 1, 1),), "keep": (15,) * 3}, {"bucket": 12, "keep": (12,) * 3}]
)
def test_a_plan_of_another_model_does_not_fit(change: dict[str, object]) -> None:
    tiny = case("fast_vlm")
    with pytest.raises(PlanError, match="convolutional: nothing merges, leaves or is left out"):
        check_model(
            replan(tiny.plan, **change), tiny.family.decoder_shape(tiny.config), tiny.family.encoder_shape(tiny.config)
        )


def test_flops_are_those_of_its_products() -> None:
    """Of a picture of 4 x 4 units, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    tiny = case("fast_vlm")
    unit = tiny.family.unit_pixels(tiny.config)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        tiny.model.model.vision_tower.timm_model.forward_features(torch.zeros(1, 3, 4 * unit, 4 * unit))
    flops = 16 * tiny.family.encoder_shape(tiny.config).flops
    assert 0.9 * counted.get_total_flops() < flops <= counted.get_total_flops()


def test_any_multiple_of_a_unit_is_a_picture() -> None:
    tiny = case("fast_vlm")
    assert tiny.family.usual_size(tiny.config) == (256, 256) and tiny.family.image_size(tiny.config) is None
    plan = replan(tiny.plan, grid=(2, 3), keep=(6,) * 3)
    assert harness.encode_images(tiny, plan, torch.zeros(1, 1, 32, 48, 3, dtype=torch.uint8))[0].shape == (1, 6, 64)


def test_counts_of_a_norm_are_no_weights() -> None:
    """Norms count their training steps in integers, which no graph reads."""
    norms = [part for part in case("fast_vlm").model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms and norms[0].num_batches_tracked.dtype == torch.int64


def test_without_timm_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FAMILY.tiny_config()
    monkeypatch.setitem(sys.modules, "timm", None)
    fast_vlm._shape.cache_clear()
    with pytest.raises(MachineError, match=r"vision tower of this model is timm's(.|\n)*luvc-export\[timm\]"):
        FAMILY.unit_pixels(config)


def test_another_tower_is_refused() -> None:
    config = FAMILY.tiny_config()
    config.vision_config.model_type = "siglip_vision_model"
    with pytest.raises(CheckpointError, match=r"inside fast_vlm(.|\n)*expected: timm_wrapper"):
        FAMILY.build(config)
