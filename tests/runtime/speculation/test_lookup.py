"""Drafts from what the prompt and the answer hold already."""

from __future__ import annotations

from luvc_export.runtime.speculation.lookup import LONGEST_PAUSE, Lookup


def test_what_followed_the_same_tokens_last_time_is_drafted() -> None:
    drafts = Lookup([1, 2, 3, 4, 9, 1, 2, 5, 6, 7], most=3)
    assert drafts.propose([1, 2], room=8) == [5, 6, 7], "the latest place counts"
    assert drafts.propose([1, 2, 3], room=8) == [4, 9, 1]
    assert drafts.propose([1, 2, 3], room=2) == [4, 9] and drafts.propose([1, 2, 3, 8], room=8) == []


def test_a_longer_agreement_comes_before_a_later_one() -> None:
    prompt = [7, 1, 2, 3, 50, 8, 2, 3, 60]
    assert Lookup(prompt, 1).propose([7, 1, 2, 3], 4) == [50] and Lookup(prompt, 1).propose([0, 2, 3], 4) == [60]


def test_a_loop_is_drafted_beyond_its_end() -> None:
    assert Lookup([], most=5).propose([3, 4, 3, 4, 3], room=5) == [4, 3, 4, 3, 4]


def test_one_token_alone_is_no_agreement() -> None:
    assert Lookup([5, 6, 7], most=8).propose([9, 5], room=8) == []


def test_a_picture_is_never_drafted() -> None:
    assert Lookup([1, 2, 3, 0, 4], most=8, never={0}).propose([1, 2], room=8) == [3]


def test_what_is_certain_is_looked_behind() -> None:
    drafts = Lookup([1, 2, 3, 4, 5], most=8)
    assert drafts.propose([9], 8, certain=[1, 2]) == [3, 4, 5, 9, 1, 2, 3, 4]
    assert drafts.propose([9, 1], 2, certain=[2, 3]) == [4, 5], "and is no part of what was read"


def test_drafts_that_fail_become_short_then_rare_and_recover() -> None:
    drafts, tokens = Lookup([1, 2, 3, 4, 5, 6, 7, 8], most=4), [1, 2]
    assert len(drafts.propose(tokens, 9)) == 4
    drafts.record_outcome(4, 2)
    assert len(drafts.propose(tokens, 9)) == 3
    drafts.record_outcome(3, 0)
    assert len(drafts.propose(tokens, 9)) == 1, "one that failed altogether may have been chance"
    drafts.record_outcome(1, 0)
    assert drafts.propose(tokens, 9) == drafts.propose(tokens, 9) == [] and drafts.propose(tokens, 9) == [3]
    for _ in range(9):
        drafts.record_outcome(1, 0)
    assert [bool(drafts.propose(tokens, 9)) for _ in range(LONGEST_PAUSE + 1)] == [False] * LONGEST_PAUSE + [True]
    drafts.record_outcome(1, 1)
    assert len(drafts.propose(tokens, 9)) == 2
    drafts.record_outcome(0, 0)
    assert len(drafts.propose(tokens, 9)) == 2, "no draft teaches nothing"
