"""Schemas, patterns and grammars that explode: each took seconds, hundreds of megabytes or the process that asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from luvc_export.errors import UsageError
from luvc_export.runtime.generation import grammar_trials
from luvc_export.runtime.generation.grammar_trials import MAX_CHARACTERS, GrammarTrials, check_length
from luvc_export.runtime.session import Session

EXPLODING: dict[str, tuple[str, Any]] = {
    "multiples of a prime": ("json_schema", {"type": "integer", "multipleOf": 999983}),
    "branches to be kept apart": (
        "json_schema",
        {"oneOf": [{"properties": {"k": {"const": n}}, "required": ["k"], "type": "object"} for n in range(1200)]},
    ),
    "all of any": (
        "json_schema",
        {
            "allOf": [
                {"anyOf": [{"properties": {f"k{n}_{m}": {"type": "integer"}}} for m in range(4)]} for n in range(6)
            ]
        },
    ),
    "a chain of rules": (
        "grammar",
        "start: a0\n" + "".join(f"a{n}: a{n + 1} a{n + 1}\n" for n in range(3000)) + 'a3000: "x"',
    ),
    "what may be left out": ("grammar", "start: " + " ".join(["a?"] * 12_000) + '\na: "x"'),
    "groups without a name": ("regex", "(?<" * 33_000),
    "classes without an end": ("regex", "\\p{" * 33_000),
    "a deep grammar": ("grammar", "root ::= " + '("a" | ' * 3000 + '"b"' + ")" * 3000),
}


@pytest.fixture
def trials(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[GrammarTrials]:
    """Of a tiny tokenizer, with 0.2 s for a grammar."""
    monkeypatch.setattr(grammar_trials, "SECONDS", 0.2)
    yield session.grammars._trials


@pytest.mark.parametrize("name", EXPLODING)
def test_what_explodes_is_refused_by_name_and_takes_nothing_here(session: Session, trials: Any, name: str) -> None:
    where, asked = EXPLODING[name]
    begin = time.process_time()
    options: dict[str, Any] = {where: asked}
    with pytest.raises(UsageError) as caught:
        session.generate(None, "a", **options)
    error = caught.value
    assert time.process_time() - begin < 0.2 and error.where == where and error.got and error.fix
    if error.what.startswith("this takes too much work"):
        assert error.what == "this takes too much work to compile"
        assert error.expected == "at most 0.2 s and 32 MiB to compile"
        assert "fewer properties and branches" in error.fix


def test_others_are_compiled_meanwhile_and_verdicts_are_kept(session: Session, trials: GrammarTrials) -> None:
    where, asked = EXPLODING["multiples of a prime"]
    again = {**asked, "multipleOf": 999979}
    with ThreadPoolExecutor(1) as pool:
        hostile = pool.submit(trials.written, where, again)
        begin = time.process_time()
        for number in range(20):
            trials.written("regex", f"a{{{number}}}")
        assert time.process_time() - begin < 1
        with pytest.raises(UsageError, match="this takes too much work to compile"):
            hostile.result(30)
    begin = time.monotonic()
    for _ in range(100):
        with pytest.raises(UsageError, match=r"where: json_schema\n  got: more "):  # seconds, or memory on a fast CPU
            trials.written(where, again)
    assert time.monotonic() - begin < 0.2, "the helper is not asked again"


def test_what_a_busy_machine_may_cause_is_tried_again_after_a_while(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal by a limit is forgotten, one for what is written is not: others' load refuses nobody for good."""
    trials, tried = session.grammars._trials, list[str]()

    def refused(_: GrammarTrials, where: str, text: str) -> UsageError:
        tried.append(text)
        return UsageError(grammar_trials.TOO_MUCH if "slow" in text else "not understood", where=where)

    monkeypatch.setattr(GrammarTrials, "_tried", refused)
    now = 1000.0
    monkeypatch.setattr(grammar_trials, "monotonic", lambda: now)
    for later in (0, grammar_trials.TOO_MUCH_KEPT - 1, 2):
        now += later
        for pattern in ("slow one", "wrong one"):
            with pytest.raises(UsageError):
                trials.written("regex", pattern)
    assert [text.strip('"') for text in tried] == ["slow one", "wrong one", "slow one"]


def test_verdicts_are_bounded(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = session.grammars._trials
    monkeypatch.setattr(GrammarTrials, "_tried", lambda _, where, text: f"{where} {text}")
    monkeypatch.setattr(grammar_trials, "MOST_KEPT", 8)
    for number in range(20):
        trials.written("regex", str(number % 12))
    assert len(trials._verdicts) == 8
    assert trials._characters == sum(map(trials._size, trials._verdicts))
    monkeypatch.setattr(grammar_trials, "MOST_CHARACTERS", 50_000)
    for number in range(10):
        trials.written("regex", "x" * 10_000 + str(number))
    assert trials._characters <= 50_000 and len(trials._verdicts) == 2


@pytest.mark.parametrize(
    "asked",
    [
        {"properties": {f"p{number}": {} for number in range(100_000)}},
        {"enum": [list(range(10)) for _ in range(10_000)]},
        {"pattern": "x" * MAX_CHARACTERS},
        "x" * (MAX_CHARACTERS + 1),
    ],
)
def test_what_is_long_is_not_even_written(asked: Any) -> None:
    begin = time.process_time()
    with pytest.raises(UsageError, match=r"this is too long\n  where: json_schema\n  got: [\d,]+ characters or more\n"):
        check_length("json_schema", asked)
    assert time.process_time() - begin < 0.1
    check_length("json_schema", {"enum": ["x" * (MAX_CHARACTERS - 10)]})
