"""Answers of a grammar, on a model of random weights whose tokens are bytes: the mask does all of it."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any

import pytest
import tiny_bundle
from heavy_patterns import HEAVY, TOO_HEAVY, string_of
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.bundle.folder import Bundle
from luvc_export.demo.questions import cases
from luvc_export.errors import CheckFailed, MachineError, UsageError
from luvc_export.runtime.generation import guided
from luvc_export.runtime.generation.grammar_text import shortest_match
from luvc_export.runtime.generation.guided import MaskWork
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.session import Session

FINITE: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "y"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["a", "n"],
    "additionalProperties": False,
}


def test_every_answer_of_a_finite_schema_parses(session: Session) -> None:
    texts = set()
    for seed in range(25):
        answer = session.generate(None, "a", json_schema=FINITE, temperature=99.0, seed=seed)
        value = json.loads(answer.text)
        assert value["a"] in ("x", "y") and 0 <= value["n"] <= 9 and list(value) == ["a", "n"]
        assert answer.finish_reason == "stop"
        texts.add(answer.text)
    assert len(texts) > 3


@pytest.mark.parametrize("text", ["<a>", "see <end> and <a><b> é<image>", "<a", "<<a>>"])
def test_a_text_that_is_a_special_tokens_name_is_text(session: Session, text: str) -> None:
    """What had to follow was written as the tokenizer would: with the token, which the grammar refused then."""
    answer = session.generate(None, "x", json_schema={"enum": [text]})
    assert (json.loads(answer.text), answer.finish_reason) == (text, "stop")
    assert json.loads(session.generate(None, "x", json_schema={"enum": [text, f"{text}!"]}).text) in (text, f"{text}!")


def test_a_pattern_is_followed_and_streamed(session: Session) -> None:
    stream = session.generate(None, "a", regex="(ab|cd)[0-9]{3}", stream=True, temperature=3.0, seed=1)
    pieces = list(stream)
    assert len(pieces) > 3 and re.fullmatch("(ab|cd)[0-9]{3}", "".join(pieces))
    assert re.fullmatch("(ab|cd)[0-9]{3}", session.generate(None, "a", regex="(ab|cd)[0-9]{3}").text)


def test_without_the_mask_nothing_parses(session: Session) -> None:
    """Sabotage: what parses above is the mask's doing."""
    with pytest.raises(ValueError):
        json.loads(session.generate(None, "a", temperature=3.0, seed=0, max_new_tokens=12).text)


def test_a_mask_that_allows_the_greedy_text_leaves_it(demo_bundle: Bundle) -> None:
    """The demo model, as one of random weights writes bytes that are no text."""
    demo = Session(demo_bundle, "cpu", "even", threads=1)
    for case in cases("heldout", 8):
        free = demo.generate(list(case.images), case.prompt)
        held = demo.generate(list(case.images), case.prompt, regex="(?s:.*)")
        assert held.token_ids == free.token_ids


