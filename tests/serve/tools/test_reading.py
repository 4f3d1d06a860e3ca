"""Answers are split the same way wherever a stream cuts them, and their arguments are those that were written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from call_texts import SCHEMAS, WRITERS, read, shape
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.runtime.generation.detokenise import MARKS
from luvc_export.serve.tools.detection import FORMS, THOUGHTS
from luvc_export.serve.tools.splitting import AnswerShape

QWEN = THOUGHTS[1]
#: What could be taken for the end, or the beginning, of something.
WORDS = ("</tool_call>", "<tool_call>", "\n</parameter>x", "}", '"', "\\", "\n", "]", "é", "[ARGS]", ", ", "<tool", "'")


def strings(form: str) -> st.SearchStrategy[str]:
    """Texts of arguments; a form that writes them bare cannot write its own end in them."""
    texts = st.lists(st.sampled_from(WORDS) | st.text("ab <{[(:=", max_size=3), max_size=5).map("".join)
    ends = {"qwen-xml": "</parameter>", "gemma": '<|"|>'}.get(form)
    return texts.filter(lambda text: ends is None or ends not in text)


def arguments(form: str) -> st.SearchStrategy[dict[str, Any]]:
    leaf = strings(form) | st.integers(-99, 99) | st.booleans() | st.none() | st.just(0.5)
    # texts of bare values inside: XML writes JSON there
    inside = st.sampled_from("ab")
    deep = st.recursive(leaf, lambda one: st.lists(one, max_size=2) | st.dictionaries(inside, one), max_leaves=4)
    fields = {"side": strings(form), "n": st.integers(), "far": st.booleans(), "all": st.lists(deep, max_size=3)}
    return st.fixed_dictionaries({}, optional={**fields, "more": st.dictionaries(st.sampled_from("xy"), deep)})


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, list[tuple[str, Any]], str]:
    form = draw(st.sampled_from(sorted(FORMS)))
    calls = st.tuples(st.sampled_from(sorted(SCHEMAS)), arguments(form))
    text = draw(st.text("ab\n <", max_size=6)) if form != "llama" else ""
    return form, draw(st.lists(calls, min_size=1, max_size=3)), text


@given(answers(), st.data())
def test_an_answer_is_read_the_same_wherever_it_is_cut(asked: Any, data: st.DataObject) -> None:
    form, calls, before = asked
    text = before + WRITERS[form](calls)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    whole, pieces = read(text, [], shape(form)), read(text, cuts, shape(form))
    assert whole == pieces == read(text, list(range(len(text))), shape(form))
    assert [(name, json.loads(sent)) for name, sent in whole[2]] == calls
    assert whole[0] == before.rstrip()


@pytest.mark.parametrize("form", sorted(FORMS))
def test_marks_that_are_tokens_are_marks_and_their_letters_text(form: str) -> None:
    ids = {mark: 100 + number for number, mark in enumerate(FORMS[form].marks)}
    letters = dict(zip(ids, MARKS, strict=False))
    calls = [("look", {"side": "left", "n": 2}), ("look", {})]
    text = WRITERS[form](calls)
    written = text
    for mark in sorted(letters, key=len, reverse=True):
        written = written.replace(mark, letters[mark])
    for cut in range(len(written) + 1):
        content, _, named = read("Yes. " + written if form != "llama" else written, [cut], shape(form, ids=ids))
        assert [(name, json.loads(sent)) for name, sent in named] == calls, form
        assert content == ("Yes." if form != "llama" else "")
    if form != "llama":
        assert read(text, [], shape(form, ids=ids)) == (text, "", [])


@pytest.mark.parametrize(
    ("form", "text", "content"),
    [
        ("hermes", "a <tool_call> is a mark", "a <tool_call> is a mark"),
        ("hermes", "a <tool_c", "a <tool_c"),
        ("hermes", '<tool_call>\n{"na', '<tool_call>\n{"na'),
        ("qwen-xml", "<tool_call>\n<function=", "<tool_call>\n<function="),
        ("llama", '  {"answer": 3}\n', '  {"answer": 3}\n'),
        ("llama", "So {x} ", "So {x} "),
        ("gemma", "<|tool_call>response:x", "<|tool_call>response:x"),
        ("mistral", "[TOOL_CALLS]look", "[TOOL_CALLS]look"),
    ],
)  # fmt: skip
def test_what_is_no_call_is_text(form: str, text: str, content: str) -> None:
    for cut in range(len(text)):
        assert read(text, [cut], shape(form)) == (content, "", [])


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_call_that_is_cut_says_what_it_said(form: str) -> None:
    text = WRITERS[form]([("look", {"side": "left"})])
    whole = read(text, [], shape(form))[2][0][1]
    for end in range(len(text)):
        _, _, calls = read(text[:end], [], shape(form))
        assert not calls or (calls[0][0] == "look" and whole.startswith(calls[0][1].replace("{}", "{")))


@pytest.mark.parametrize(
    ("form", "before", "opening"),
    [("lfm2", "<|tool_call_start|>[f(a=", "["), ("lfm2", "<|tool_call_start|>[f(a=", '{"a": '),
     ("gemma", "<|tool_call>call:f{a:", "["), ("gemma", "<|tool_call>call:f{a:", "{a:")],
)  # fmt: skip
def test_lists_in_lists_are_read_so_far(form: str, before: str, opening: str) -> None:
    """A model may write thousands: the reader's own stack ended the answer."""
    calls, deep = read(before + opening * 5000, [], shape(form))[2], 100
    assert [name for name, _ in calls] == ["f"] and calls[0][1].count(opening[0]) < deep


def test_calls_inside_of_arguments_are_text() -> None:
    inside = WRITERS["hermes"]([("look", {"side": "x"})])
    text = WRITERS["hermes"]([("look", {"side": inside})])
    assert [json.loads(sent) for _, sent in read(text, [], shape("hermes"))[2]] == [{"side": inside}]


@pytest.mark.parametrize(
    ("opened", "text", "content", "thought"),
    [
        (False, "<think>\nso\n so\n</think>\n\nYes. ", "Yes. ", "so\n so"),
        (False, "Yes <think>no</think>", "Yes <think>no</think>", ""),
        (False, "<thin", "<thin", ""),
        (False, "<think></think>Yes", "Yes", ""),
        (True, "so\n</think>\n\nYes", "Yes", "so"),
        (True, "so, cut ", "", "so, cut"),
        (True, "</think>Yes", "Yes", ""),
    ],
)  # fmt: skip
def test_a_thought_is_apart(opened: bool, text: str, content: str, thought: str) -> None:
    for form in (None, FORMS["hermes"]):
        how = AnswerShape(calls=form, thought=QWEN, opened=opened, schemas=SCHEMAS)
        call = WRITERS["hermes"]([("look", {})]) if form and content and not content.startswith("<thin") else ""
        for cut in range(len(text)):
            answer = read(text + call, [cut], how)
            assert answer == (content.rstrip() if call else content, thought, [("look", "{}")] if call else [])
