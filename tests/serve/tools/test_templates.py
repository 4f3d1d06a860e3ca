"""Models whose templates write each form: what is seen of them, answers that must call, thoughts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_bundle
from call_texts import WRITERS, read
from calling import Client
from client_view import responded, streamed, without_ids
from form_bundles import template, write
from running import serving

from luvc_export.runtime.session import Session
from luvc_export.serve.models import Models, ServedModel
from luvc_export.serve.tools.detection import FORMS, TemplateForms
from luvc_export.serve.tools.splitting import AnswerReader, AnswerShape

#: Texts that could be taken for the end of something.
SIDES, ODD = ["a", "b"], ["</tool_call>", '[ARGS]{"', "'<|tool_call_end|>", "\\n, \n"]
PARAMETERS = {
    "type": "object",
    "properties": {"at": {"enum": SIDES}, "odd": {"enum": ODD}},
    "required": ["at", "odd"],
}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}]
ASKED = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 44}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_form_is_seen_by_what_the_template_writes(tmp_path: Path, form: str) -> None:
    session = write(tmp_path / "tiny", template(form))
    forms = TemplateForms(session.encoder, tiny_bundle.VOCAB)
    assert forms.takes_tools and forms.calls is FORMS[form] and forms.thought is None
    assert TemplateForms(session.encoder, tiny_bundle.VOCAB, "llama").calls is FORMS["llama"]


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[AnswerShape, str]]:
    """What readers of answers are given."""
    pieces: list[tuple[AnswerShape, str]] = []
    push = AnswerReader.push

    def noted(reader: AnswerReader, text: str) -> Any:
        pieces.append((reader._shape, text))
        return push(reader, text)

    monkeypatch.setattr(AnswerReader, "push", noted)
    return pieces


def tokens_of_calls(form: str, several: bool) -> int:
    """Enough for the longest call, or for it and a second one's name: without marks that are tokens, letters."""
    longest = len(WRITERS[form]([("look", {"at": "b", "odd": ODD[2]})]))
    one, two = (WRITERS[form]([("look", {})] * count) for count in (1, 2))
    return longest - len(one) + two.rindex("look") + 12 if several else longest + 40


@pytest.mark.parametrize(("tokens", "several"), [(True, False), (False, True)])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_arguments_are_the_same_whole_streamed_and_at_every_cut(
    of_forms: Client, pushed: list[tuple[AnswerShape, str]], form: str, tokens: bool, several: bool
) -> None:
    """A random model writes what its grammar allows; one that may call again does, until it is cut."""
    asked: dict[str, Any] = {**ASKED, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": several}
    most = tokens_of_calls(form, several)
    asked |= {"model": f"{form}-tokens" if tokens else form, "temperature": 0}
    asked |= {"max_tokens": most, "min_tokens": most if several else 0}
    reply = of_forms.chat(**asked)
    assert reply.status == 200, reply.body
    (how, *_), raw = pushed[0], "".join(text for _, text in pushed)
    choice = reply.json()["choices"][0]
    message = choice["message"]
    reason = choice["finish_reason"]
    rest = message["content"] or ""  # of a mark that is cut
    assert FORMS[form].begin.startswith(rest) and (several or (rest, reason) == ("", "tool_calls"))
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
    assert len(calls) > 1 if several else len(calls) == 1
    for _, sent in calls[: None if reason == "tool_calls" else -1]:
        arguments = json.loads(sent)
        assert arguments["at"] in SIDES and arguments["odd"] in ODD
    for call in message["tool_calls"]:
        assert len(call["id"]) == 9 if form.startswith("mistral") else call["id"].startswith("call_")
    pieces, ended = streamed(of_forms, **asked)
    assert (without_ids(pieces), ended) == (without_ids(message), reason)
    for cut in range(len(raw) + 1):
        assert read(raw, [cut], how) == (rest, "", calls)
    if not several:
        assert responded(of_forms, **asked) == calls
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "y"}
        again = {**asked, "messages": [*ASKED["messages"], message, result], "max_tokens": 1}
        assert of_forms.chat(**again).status == 200


