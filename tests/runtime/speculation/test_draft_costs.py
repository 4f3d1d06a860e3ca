"""What drafts cost by a clock that says what a test wants: measured times take the place of bytes, and of hope."""

from __future__ import annotations

from typing import Any

import pytest
from slow_cases import slow_but

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.session import Session
from luvc_export.runtime.speculation.draft_costs import CHECKING, FEW, LATE, LONGEST_PAUSE, SOON, DraftCosts, Recent
from luvc_export.runtime.speculation.draft_length import LOOKED_AT_AGAIN, DraftLength

PROMPTS = ("colour of 3?", "left of 5")
TOKENS = 24
LONG: dict[str, Any] = {"max_new_tokens": TOKENS, "greedy": True}


class Clock:
    """Seconds that pass where a test says so."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def timed(plain: float = 1.0, draft: float = 0.5, verify: float = 1.2, guess: float = 0.1, rows: int = 1) -> DraftCosts:
    """Costs after a few calls of each kind, drafts of 4 tokens."""
    costs = DraftCosts(guess, Clock())
    for _ in range(FEW):
        costs.stepped(rows, 0, 1, plain)
    for _ in range(FEW):
        costs.drafted(rows, 4, 4 * draft)
        costs.promise(rows, 5 * plain / (4 * draft + verify))
        costs.stepped(rows, 4, 5, verify)
    costs.stepped(rows, 0, 1, plain)
    return costs


def test_bytes_are_the_first_guess_and_the_clock_the_second() -> None:
    costs = DraftCosts(0.25, Clock())
    assert costs.relative(1, 4) == (0.25, CHECKING) and costs.relative(3, 4)[0] == 0.75
    for _ in range(FEW - 1):
        costs.stepped(1, 0, 1, 1.0)
        costs.drafted(1, 4, 2.0)
    assert costs.relative(1, 4) == (0.25, CHECKING), "too few to be believed"
    assert timed().relative(1, 4) == (0.5, pytest.approx(0.05))
    assert timed().relative(1, 2) == (0.5, pytest.approx(0.05)), "by the nearest length that was timed"
    assert timed(verify=0.9).relative(1, 4) == (0.5, 0.0)


def test_drafts_of_several_rows_are_made_one_after_another() -> None:
    """A token for each of four rows is four steps of the smaller model, within one of the larger."""
    assert timed(plain=2.0, draft=0.5, verify=2.0, rows=4).relative(4, 4) == (1.0, 0.0)
    assert timed().relative(4, 4) == (0.4, CHECKING), "steps of another number of rows were not timed"


def test_one_slow_call_moves_nothing() -> None:
    recent = Recent()
    for figure in (9.0, 1.0, 1.1, 1.2, 50.0):
        recent.add(figure)
    assert recent.median == 1.2
    for _ in range(40):
        recent.add(3.0)
    assert recent.median == 3.0 and len(recent) == 16


def test_steps_without_drafts_are_timed_first_and_again() -> None:
    costs = DraftCosts(0.1, Clock())
    length = DraftLength(4, costs)
    for _ in range(FEW):
        assert length.next(9) == 0
        costs.stepped(1, 0, 1, 1.0)
    assert length.next(9) == 4 and length.next(9, rows=2) == 0
    for tokens, stretch in ((1.1, SOON), (3.0, SOON), (3.0, LATE), (1.1, LATE), (1.1, SOON)):
        for _ in range(stretch):
            assert not costs.wants_plain(1)
            costs.stepped(1, 4, tokens, 1.0)
        assert costs.wants_plain(1) and length.next(9) == 0, "sooner where the stretch before saved little"
        costs.stepped(1, 0, 1, 1.0)
    assert not DraftCosts(0.1, clock=None).wants_plain(1)


def test_what_costs_more_than_its_bytes_is_not_drafted() -> None:
    """A tenth of the bytes and most of the time: the case of small models, of little but calls."""
    assert DraftLength(4, timed(draft=0.1)).next(9) == 4
    dear = DraftLength(4, timed(draft=0.9))
    drafts = [dear.next(9) for _ in range(60)]
    assert sum(drafts) < 9 and max(drafts) == 1
    assert DraftLength(4, timed(draft=0.1, verify=5.0)).next(9) == 1, "nor where checking costs as much"


def answered(costs: DraftCosts, tokens: int, acceptance: float) -> None:
    """An answer has ended, and its drafts fared like this."""
    costs.ended(tokens)
    for _ in range(100):
        costs.record_outcome(1, int(acceptance > 0.5))


def test_an_answer_begins_where_those_before_it_were() -> None:
    costs = timed(draft=0.4, verify=1.0)
    assert DraftLength(4, costs).next(9) > 0
    answered(costs, 20, 0.0)
    later = DraftLength(4, costs)
    assert later.acceptance == costs.acceptance < 0.4 and later.next(9) <= 1
    fixed = DraftCosts(0.4, clock=None)
    answered(fixed, 20, 0.0)
    assert fixed.acceptance == 0.75 and fixed.usual == float("inf"), "without a clock nothing is learned"


def test_a_prompt_is_not_read_where_the_answer_is_too_short_for_it() -> None:
    costs = timed(draft=0.1, verify=1.0)
    costs.read(1, 50.0)
    costs.read(1, 10.0)
    assert costs.reading(1) == 10.0 and costs.reading(3) == 0.0, "of three rows no step was timed"
    costs.ended(200)
    assert DraftLength(4, costs).next(9, begun=False) == 4
    for _ in range(40):
        costs.ended(12)
    assert DraftLength(4, costs).next(9, begun=True) == 4, "what was read is paid for"
    assert DraftLength(4, costs).next(9, begun=False) == 4, "one answer tries"
    length = DraftLength(4, costs)
    assert [length.next(9, done=done, begun=False) for done in range(1, LOOKED_AT_AGAIN + 3)] == [0] * (
        LOOKED_AT_AGAIN + 2
    )
    assert [length.next(9, done=40, begun=False) for _ in range(LOOKED_AT_AGAIN + 1)][-1] == 4, "it goes on and on"


def test_promises_that_were_not_held_are_made_smaller() -> None:
    """Where the time goes is nobody's: each call takes what it should, and drafts save nothing."""
    costs = timed(draft=0.2, verify=1.2)
    assert costs.realised_gain(1) == pytest.approx(1.0) and DraftLength(4, costs).next(9) == 3
    for _ in range(12):
        for _ in range(SOON):
            costs.promise(1, 2.5)
            costs.stepped(1, 4, 2.0, 2.4)
        costs.stepped(1, 0, 1, 1.0)
    assert costs.realised_gain(1) == pytest.approx(2.0 / 2.4 / 2.5, rel=0.2)
    assert DraftLength(4, costs).next(9) == 1 and costs.realised_gain(2) == 1.0


