"""Drafts as long as pays: the formula, its bar, and what acceptance and cost make of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luvc_export.runtime.speculation.draft_costs import CHECKING, DraftCosts
from luvc_export.runtime.speculation.draft_length import (
    LONGEST_PAUSE,
    DraftLength,
    needed_acceptance,
    times_faster,
    tokens_a_step,
)


def test_tokens_a_step_are_those_of_a_draw() -> None:
    """The expectation, by drawing a hundred thousand drafts."""
    random = np.random.default_rng(0)
    for acceptance, drafted in ((0.8, 4), (0.3, 2), (0.0, 5)):
        taken = 1 + np.cumprod(random.random((100_000, drafted)) < acceptance, 1).sum(1)
        assert tokens_a_step(acceptance, drafted) == pytest.approx(taken.mean(), abs=0.02)
    assert tokens_a_step(1.0, 4) == 5


def test_the_bar_is_where_nothing_is_won() -> None:
    for drafted, cost in ((4, 0.33), (1, 0.5), (8, 0.1)):
        bar = needed_acceptance(drafted, cost)
        assert 0 < bar < 1 and times_faster(bar, drafted, cost) == pytest.approx(1, abs=1e-6)
    assert needed_acceptance(4, 1.0) == math.inf, "a draft as dear as the answer never pays"
    assert times_faster(1.0, 4, 0.0, 0.0) == 5 and times_faster(0.0, 4, 0.25, 0.0) == 0.5
    assert CHECKING < 0.1


def lengths(acceptance: float, cost: float, steps: int = 400) -> list[int]:
    """Of the drafts of an answer whose tokens are accepted at random."""
    random, length, drafts = np.random.default_rng(1), DraftLength(6, DraftCosts(cost, clock=None)), list[int]()
    for _ in range(steps):
        drafted = length.next(9)
        right = random.random(drafted) < acceptance
        length.record_outcome(drafted, int(np.cumprod(right).sum()))
        drafts.append(drafted)
    return drafts[steps // 2 :]


def test_drafts_grow_with_acceptance_and_shrink_with_cost() -> None:
    assert np.mean(lengths(0.95, 0.2)) > np.mean(lengths(0.7, 0.2)) > np.mean(lengths(0.4, 0.2))
    assert np.mean(lengths(0.9, 0.1)) > np.mean(lengths(0.9, 0.5))


def test_what_does_not_pay_is_tried_now_and_then() -> None:
    never = lengths(0.1, 0.33)
    assert 0 < sum(never) <= len(never) / 4 and set(never) <= {0, 1, 2}
    same = DraftLength(4, DraftCosts(1.0, clock=None))
    drafts = [same.next(9) for _ in range(100)]
    assert sum(drafts) < 12 and drafts[-LONGEST_PAUSE:].count(0) >= LONGEST_PAUSE - 2


def test_there_is_no_draft_without_room() -> None:
    length = DraftLength(4, DraftCosts(0.0, clock=None))
    assert length.next(0) == length.next(-1) == 0 and length.next(2) == 2
    length.record_outcome(0, 0)
    assert length.acceptance == 0.75, "no draft teaches nothing"


def test_the_same_answer_gets_the_same_drafts_where_nothing_is_timed() -> None:
    assert lengths(0.6, 0.3) == lengths(0.6, 0.3)