def test_a_template_without_tools_says_what_to_do(tmp_path: Path) -> None:
    session = write(tmp_path / "tiny", tiny_bundle.TEMPLATE)
    with serving(Models([ServedModel("tiny", session)])) as (_, client):
        error = client.chat(**ASKED, tools=TOOLS).json()["error"]
        assert (error["param"], error["code"]) == ("tools", "unsupported_parameter")
        assert "serve with --chat-template FILE" in error["message"]
        assert client.chat(**ASKED, tools=TOOLS, tool_choice="none").status == 200


def test_a_template_of_its_own(tmp_path: Path) -> None:
    bundle = tiny_bundle.write(tmp_path / "tiny", context=256)
    file = tmp_path / "tools.jinja"
    file.write_text(template("hermes"), encoding="utf-8")
    session = Session(bundle, "cpu", threads=1, chat_template=file)
    assert TemplateForms(session.encoder, tiny_bundle.VOCAB).calls is FORMS["hermes"]


THINKING = "{% if add_generation_prompt and enable_thinking is not defined %}<think>{% endif %}"


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random model whose template opens a thought, unless it is told not to think."""
    text = template("hermes", THINKING + "{# </think> #}")
    session = write(tmp_path_factory.mktemp("thinking") / "tiny", text, ("<think>", "</think>"))
    with serving(Models([ServedModel("tiny", session)])) as (_, client):
        yield client


def test_a_budget_ends_the_thought_and_the_grammar_holds_the_answer(thinking: Client) -> None:
    asked = {**ASKED, "thinking_token_budget": 5, "response_format": {"type": "regex", "regex": "[ab]{3}"}}
    answer = thinking.chat(**asked)
    assert answer.status == 200, answer.body
    reply = answer.json()
    message, details = reply["choices"][0]["message"], reply["usage"]["completion_tokens_details"]
    assert message["reasoning"] == message["reasoning_content"] and set(message["content"]) <= {"a", "b"}
    assert len(message["content"]) == 3 and 0 < details["reasoning_tokens"] <= 9
    pieces = [event["choices"][0]["delta"] for event in thinking.events(**asked)]
    assert "".join(piece.get("reasoning_content") or "" for piece in pieces) == message["reasoning"]
    assert "".join(piece.get("content") or "" for piece in pieces) == message["content"]


def test_effort_turns_thinking_off(thinking: Client) -> None:
    asked = {**ASKED, "response_format": {"type": "regex", "regex": "[ab]{3}"}, "max_tokens": 5}
    for off in ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}):
        reply = thinking.chat(**asked, **off).json()
        message = reply["choices"][0]["message"]
        assert "reasoning" not in message, message
        assert set(message["content"]) <= {"a", "b"} and "completion_tokens_details" not in reply["usage"]


def test_thoughts_are_items_of_responses(thinking: Client) -> None:
    asked = {"input": "x", "max_output_tokens": 30, "thinking_token_budget": 4,
             "text": {"format": {"type": "regex", "regex": "[ab]{3}"}}}  # fmt: skip
    body = thinking.call("POST", "/v1/responses", json.dumps(asked).encode()).json()
    assert [item["type"] for item in body["output"]] == ["reasoning", "message"]
    assert body["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    again = {**asked, "input": [{"role": "user", "content": "x"}, *body["output"], {"role": "user", "content": "y"}]}
    assert thinking.call("POST", "/v1/responses", json.dumps(again).encode()).status == 200
    raw = thinking.call("POST", "/v1/responses", json.dumps({**asked, "stream": True}).encode()).body.decode()
    kinds = [line.removeprefix("event: response.") for line in raw.splitlines() if line.startswith("event: ")]
    assert kinds[:3] == ["created", "in_progress", "output_item.added"] and "reasoning_text.done" in kinds
    assert kinds[-1] in ("completed", "incomplete") and kinds.count("output_item.done") == 2


def test_what_has_no_thought_refuses_to_bound_it(client: Client) -> None:
    for fields, param in (
        ({"thinking_token_budget": 3}, "thinking_token_budget"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
    ):
        error = client.chat(**ASKED, model="demo", **fields).json()["error"]
        assert (error["param"], error["code"]) == (param, "unsupported_parameter")
    assert client.chat(**ASKED, model="demo", reasoning_effort="none").status == 200