def test_a_pace_that_changes_moves_nothing() -> None:
    """All calls take ten times as long for a while, and then a tenth."""
    costs = timed(draft=0.2, verify=1.2)
    want = costs.relative(1, 4)
    for pace in (10.0, 1.0, 0.1):
        for _ in range(FEW):
            costs.stepped(1, 0, 1, pace)
        for _ in range(2):
            costs.promise(1, 2.5)
            costs.drafted(1, 4, 0.8 * pace)
            costs.stepped(1, 4, 5, 1.2 * pace)
        costs.stepped(1, 0, 1, pace)
    assert costs.relative(1, 4) == pytest.approx(want) and 0.9 < costs.realised_gain(1) < 1.1


def test_one_answer_in_many_tries_what_does_not_pay() -> None:
    costs = timed(draft=2.0)
    assert costs.realised_gain(1) == pytest.approx(1.0)
    tries = [DraftLength(4, costs).next(9, begun=False) for _ in range(200)]
    assert set(tries) == {0, 1} and 9 <= sum(tries) <= 16
    assert [DraftLength(4, costs).next(9, begun=False) for _ in range(LONGEST_PAUSE + 1)].count(1) == 1
    costs.pays()
    assert costs.tries()


def paced(demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, draft: float, reading: float) -> tuple[Session, Clock]:
    """Plan ``none`` drafts for itself; its steps take 1 s, those that draft ``draft``, reading a prompt ``reading``."""
    session = Session(demo_bundle, "cpu", "none", threads=1, speculate=f"draft:{demo_bundle.folder}#none:4")
    loaded, clock, smaller = session.default, Clock(), session.default.draft_model
    assert smaller is not None
    loaded.draft_costs = DraftCosts(0.1, clock)
    for plan, method, seconds in (
        (loaded.graphs, "verify", 1.0),
        (smaller.graphs, "verify", draft),
        (smaller, "run", reading),
    ):
        honest = getattr(plan, method)

        def slow(*arguments: Any, honest: Any = honest, seconds: float = seconds, **more: Any) -> Any:
            clock.time += seconds
            return honest(*arguments, **more)

        monkeypatch.setattr(plan, method, slow)
    for one in (loaded, smaller):
        one.ends = frozenset()
    return session, clock


@pytest.mark.parametrize(
    ("draft", "reading", "fewest"), slow_but([1.2], [(0.1, 1.0, 2.5), (1.2, 4.0, 0.97), (0.3, 12.0, 0.97)])
)
def test_a_pair_that_does_not_pay_falls_to_plain_steps(
    demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, draft: float, reading: float, fewest: float
) -> None:
    """By the clock injected; its drafts are all right. Tokens are those of plain decoding whatever it drafts."""
    session, clock = paced(demo_bundle, monkeypatch, draft, reading)
    plain = Session(demo_bundle, session.backend, "none")
    plain.default.ends = frozenset()
    wanted = [plain.generate(None, prompt, **LONG).token_ids for prompt in PROMPTS]
    for rounds in (4, 8):  # to learn, and what came of it
        begin = clock.time
        for _ in range(rounds):
            for prompt, tokens in zip(PROMPTS, wanted, strict=True):
                assert session.generate(None, prompt, **LONG).token_ids == tokens
    faster = rounds * len(PROMPTS) * (TOKENS - 1) / (clock.time - begin)
    assert faster > fewest
