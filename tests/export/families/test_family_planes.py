"""DeepStack: planes go where their tokens go, through every merge and every prune."""

from __future__ import annotations

import family_harness as harness
import pytest
import torch
from family_harness import SABOTAGE, case
from flat_plans import flat_request
from torch import Tensor

from luvc_export.core.plan.merging import MergePass, planned
from luvc_export.core.planning import solve
from luvc_export.export.compression import oim
from luvc_export.export.towers import unit_tower


def _state(seed: int = 3) -> oim.Units:
    torch.manual_seed(seed)
    return oim.start(torch.randn(2, 6, 7, 5))


def test_a_plane_equal_to_the_tokens_stays_equal() -> None:
    units, saved = _state(), [_state().x]
    for step in planned((6, 7), (MergePass(0, 2, 3), MergePass(1, 1, 0), MergePass(1, 0, 2))):
        units, saved = unit_tower.merge_with_planes(units, saved, step, "mean")
        assert saved[0].shape == units.x.shape
        assert torch.allclose(saved[0], units.x, atol=1e-6)


def test_planes_change_nothing_of_the_tokens() -> None:
    alone = with_planes = _state()
    for step in planned((6, 7), (MergePass(0, 2, 3), MergePass(1, 1, 1))):
        alone = oim.merge(alone, step.step)
        with_planes, _ = unit_tower.merge_with_planes(
            with_planes, [torch.randn(2, *with_planes.x.shape[1:3], 4)], step, "mean"
        )
    for left, right in zip(alone, with_planes, strict=True):
        assert torch.equal(left, right)


def test_a_plane_is_the_mean_over_every_original_unit() -> None:
    units, plane = _state(), torch.randn(2, 6, 7, 3)
    saved = [plane]
    for step in planned((6, 7), (MergePass(0, 2, 3), MergePass(1, 1, 1))):
        units, saved = unit_tower.merge_with_planes(units, saved, step, "mean")
    joined = units.merged_into[1] == 4
    expected = plane[1].flatten(0, 1)[joined].mean(0)
    assert torch.allclose(saved[0][1].flatten(0, 1)[4], expected, atol=1e-6)


@pytest.mark.parametrize("kept", [True, False])
def test_the_second_plane_is_pruned_with_its_tokens(kept: bool) -> None:
    """It is added after layer 1, before which tokens leave: the planes of those that left must not matter."""
    tiny = case("qwen3_vl")
    family, config = tiny.family, tiny.config
    shapes = family.decoder_shape(config), family.encoder_shape(config)
    merged = tiny.thirds.vision_tokens
    request = flat_request(schedule=(merged, merged // 2, merged // 2), merge_keep=0.5, last_layer="full")
    plan = solve(request, tiny.plan.grid, *shapes)
    embeds, positions, _ = harness.encode_images(tiny, plan, tiny.images(2))
    run = harness.lay_out(tiny, plan, tiny.prompt(2), embeds, positions)
    decoder = family.decoder(tiny.model, plan)
    with torch.no_grad():
        right, _, (chosen,) = decoder(*run.inputs(), harness.empty_past(tiny))
    stays = torch.zeros(2, merged, dtype=torch.bool).scatter_(1, chosen[0], True)
    assert stays.sum() == 2 * (merged // 2)

    def spoil(embeds: Tensor) -> Tensor:
        spoiled = embeds.clone()
        spoiled[0, :, :, 2 * shapes[0].hidden :][stays if kept else ~stays] += 3.0
        return spoiled

    run.change = {"visual_embeds": spoil}
    with torch.no_grad():
        moved = harness.difference(decoder(*run.inputs(), harness.empty_past(tiny))[0], right)
    assert moved > SABOTAGE if kept else moved == 0


def test_a_plane_that_is_left_out_moves_the_logits() -> None:
    tiny = case("qwen3_vl")
    hidden = tiny.family.decoder_shape(tiny.config).hidden
    embeds, positions, _ = harness.encode_images(tiny, tiny.plan, tiny.images(2))
    run = harness.lay_out(tiny, tiny.plan, tiny.prompt(2), embeds, positions)
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    right = harness.logits(tiny, decoder, run)
    for plane in (1, 2):

        def without(embeds: Tensor, begin: int = plane * hidden) -> Tensor:
            left = embeds.clone()
            left[..., begin : begin + hidden] = 0
            return left

        run.change = {"visual_embeds": without}
        assert harness.difference(harness.logits(tiny, decoder, run), right) > SABOTAGE
