"""Models whose templates write each form: what is seen of them, answers that must call, thoughts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_bundle
from calling import Client
from running import serving

from luvc_export.bundle import folder as bundles
from luvc_export.runtime.session import Session
from luvc_export.serve.models import Models, ServedModel
from luvc_export.serve.tools.detection import FORMS, TemplateForms

#: What templates of a form write for a call; the checkpoints' own say it so.
CALLS = {
    "hermes": '<tool_call>\\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\\n</tool_call>',
    "qwen-xml": "<tool_call>\\n<function={{ f.name }}>\\n</function>\\n</tool_call>",
    "gemma": "<|tool_call>call:{{ f.name }}{}<tool_call|>",
    "lfm2": "<|tool_call_start|>[{{ f.name }}()]<|tool_call_end|>",
    "mistral": "[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}",
    "mistral-old": '[TOOL_CALLS] [{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}]',
    "llama": '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}',
}
SIDES = {"type": "object", "properties": {"side": {"enum": ["left", "right"]}}, "required": ["side"]}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": SIDES}}]
ASKED = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 44}


def template(call: str, end: str = "") -> str:
    body = tiny_bundle.TEMPLATE.replace(
        "{% endfor %}{% endif %}{% endfor %}",
        "{% endfor %}{% endif %}{% for c in m.tool_calls or [] %}{% set f = c.function %}"
        + call
        + "{% endfor %}{% endfor %}",
    )
    return "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}" + body + end


def write(folder: Path, text: str, marks: tuple[str, ...] = (), context: int = 256) -> Session:
    """The tiny bundle with that template and those tokens in the place of two of its own."""
    bundle = tiny_bundle.write(folder, context=context)
    tokenizer = tiny_bundle.tokenizer()
    data = json.loads(tokenizer.to_str())
    for token, mark in zip(("<a>", "<b>"), marks, strict=False):
        next(one for one in data["added_tokens"] if one["content"] == token)["content"] = mark
    changed = {"tokenizer.json": json.dumps(data), "tokenizer_config.json": json.dumps({"chat_template": text})}
    manifest = bundle.manifest
    for name, content in changed.items():
        (folder / name).write_text(content, encoding="utf-8")
        manifest.files[name] = bundles.record(folder / name)
    bundles.write_manifest(folder, replace(manifest, prompt=replace(manifest.prompt, text_capacity=context)))
    return Session(bundles.load(folder), "cpu", threads=1)


@pytest.mark.parametrize("form", sorted(CALLS))
def test_the_form_is_seen_by_what_the_template_writes(tmp_path: Path, form: str) -> None:
    session = write(tmp_path / "tiny", template(CALLS[form].replace("\\n", "\n")))
    forms = TemplateForms(session.encoder, tiny_bundle.VOCAB)
    assert forms.takes_tools and forms.calls is FORMS[form] and forms.thought is None
    assert TemplateForms(session.encoder, tiny_bundle.VOCAB, "llama").calls is FORMS["llama"]


def streamed(client: Client, **more: Any) -> tuple[str, list[list[str]], str | None]:
    """Text, calls and reason that a client builds of chunks."""
    text, calls, reason = "", list[list[str]](), None
    for event in client.events(**{**ASKED, **more}):
        (choice,) = event["choices"]
        text, reason = text + (choice["delta"].get("content") or ""), choice["finish_reason"]
        for call in choice["delta"].get("tool_calls", ()):
            if call["index"] == len(calls):
                calls.append([call["function"]["name"], ""])
            calls[call["index"]][1] += call["function"]["arguments"]
    return text, calls, reason


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("form", sorted(CALLS))
def test_a_random_model_calls_where_it_must(tmp_path: Path, form: str, tokens: bool) -> None:
    marks = FORMS[form].marks[:2] if tokens else ()
    session = write(tmp_path / "tiny", template(CALLS[form].replace("\\n", "\n")), marks)
    with serving(Models([ServedModel("tiny", session)])) as (_, client):
        asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
        asked |= {"max_tokens": 150, "temperature": 1, "seed": 4}
        reply = client.chat(**{**ASKED, **asked})
        assert reply.status == 200, reply.body
        choice = reply.json()["choices"][0]
        (call,) = choice["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"])["side"] in ("left", "right")
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
        assert len(call["id"]) == 9 if form.startswith("mistral") else call["id"].startswith("call_")
        text, calls, reason = streamed(client, **asked)
        function = call["function"]
        assert (text, calls, reason) == ("", [[function["name"], function["arguments"]]], "tool_calls")
        sent = [*ASKED["messages"], choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": "y"}]
        assert client.chat(**{**ASKED, **asked, "messages": sent, "max_tokens": 1}).status == 200


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
    file.write_text(template(CALLS["hermes"].replace("\\n", "\n")), encoding="utf-8")
    session = Session(bundle, "cpu", threads=1, chat_template=file)
    assert TemplateForms(session.encoder, tiny_bundle.VOCAB).calls is FORMS["hermes"]


THINKING = "{% if add_generation_prompt and enable_thinking is not defined %}<think>{% endif %}"


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random model whose template opens a thought, unless it is told not to think."""
    text = template(CALLS["hermes"].replace("\\n", "\n"), THINKING + "{# </think> #}")
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
