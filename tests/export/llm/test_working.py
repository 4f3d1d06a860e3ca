"""Rows that a layer works on: the text's and some of each picture, by which the others move."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.core.plan import LlmPlan
from luvc_export.export.llm.working import WIDTH, Working


def of(tokens: int, number: int = 1, groups: int = 1, **some: int) -> Working:
    """Rows of layer `number` of three in which visual tokens carry."""
    return Working(groups, tokens).partly(LlmPlan((tokens,) * 4, kv_only=(1, 2, 3), **some), number)


@given(st.integers(0, 3), st.integers(3, 40), st.integers(2, 39), st.integers(0, 4), st.integers(1, 2), st.booleans())
def test_rows_move_by_those_that_work_and_text_leaves_as_it_was_computed(
    groups: int, tokens: int, some: int, text: int, batch: int, sampled: bool
) -> None:
    works = of(tokens, groups=groups, **{"sampled" if sampled else "turns": min(some, tokens - 1)})
    entered = torch.randn(batch, groups * tokens + text, 3)
    change, places = torch.randn_like(entered), list(works.places)
    left = works.of(entered + change)
    assert left.shape[1] == groups * len(places) + text
    spans, rows = (part[:, : works.still].unflatten(1, (groups, tokens)) for part in (change, entered))
    padding = torch.rand(batch, groups, tokens) < 0.5
    for padded in (None, torch.zeros_like(padding), padding):
        moved = (works.after(entered, left, padded) - entered)[:, : works.still].unflatten(1, (groups, tokens))
        for lot in range(batch):
            for group in range(groups):
                seen = [place for place in places if padded is None or not padded[lot, group, place]]
                if not seen:
                    continue
                own, steps = rows[lot, group], spans[lot, group]
                if sampled:
                    expected = steps[seen].mean(0).expand(tokens, -1)
                else:
                    apart = own - own[seen].mean(0)
                    alike = torch.cosine_similarity(apart[:, None], apart[None, seen], 2, 1e-12) / WIDTH
                    expected = alike.softmax(1) @ steps[seen]
                    expected[seen] = steps[seen]
                assert torch.allclose(moved[lot, group], expected, atol=1e-3)
        assert torch.equal(works.after(entered, left, padded)[:, works.still :], (entered + change)[:, works.still :])
    mask = torch.rand(batch, 1, entered.shape[1], 5)
    assert torch.equal(works.of(mask, 2)[:, 0], works.of(mask[:, 0]))


@given(st.integers(2, 2000), st.integers(1, 64))
def test_samples_are_apart_and_reach_over_the_span(tokens: int, sampled: int) -> None:
    places = of(tokens, sampled=min(sampled, tokens - 1)).places
    assert list(places) == sorted({*places}) and places[0] >= 0 and places[-1] < tokens
    gaps = [after - before for before, after in pairwise(places)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    assert abs(places[0] - (tokens - 1 - places[-1])) <= 1


@given(st.integers(3, 2000), st.integers(2, 3))
def test_every_token_has_its_turn(tokens: int, turns: int) -> None:
    for layers in ((1, 2, 3), (2, 4, 6), (3, 6, 9)):
        plan = LlmPlan((tokens,) * 12, kv_only=layers, turns=turns)
        works = [Working(1, tokens).partly(plan, number) for number in layers[:turns]]
        assert sorted(place for one in works for place in one.places) == list(range(tokens))


def test_where_all_that_work_are_padding_nothing_moves() -> None:
    works = of(4, turns=2)
    entered = torch.randn(1, 4, 3)
    assert torch.equal(works.after(entered, works.of(2 * entered), torch.ones(1, 1, 4, dtype=torch.bool)), entered)


def test_in_layers_that_carry_rows_stand_still_and_without_spans_all_rows_work() -> None:
    entered = torch.randn(1, 7, 2)
    still = of(5)
    assert torch.equal(still.after(entered, 2 * still.of(entered)), torch.cat([entered[:, :5], 2 * entered[:, 5:]], 1))
    assert torch.equal(Working().of(entered), entered)
