"""Quotas of a shared budget: totals are exact, nobody gets more than there is, and the rest goes by score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from luvc_export.core.plan import Quota
from luvc_export.export.compression import quotas, spu


@st.composite
def clips(draw: st.DrawFn) -> tuple[Tensor, Tensor, int, int, int]:
    """Scores [1, 1, N], many alike, places of the tokens with padding marked, images, tokens of each, how many to keep.

    Half of them are what an earlier prune left of a clip.
    """
    images, tokens = draw(st.integers(2, 5)), draw(st.integers(1, 6))
    places = list(range(images * tokens))
    if draw(st.booleans()):
        places = sorted(draw(st.sets(st.sampled_from(places), min_size=images)))
    padding = draw(st.lists(st.booleans(), min_size=len(places), max_size=len(places)))
    score = draw(st.lists(st.integers(0, 4), min_size=len(places), max_size=len(places)))
    index = spu.mark_padding(torch.tensor([[places]]), torch.tensor([[padding]]))
    keep = draw(st.integers(min(images, len(places)), len(places)))
    ranked = spu.padding_last(torch.tensor([[score]], dtype=torch.float32), index)
    return ranked, index, images, tokens, max(keep, images)


def expected(
    score: NDArray[np.float32], image: NDArray[np.int64], void: NDArray[np.bool_], quota: list[int]
) -> set[int]:
    """The best of every image, as many as its quota."""
    sure = set[int]()
    for number, count in enumerate(quota):
        own = np.flatnonzero((image == number) & ~void).tolist()
        sure |= set(sorted(own, key=lambda at: (-score[at], at))[:count])
    return sure


@given(clips(), st.sampled_from(["uniform", "spread", "v-cast", "dycoke", "vidcom2"]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_totals_are_exact_and_every_quota_is_met(
    clip: tuple[Tensor, Tensor, int, int, int], how: Quota, seed: int
) -> None:
    score, index, images, tokens, keep = clip
    if keep > score.shape[2]:
        return  # fewer tokens than images: no plan has that
    normed = torch.randn(1, 1, score.shape[2], 8, generator=torch.Generator().manual_seed(seed))
    own = quotas.members(index, images, tokens, padded=True)
    share = quotas.weights(how, normed, own)
    sure = quotas.quotas(share, own, keep)
    keys = quotas.keys(score, own, sure)
    kept = spu.select(keys, keep)[0, 0].tolist()
    image, void = spu.unmark(index)[0, 0].numpy() // tokens, (index < 0)[0, 0].numpy()
    has = np.bincount(image[~void], minlength=images)
    quota = [int(count) for count in sure[0, 0]]
    assert void.all() or float(share.sum()) == pytest.approx(1, abs=1e-5)
    assert sum(quota) <= keep and all(min(1, n) <= q <= n for q, n in zip(quota, has, strict=True))
    assert len(set(kept)) == keep
    first = expected(score[0, 0].numpy(), image, void, quota)
    assert first <= set(kept)
    rest, left = sorted(set(kept) - first), sorted(set(range(len(image))) - set(kept))
    assert not rest or not left or score[0, 0, rest].min() >= score[0, 0, left].max()
    above = keys[0, 0][keys[0, 0] > spu.PADDING_STEP / 2]
    assert len(above) == len(first) == len(set(above.tolist()))


def test_uniform_divides_evenly_whatever_the_scores() -> None:
    score = torch.arange(24.0)[None, None]  # the last image has all of the best
    own = quotas.members(torch.arange(24)[None, None], 4, 6, padded=False)
    share = quotas.weights("uniform", torch.ones(1, 1, 24, 3), own)
    for keep in (4, 10, 12, 23):
        kept = spu.select(quotas.keys(score, own, quotas.quotas(share, own, keep)), keep)[0, 0]
        counts = torch.bincount(kept // 6, minlength=4)
        assert counts.min() == keep // 4, keep
        assert counts[3] == min(6, keep // 4 + keep % 4)  # what is left over goes by score
    assert torch.bincount(spu.select(score, 12)[0, 0] // 6).tolist() == [0, 0, 6, 6]  # by score alone


def vcast(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """V-CAST's weights of frame vectors [F, D], as its paper writes them."""
    unit = frames / np.linalg.norm(frames, axis=1, keepdims=True)
    turn = np.ones(len(unit))
    for t in range(1, len(unit) - 1):
        before, after = unit[t] - unit[t - 1], unit[t + 1] - unit[t]
        turn[t] = 1 - before @ after / np.linalg.norm(before) / np.linalg.norm(after)
    weight = np.exp(turn / 0.7)
    return np.asarray(weight / weight.sum())


