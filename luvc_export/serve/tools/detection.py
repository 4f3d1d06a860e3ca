"""What a bundle's chat template writes: calls of tools, thoughts. Seen by having it write one of each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from luvc_export.errors import LuvcError, UsageError
from luvc_export.runtime.prompt.encoder import PromptEncoder
from luvc_export.runtime.prompt.question import Question
from luvc_export.serve.tools.call_form import CallForm
from luvc_export.serve.tools.forms.gemma_calls import GEMMA
from luvc_export.serve.tools.forms.json_calls import HERMES, LLAMA, MISTRAL, MISTRAL_OLD
from luvc_export.serve.tools.forms.pythonic_calls import PYTHONIC
from luvc_export.serve.tools.forms.xml_calls import XML


class Thought(NamedTuple):
    """Marks around a thought.

    Args:
        begin: Before it; the template may have written it.
        end: Behind it.
        head: What stands before its text.
    """

    begin: str
    end: str
    head: str = ""


#: In the order in which a template is looked at.
THOUGHTS = (
    Thought("<|channel>", "<channel|>", "thought\n"),
    Thought("<think>", "</think>"),
    Thought("[THINK]", "[/THINK]"),
    Thought("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    Thought("<seed:think>", "</seed:think>"),
)


#: Forms by name, in the order in which a template is looked at.
FORMS = {form.name: form for form in (XML, GEMMA, PYTHONIC, MISTRAL, MISTRAL_OLD, HERMES, LLAMA)}
#: A name that no template has in its own words.
_PROBE = "look_at_k7q"
_SCHEMA = {"type": "object", "properties": {"side": {"type": "string", "description": "x"}}, "required": ["side"]}
_TOOL = {"type": "function", "function": {"name": _PROBE, "description": "x", "parameters": _SCHEMA}}
_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": _PROBE, "arguments": {"side": "left"}}}
_ASKED = {"role": "user", "content": [{"type": "text", "text": "x"}]}
#: Answers to what templates write at the end of a prompt that are remembered.
_MOST_KEPT = 256


def form_named(name: str) -> CallForm:
    """The call form of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in FORMS:
        known = ", ".join(FORMS)
        raise UsageError("there is no such form of calls", where="--tool-parser", got=name, expected=known)
    return FORMS[name]


class TemplateForms:
    """What the template of a tokenizer writes.

    Args:
        encoder: Has both.
        vocab: Logits of a step.
        parser: Name of the call form; None finds it.

    Raises:
        UsageError: See ``form_named``.
    """

    def __init__(self, encoder: PromptEncoder, vocab: int, parser: str | None = None) -> None:
        self.tokenizer, self.vocab = encoder.tokenizer, vocab
        self.encoder, self._opens = encoder, dict[str, bool]()
        self.source = "" if encoder.template is None else encoder.template.source
        self.takes_tools = _PROBE in self._written([_ASKED])
        #: How it writes calls; None where it writes none.
        self.calls: CallForm | None = form_named(parser) if parser else self._form() if self.takes_tools else None
        #: What it has around thoughts; None where it has none.
        self.thought: Thought | None = next((one for one in THOUGHTS if one.end in self.source), None)

    def _form(self) -> CallForm | None:
        call = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
        answer = {"role": "tool", "tool_call_id": "abcdefghi", "name": _PROBE, "content": "y"}
        written = self._written([_ASKED, call, answer])
        for text in (written, self.source):
            for form in FORMS.values():
                if re.search(form.written, text):
                    return form
        return None

    def ids(self) -> dict[str, int]:
        """Marks of calls and thoughts that are tokens."""
        marks = [*(self.calls.marks if self.calls else ()), *((self.thought[:2]) if self.thought else ())]
        added = {token.content: number for number, token in self.tokenizer.get_added_tokens_decoder().items()}
        return {mark: added[mark] for mark in marks if mark in added}

    def opens_thought(self, values: Mapping[str, Any]) -> bool:
        """Whether a prompt with these values of the template ends within a thought."""
        if self.thought is None or values.get("add_generation_prompt") is False:
            return False
        key = json.dumps(values, sort_keys=True, default=str)
        if key not in self._opens:
            written = self._written([_ASKED], values)
            opened = written.rfind(self.thought.begin) > written.rfind(self.thought.end)
            if len(self._opens) >= _MOST_KEPT or len(key) > 1000:
                return opened
            self._opens[key] = opened
        return self._opens[key]

    def takes(self, name: str) -> bool:
        """Whether the template reads a value of that name."""
        return re.search(rf"\b{re.escape(name)}\b", self.source) is not None

    def _written(self, messages: list[Mapping[str, Any]], values: Mapping[str, Any] | None = None) -> str:
        """A prompt as the template writes it; none where it refuses."""
        if self.encoder.template is None:
            return ""
        tools = () if values is not None else (_TOOL,)
        try:
            return self.encoder.render(Question(tuple(messages), (), values=values or {}, tools=tools))
        except LuvcError:
            return ""
