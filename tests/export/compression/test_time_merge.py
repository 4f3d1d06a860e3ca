"""Frames of clips merge to a fixed number and come back as what they were and what their mean has become since."""

from __future__ import annotations

import pytest
import torch

from luvc_export.core.plan import EncoderPlan, LlmPlan, Plan, Sharing
from luvc_export.core.plan.merging import TimeMerge
from luvc_export.errors import PlanError
from luvc_export.export.compression import time_merge

HOW, PATCHES = TimeMerge(0, 6, 3), 2


def clips() -> torch.Tensor:
    """Two clips of 6 frames of 4 units; unit 1 of the first changes before frames 3 and 5 alone."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4 * PATCHES, 8, generator=draw)
    near = 0.01 * torch.randn(6, 2, 8, generator=draw)
    for frame, like in ((1, 0), (2, 0), (4, 3)):
        x[frame, 2:4] = x[like, 2:4] + near[frame]
    return x


def test_the_most_similar_neighbours_of_a_place_merge_by_size() -> None:
    x = clips()
    merged, left = time_merge.merge(x, HOW, PATCHES)
    assert merged.joins[1].tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]]
    assert left.shape == (6, 4 * PATCHES, 8) and (merged.joins.sum(1) == 1).all()
    torch.testing.assert_close(left[0, 2:4], x[:3, 2:4].mean(0))
    torch.testing.assert_close(left[1, 2:4], x[3:5, 2:4].mean(0))
    torch.testing.assert_close(left[2, 2:4], x[5, 2:4])
    assert not torch.equal(merged.joins[0], merged.joins[1]), "places choose for themselves"


def test_near_pairs_are_told_apart_where_a_cosine_is_rounded_to_one() -> None:
    """Neighbours 1e-4 of their length apart have cosines of 1 in fp32; equal ones merge from the first on."""
    x = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(2)).expand(1, 4, 64).clone()
    turn = torch.randn(64, generator=torch.Generator().manual_seed(3))
    for frame, far in enumerate((0.0, 3e-4, 4e-4, 6e-4)):
        x[0, frame] += far * turn
    cosines = torch.nn.functional.cosine_similarity(x[0, :-1], x[0, 1:], dim=-1)
    assert (cosines - 1).abs().max() < 3e-7
    assert time_merge.decide(x, TimeMerge(0, 4, 3))[0].argmax(0).tolist() == [0, 1, 1, 2]
    assert time_merge.decide(x, TimeMerge(0, 4, 2))[0].argmax(0).tolist() == [0, 1, 1, 1]
    still = x[:, :1].expand(1, 4, 64) * (1 + 1e-6 * torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(4)))
    assert time_merge.decide(still, TimeMerge(0, 4, 2))[0].argmax(0).tolist() == [0, 0, 0, 1]


def test_a_long_still_stretch_draws_no_short_one_in() -> None:
    """Of two pairs nearly as far apart, the one of single frames merges: it adds less to the squares inside."""
    angles = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.10, 0.30, 0.41])
    x = torch.stack([angles.cos(), angles.sin()], -1)[None]
    assert time_merge.decide(x, TimeMerge(0, 7, 3))[0].argmax(0).tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert time_merge.decide(x, TimeMerge(0, 7, 2))[0].argmax(0).tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_places_that_change_together_merge_together_whatever_their_grain() -> None:
    """Six left of eight, two changes: without a threshold their other boundaries would be the grain's."""
    draw = torch.Generator().manual_seed(5)
    before, after = torch.randn(2, 1, 1, 64, generator=draw)
    moved = torch.arange(8)[None, :, None] >= 5
    x = torch.where(moved, after, before) + 0.01 * torch.randn(20, 8, 64, generator=draw)
    joins = time_merge.decide(x, TimeMerge(0, 8, 6)).argmax(1)
    assert (joins == joins[:1]).all() and joins[0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_merge, "QUIET", 0.0)
        loose = time_merge.decide(x, TimeMerge(0, 8, 6)).argmax(1)
    assert len({tuple(row) for row in loose.tolist()}) > 5


def test_every_number_is_met_and_runs_stay_runs() -> None:
    x = torch.randn(12, 8, 8, generator=torch.Generator().manual_seed(1))
    for keep in range(1, 8):
        joins = time_merge.decide(x, TimeMerge(0, 8, keep))
        assert joins.shape == (12, keep, 8) and (joins.sum(2) >= 1).all()
        into = joins.argmax(1)
        assert (into.diff(dim=1) >= 0).all() and (into.diff(dim=1) <= 1).all()


def test_frames_come_back_with_what_their_mean_became() -> None:
    x = clips()
    merged, left = time_merge.merge(x, HOW, PATCHES)
    torch.testing.assert_close(time_merge.restored(merged, left, PATCHES), x)
    torch.testing.assert_close(time_merge.restored(merged, left + 1, PATCHES), x + 1)
    moved = left.clone()
    moved[0, 2:4] += 2  # the first clip's unit 1 of frames 0 to 2
    back, wanted = time_merge.restored(merged, moved, PATCHES), x.clone()
    wanted[:3, 2:4] += 2
    torch.testing.assert_close(back, wanted)


def test_a_plan_says_what_does_not_fit() -> None:
    llm = LlmPlan((96, 0))
    plan = Plan(EncoderPlan((4, 4), time=HOW), llm, Sharing(6))
    assert Plan.from_json(plan.to_json()) == plan and "time" not in EncoderPlan((4, 4)).to_json()
    for sharing, refusal in ((Sharing(), "6 frames of a clip; 1 images"), (Sharing(4), "4 images of a clip")):
        with pytest.raises(PlanError, match=refusal):
            Plan(EncoderPlan((4, 4), time=HOW), LlmPlan((16, 0)), sharing)
    with pytest.raises(PlanError, match="expected at least 1 and fewer than all"):
        Plan(EncoderPlan((4, 4), time=TimeMerge(0, 6, 6)), llm, Sharing(6))
    with pytest.raises(PlanError, match="where no unit merges, leaves or is left out"):
        Plan(EncoderPlan((4, 4), time=HOW, bucket=8), llm, Sharing(6))
