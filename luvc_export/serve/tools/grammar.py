"""The grammar of an answer: a thought that nothing holds, then the text or what holds it, or calls of tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from luvc_export.serve.tools.rules import Rules
from luvc_export.serve.tools.splitting import AnswerShape

#: May answers call, must they, or can they not?
Mode = Literal["none", "auto", "required"]


@dataclass(frozen=True)
class Calls:
    """What answers may call.

    Args:
        mode: Whether.
        tools: Names of tools and schemas of their arguments.
        several: They may call more than once.
        loose: Tools whose schemas may be given up where no grammar can be made of them.
    """

    mode: Mode = "none"
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    several: bool = True
    loose: Mapping[str, bool] = field(default_factory=dict)


def grammar(shape: AnswerShape, calls: Calls, held: tuple[str, Any] | None = None) -> dict[str, Any]:
    """What ``GrammarTrials.written`` takes as ``tools``.

    Args:
        shape: Of the answer.
        calls: What it may call.
        held: What its text is held to, as ``grammar_of`` takes it; None for any text.
    """
    rules = Rules(shape.ids, calls.loose)
    form = shape.calls if calls.mode != "none" else None
    text = "@answer" if held else None
    if form is None:
        body = text or f"{rules.any_text()}?"
    else:
        one = " | ".join(rules.fresh("tool", form.one(rules, name, schema)) for name, schema in calls.tools.items())
        called = form.whole(rules, rules.rule("call", one), calls.several)
        begun = f"{rules.mark(form.begin)} {called}" if form.begin else called
        body = f"({begun})" if calls.mode == "required" else _either(rules, form.begin, begun, called, text, shape)
    start = f"{_thought(rules, shape)} {body}"
    answer = None if held is None else {"where": held[0], "asked": held[1]}
    return {"rules": rules.written(start), "schemas": rules.schemas, "answer": answer}


def _either(rules: Rules, begin: str, begun: str, called: str, text: str | None, shape: AnswerShape) -> str:
    """Text, or calls, or one before the other; text that is held is no call's."""
    if text:
        return f"({text} | {begun})"
    if not begin:
        return f"({rules.terminal('NO_CALL', '/' + chr(92) + 's*[^{' + chr(92) + 's](?s:.*)/')} | {begun})?"
    if begin in shape.ids:
        return f"{rules.any_text()}? ({begun})?"
    return f"({rules.any_text(without=begin)} | {rules.until(begin)} {called})?"


def _thought(rules: Rules, shape: AnswerShape) -> str:
    if shape.thought is None:
        return ""
    rest = f'{rules.until(shape.thought.end)} ("\\n" | "\\n\\n")?'
    return rest if shape.opened else f"({rules.mark(shape.thought.begin)} {rest})?"
