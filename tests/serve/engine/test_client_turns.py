"""Which jobs that wait may begin: turns of clients, a share of the rows for each, and what waits for long."""

from __future__ import annotations

from collections import Counter, deque
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import pytest

from luvc_export.serve.engine import loop as turns
from luvc_export.serve.engine.loop import Turns


def jobs(names: str, choices: int = 1, age: float = 0.0) -> list[Any]:
    """A job of the client of each letter."""
    begin = perf_counter() - age
    return [
        SimpleNamespace(client=name, choices=choices, arrived=begin + 1e-6 * place, cancelled=False)
        for place, name in enumerate(names)
    ]


def ordered(own: Turns, arriving: list[Any], growing: str = "", waiting: Any = ()) -> tuple[str, str]:
    """Clients of jobs that may begin, and of those held back."""
    may: deque[Any] = deque(waiting)
    own.order(may, arriving, Counter(growing))
    return "".join(job.client for job in may), "".join(job.client for job in own.held_back)


def test_one_client_alone_is_answered_in_its_order() -> None:
    own = Turns(8)
    assert ordered(own, jobs("aaaaaaaaaaaa"), growing="aaaa") == ("a" * 12, "")
    assert ordered(own, jobs("a", choices=8)) == ("a", "")


def test_clients_take_turns_and_one_has_its_share_of_the_rows() -> None:
    """Of fifty-eight streams of one client those that waited took every row that another's answer left."""
    own = Turns(8)
    assert ordered(own, jobs("aaaaaabc")) == ("abcaa", "aaa"), "three clients: a third of the rows, rounded up"
    assert ordered(Turns(8), jobs("aab"), growing="aaa") == ("ba", "a")
    assert ordered(Turns(8), [*jobs("a", choices=8), *jobs("b")]) == ("b", "a")
    assert ordered(Turns(1), jobs("aab")) == ("ab", "a")
    assert ordered(Turns(8), [*jobs("a", choices=4), *jobs("abcdefgh")]) == ("abcdefgh", "a"), "its first may take half"
    assert ordered(Turns(8), jobs("aabbccddeeffgghh")) == ("abcdefgh", "abcdefgh")


def test_rows_are_free_again_when_nobody_else_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Turns(2)
    assert ordered(own, jobs("aaab")) == ("ab", "aa")
    assert ordered(own, [], growing="a") == ("", "aa"), "another asked lately"
    monkeypatch.setattr(turns, "LATELY", 0.0)
    assert ordered(own, [], growing="ab") == ("", "aa"), "another is answered"
    assert ordered(own, [], growing="a") == ("aa", "")


def test_who_has_no_row_finds_one_where_another_has_all() -> None:
    """A client that was alone has every row, for as long as its answers grow."""
    own, may = Turns(8), deque[Any]()
    assert own.order(may, jobs("aa"), Counter("aaaaaaaa")) == 8
    assert own.order(may, jobs("b"), Counter("aaaaaaaa")) == 12 and [job.client for job in may] == ["b"]
    may.clear()
    assert own.order(may, [], Counter("aaaaaaaab")) == 8, "nobody else waits"
    assert own.order(may, jobs("c", choices=5), Counter("aaaaaaaab")) == 8, "it takes more than half"
    assert Turns(1).order(deque(), jobs("b"), Counter("a")) == 1


def test_nobody_waits_for_ever() -> None:
    own = Turns(8)
    assert ordered(own, [*jobs("a", choices=8, age=turns.PATIENCE + 1), *jobs("bcb")]) == ("abcb", "")
