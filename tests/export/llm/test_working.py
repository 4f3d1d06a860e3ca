"""Rows that a layer works on: the text's and samples of each picture, whose mean change moves all of it."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.export.llm.working import Working


@given(st.integers(0, 3), st.integers(2, 40), st.integers(1, 39), st.integers(0, 4), st.integers(1, 2))
def test_rows_move_by_the_mean_of_samples_and_text_leaves_as_it_was_computed(
    groups: int, tokens: int, sampled: int, text: int, batch: int
) -> None:
    works = Working(groups, tokens, min(sampled, tokens - 1))
    entered = torch.randn(batch, groups * tokens + text, 3, dtype=torch.float64)
    change = torch.randn_like(entered)
    left = works.of(entered + change)
    assert left.shape[1] == groups * works.sampled + text
    spans = change[:, : works.still].unflatten(1, (groups, tokens))
    padding = torch.rand(batch, groups, tokens) < 0.5
    for padded in (None, torch.zeros_like(padding), padding):
        seen = torch.ones(batch, groups, works.sampled) if padded is None else ~padded[:, :, works.places()]
        shares = (seen / seen.sum(2, keepdim=True).clamp(min=1)).double()
        mean = (spans[:, :, works.places()] * shares[..., None]).sum(2, keepdim=True).expand(-1, -1, tokens, -1)
        expected = torch.cat([mean.flatten(1, 2), change[:, works.still :]], 1)
        assert torch.allclose(works.after(entered, left, padded) - entered, expected, atol=1e-5)  # means in fp32
    mask = torch.rand(batch, 1, entered.shape[1], 5)
    assert torch.equal(works.of(mask, 2)[:, 0], works.of(mask[:, 0]))


@given(st.integers(2, 2000), st.integers(1, 64))
def test_samples_are_apart_and_reach_over_the_span(tokens: int, sampled: int) -> None:
    places = Working(1, tokens, min(sampled, tokens - 1)).places().tolist()
    assert places == sorted({*places}) and places[0] >= 0 and places[-1] < tokens
    gaps = [after - before for before, after in pairwise(places)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    assert abs(places[0] - (tokens - 1 - places[-1])) <= 1


def test_without_samples_rows_stand_still_and_without_spans_all_rows_work() -> None:
    entered = torch.randn(1, 7, 2)
    still = Working(1, 5)
    assert torch.equal(still.after(entered, 2 * still.of(entered)), torch.cat([entered[:, :5], 2 * entered[:, 5:]], 1))
    assert torch.equal(Working().of(entered), entered)