def test_rows_are_guided_one_by_one(session: Session) -> None:
    alone = [session.generate(None, text, json_schema=FINITE) for text in ("a", "b")]
    assert [json.loads(answer.text)["a"] in ("x", "y") for answer in alone] == [True, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regex": "("}, r"no grammar can be made of this\n  where: regex"),
        ({"json_schema": {"type": "strnig"}}, r"where: json_schema\n  got: Invalid type: strnig"),
        ({"json_schema": {"properties": {"a": {"$ref": "http://x/y"}}}}, "no grammar can be made"),
        ({"json_schema": {"enum": [float("nan")]}}, "no grammar can be made"),
        ({"regex": "a" * 100_001}, "this is too long"),
        ({"regex": "((((a{1000}){1000}){1000}){1000})"}, "no answer can be as long as this pattern\n  where: regex"),
        ({"json_schema": {"items": {"pattern": "(a{1000}){1000}"}}}, "no answer can be as long as this pattern"),
        ({"json_schema": {"patternProperties": {"(a{999}){999}": {}}}}, "no answer can be as long as this pattern"),
    ],
)
def test_what_is_no_grammar_is_said_at_once(session: Session, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        session.generate(None, "a", stream=True, **options)


@pytest.mark.parametrize("grammar", ['start: ("ab" | "cd") /[0-9]{3}/', 'root ::= ("ab" | "cd") [0-9] [0-9] [0-9]'])
def test_grammars_are_lark_or_gbnf(session: Session, grammar: str) -> None:
    answer = session.generate(None, "a", grammar=grammar, temperature=9.0, seed=1)
    assert re.fullmatch("(ab|cd)[0-9]{3}", answer.text) and answer.finish_reason == "stop"
    with pytest.raises(UsageError, match="where: grammar\n  got: neither Lark nor GBNF"):
        session.generate(None, "a", grammar="%%%")
    with pytest.raises(UsageError, match="no answer can be as long as this pattern\n  where: grammar"):
        session.generate(None, "a", grammar="start: /(a{1000}){1000}/")


def test_an_answer_may_end_elsewhere(session: Session) -> None:
    """After a token of the caller's, and not after the model's own."""
    letters = {ord("a") - 33: 100.0}
    plain = session.generate(None, "a", logit_bias=letters, max_new_tokens=8)
    (letter,) = set(plain.token_ids)
    assert plain.text == "a" * 8 and plain.finish_reason == "length"
    cut = session.generate(None, "a", logit_bias=letters, max_new_tokens=8, stop_token_ids=[letter])
    assert (cut.text, cut.finish_reason, len(cut.token_ids)) == ("", "stop", 1)
    shown = {"stop_token_ids": [letter], "include_stop_str_in_output": True, "min_new_tokens": 3}
    kept = session.generate(None, "a", logit_bias=letters, max_new_tokens=8, **shown)
    assert kept.text.endswith("a") and kept.finish_reason == "stop" and len(kept.token_ids) == 4
    ends = {tiny_bundle.END_TOKEN: 100.0}
    assert session.generate(None, "a", logit_bias=ends, max_new_tokens=5).finish_reason == "stop"
    on = session.generate(None, "a", logit_bias=ends, max_new_tokens=5, ignore_eos=True)
    assert (on.finish_reason, on.token_ids) == ("length", (tiny_bundle.END_TOKEN,) * 5)


def test_a_missing_library_is_named(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MachineError, match=r"pip install 'luvc-export\[guided\]'"):
        session.generate(None, "a", regex="a")


@pytest.mark.parametrize("pattern", ["(a{1000}){9}", "(a|b|c){9999}", "(a{0,1000}){0,1000}", "((abc){3000})"])
def test_the_longest_patterns_take_no_time_to_speak_of(session: Session, pattern: str) -> None:
    """Without a limit of its own work the library takes 3 s for some; of computing, as the machine may be busy."""
    begin = time.process_time()
    session.generate(None, "a", regex=pattern, max_new_tokens=2)
    assert time.process_time() - begin < 2


def test_an_answer_is_never_cut_and_called_complete(demo_bundle: Bundle) -> None:
    """A mask may take more work than llguidance does by itself: more is allowed, and beyond, the answer fails."""
    demo = Session(demo_bundle, "cpu", "even", threads=1)
    options: dict[str, Any] = {"temperature": 99.0, "max_new_tokens": 60}
    for seed in (0, 1):
        answer = demo.generate(None, "a", json_schema=string_of(HEAVY), seed=seed, **options)
        assert answer.finish_reason == "length" or re.fullmatch(HEAVY, json.loads(answer.text)), answer.text
    words = r"the answer takes too much work to hold to this\n  where: json_schema\n  got: answer token \d+: .*too many"
    with pytest.raises(UsageError, match=words):
        demo.generate(None, "a", json_schema=string_of(TOO_HEAVY), seed=1, **options)
    with pytest.raises(UsageError, match=words):
        demo.generate_batch([{"prompt": "a"}, {"prompt": "b"}], json_schema=string_of(TOO_HEAVY), **options)


def test_masks_of_an_answer_have_seconds_of_their_own(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows wait for a mask. One within every limit of the library's own took 20 ms for each token."""
    left_out = "start: " + " ".join(["a?"] * 600) + '\na: "x" | "y"'
    assert session.generate(None, "a", grammar=left_out, max_new_tokens=3)
    monkeypatch.setattr(guided, "MaskWork", lambda: MaskWork(0.0, 0.0))
    words = r"takes too much work to hold to this\n  where: grammar\n  got: answer token 0: 0\.\d+ s of comput"
    with pytest.raises(UsageError, match=words):
        session.generate(None, "a", grammar=left_out, max_new_tokens=3)


def test_answers_of_a_request_share_the_seconds_of_their_masks(session: Session) -> None:
    """Eight answers of one request took eight times as long, while everybody's rows waited."""
    work = MaskWork(0.0, 0.0)
    mask = session.grammars.guided(Sampling(grammar='start: "x" | "y"'), work).mask
    assert mask is not None
    first, other = mask(), mask()
    for one in (first, other):
        with pytest.raises(UsageError, match="the answer takes too much work to hold to this"):
            one([])
    taken = work.seconds
    assert taken > 0 and work.tokens == 0
    work.first = 10.0
    assert first([ord("x") - 33]).any() and work.tokens == 1 and work.seconds > taken


def test_a_token_that_takes_too_much_work_is_no_fault_of_ours(session: Session) -> None:
    """It was a failed check, which a server answers with 500."""
    left_out = "start: " + " ".join(["a?"] * 1900) + '\na: "x" | "y"'
    letters = {ord("x") - 33: 50.0}
    with pytest.raises(UsageError, match=r"too much work to hold to this\n  where: grammar\n  got: answer token 0: P"):
        session.generate(None, "a", grammar=left_out, logit_bias=letters, max_new_tokens=3)


def test_a_token_of_another_grammar_is_a_fault_of_ours(session: Session) -> None:
    mask = session.grammars.guided(Sampling(regex="[0-9]{3}")).mask
    assert mask is not None
    with pytest.raises(
        CheckFailed, match=r"the grammar refuses a token it allowed\n  where: answer token 1\n  got: Parser"
    ):
        mask()([ord("1") - 33, ord("x") - 33])


def test_patterns_are_as_long_as_they_match() -> None:
    for pattern, length in (
        ("", 0), ("abc", 3), ("a|bcd", 1), ("(a|bcd)e", 2), ("a{3}", 3), ("a{3,}", 3), ("(ab){2,5}c", 5), ("a*b+c?", 1),
        (r"\d{4}-\p{L}{2}", 7), ("[]a]{2}[^]]", 3), ("[a[bc]]{3}", 3), (r"^\bx$", 1), ("(?:ab){3}", 6), ("(?i:a)", 1),
        ("(?P<n>ab){2}", 4), ("((a{10}){10}){10}", 1000), ("a{", 2), ("(ab", 2), (")", 1), ("\\", 1), ("((a|){5}b)", 1),
    ):  # fmt: skip
        assert shortest_match(pattern) == length, pattern
    assert shortest_match("((((a{1000}){1000}){1000}){1000})" * 100) == 10**12


@given(st.from_regex(re.compile(r"(([ab]|c{2,3}|(ab?|d){2}){1,3}\|?)?[^x]e+", re.ASCII), fullmatch=True))
def test_no_match_is_shorter(text: str) -> None:
    assert len(text) >= shortest_match(r"(([ab]|c{2,3}|(ab?|d){2}){1,3}\|?)?[^x]e+") == 2