def test_v_cast_weighs_images_where_the_clip_turns() -> None:
    draw = torch.Generator().manual_seed(0)
    normed = torch.randn(2, 3, 5 * 4, 16, generator=draw) + 1
    own = quotas.members(torch.arange(20).expand(2, 3, 20), 5, 4, padded=False)
    share = quotas.weights("v-cast", normed, own)
    for row in range(2):
        for group in range(3):
            mean = normed[row, group].unflatten(0, (5, 4)).mean(1).double().numpy()
            np.testing.assert_allclose(share[row, group].numpy(), vcast(mean), rtol=1e-4)
    straight = torch.linspace(0, 1, 5)[:, None] * torch.eye(16)[0] + torch.eye(16)[1]
    bent = straight.clone()
    bent[3:] = straight[2] + torch.linspace(0.3, 0.6, 2)[:, None] * torch.eye(16)[2]
    weights = quotas.weights("v-cast", bent.repeat_interleave(4, 0)[None, None], own)[0, 0]
    assert weights[2] > 1.5 * weights[1]  # it turns there, and goes straight on before


def test_spread_gives_least_where_tokens_are_alike() -> None:
    """The variance between an image's tokens, with a floor; whatever their mean is, and padding aside."""
    draw = torch.Generator().manual_seed(0)
    normed = torch.randn(1, 1, 3, 6, 16, generator=draw) * torch.tensor([0.01, 0.5, 1.0])[:, None, None] + 1
    index = torch.arange(18)[None, None]
    share = quotas.weights("spread", normed.flatten(2, 3), quotas.members(index, 3, 6, padded=False))[0, 0]
    wide = normed[0, 0].double().var(1, correction=0).sum(1) + 0.01 * normed[0, 0].double().square().sum(-1).mean(1)
    np.testing.assert_allclose(share.numpy(), (wide / wide.sum()).numpy(), rtol=1e-3)
    assert share[0] < 0.05 < share[1] < share[2]
    void = torch.zeros(1, 1, 18, dtype=torch.bool)
    void[..., 6:9] = True
    padded = quotas.members(spu.mark_padding(index, void), 3, 6, padded=True)
    loud = torch.where(void[..., None], 100.0, normed.flatten(2, 3))
    quiet = quotas.weights("spread", normed.flatten(2, 3), padded)
    torch.testing.assert_close(quotas.weights("spread", loud, padded), quiet)
    still = quotas.weights("spread", torch.full((1, 1, 18, 16), 3.0), quotas.members(index, 3, 6, padded=False))
    assert quotas.quotas(still, quotas.members(index, 3, 6, padded=False), 9)[0, 0].tolist() == [3, 3, 3]


@pytest.mark.parametrize("images", [2, 5])
def test_a_clip_that_stands_still_is_divided_evenly(images: int) -> None:
    """Rounding has no direction: with it for one, a still clip would be divided at random."""
    draw = torch.Generator().manual_seed(0)
    still = torch.randn(1, 1, 6, 16, generator=draw).repeat(1, 1, images, 1)
    still = still * (1 + 1e-6 * torch.randn(still.shape, generator=draw))
    own = quotas.members(torch.arange(6 * images)[None, None], images, 6, padded=False)
    share = quotas.weights("v-cast", still, own)
    assert quotas.quotas(share, own, 3 * images)[0, 0].tolist() == [3] * images


def test_padding_counts_for_nothing() -> None:
    """An image of padding has no quota, and its tokens do not move its neighbours' weights."""
    padding = torch.zeros(1, 1, 12, dtype=torch.bool)
    padding[..., 5:8] = True
    index = spu.mark_padding(torch.arange(12)[None, None], padding)
    own = quotas.members(index, 3, 4, padded=True)
    normed = torch.randn(1, 1, 12, 8, generator=torch.Generator().manual_seed(1))
    loud = torch.where(padding[..., None], 100.0, normed)
    torch.testing.assert_close(quotas.weights("v-cast", loud, own), quotas.weights("v-cast", normed, own))
    assert quotas.quotas(quotas.weights("uniform", normed, own), own, 9)[0, 0].tolist() == [3, 1, 3]


def test_dycoke_keeps_a_frame_of_four_whole() -> None:
    """Its own budget of 370 of 784 is 196, 58, 58, 58; the two that rounding leaves go by score, to the whole frame."""
    own = quotas.members(torch.arange(784)[None, None], 4, 196, padded=False)
    clip = torch.randn(1, 1, 784, 8, generator=torch.Generator().manual_seed(0))
    share = quotas.weights("dycoke", clip, own)
    sure = quotas.quotas(share, own, 370)[0, 0]
    assert sure.tolist() == [194, 58, 58, 58]


def test_vidcom2_gives_an_unusual_frame_more() -> None:
    draw = torch.Generator().manual_seed(0)
    usual = torch.randn(6, 16, generator=draw)
    clip = torch.cat(
        [usual, usual + 0.01 * torch.randn(6, 16, generator=draw), usual, torch.randn(6, 16, generator=draw)]
    )[None, None]
    own = quotas.members(torch.arange(24)[None, None], 4, 6, padded=False)
    share = quotas.weights("vidcom2", clip, own)[0, 0]
    assert share.argmax() == 3
    assert share[3] > share[0] + 0.1
