"""What the scripts about tools share: two typed tools, and conversations about a picture in which both are offered.

Each library has every one of ``CELLS``, and an answer in words at the end. What a library cannot is listed by its
script, and must raise what the list says: a hole that closes is seen.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from common import Facts, report
from pydantic import BaseModel


class Look(BaseModel, extra="forbid"):
    """See a side of the picture."""

    side: Literal["left", "right"]


class Count(BaseModel, extra="forbid"):
    """Count in a row of the picture."""

    row: Literal[1, 2, 3]


Call = Look | Count
#: Tools by name, what they say, and how chat completions have them.
KINDS: dict[str, type[Call]] = {"Look": Look, "Count": Count}
SAYS = {"Look": "seen", "Count": "3"}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "parameters": kind.model_json_schema(), "strict": True}}
    for name, kind in KINDS.items()
]


class Cell(NamedTuple):
    """How the tools are called: two calls of one answer, or one of each of two; and how answers come."""

    parallel: bool
    streamed: bool

    @property
    def choices(self) -> tuple[str, ...]:
        """Of each answer, which tools it may call; none in the last."""
        return ("required", "none") if self.parallel else ("Look", "Count", "none")

    def __str__(self) -> str:
        return f"{'at once' if self.parallel else 'in turn'}, {'streamed' if self.streamed else 'whole'}"


CELLS = [Cell(*each) for each in itertools.product((False, True), repeat=2)]
#: Calls of each answer of a conversation.
Conversation = list[list[Call]]
#: Answers to messages with that choice, streamed or not: the calls with their ids.
Ask = Callable[[list[Any], str, bool], list[tuple[str, Call]]]


def chosen(choice: str) -> str | dict[str, Any]:
    """A choice as chat completions have it."""
    return choice if choice not in KINDS else {"type": "function", "function": {"name": choice}}


def named(choice: str) -> str | dict[str, Any]:
    """The same as responses have it."""
    return choice if choice not in KINDS else {"type": "function", "name": choice}


def extra(facts: Facts, choice: str) -> dict[str, Any]:
    """What has the bundled model, which obeys nobody, end: behind a second call, or a few tokens of text."""
    least = {"required": 85, "none": 4}.get(choice)
    return {} if least is None else {"min_tokens": least, "logit_bias": {facts["end"]: 100}}


def typed(name: str, arguments: str) -> Call:
    """A call whose arguments come as JSON."""
    return KINDS[name].model_validate_json(arguments)


def says(call: Call) -> str:
    """What the tool says."""
    return SAYS[type(call).__name__]


def as_messages(calls: Iterable[tuple[str, Call]]) -> list[Any]:
    """Calls and their results as messages of a chat."""
    sent, results = [], []
    for key, call in calls:
        function = {"name": type(call).__name__, "arguments": call.model_dump_json()}
        sent.append({"id": key, "type": "function", "function": function})
        results.append({"role": "tool", "tool_call_id": key, "content": says(call)})
    return [{"role": "assistant", "content": None, "tool_calls": sent}, *results]


def as_items(calls: Iterable[tuple[str, Call]]) -> list[Any]:
    """The same as items of a response's input."""
    sent, results = [], []
    for key, call in calls:
        arguments = call.model_dump_json()
        sent.append({"type": "function_call", "call_id": key, "name": type(call).__name__, "arguments": arguments})
        results.append({"type": "function_call_output", "call_id": key, "output": says(call)})
    return [*sent, *results]


def asking(
    ask: Ask, question: list[Any], sent: Callable[[Iterable[tuple[str, Call]]], list[Any]] = as_messages
) -> Callable[[Cell], Conversation]:
    """Conversations of a library that answers messages, of which each is sent again with what came of it."""

    def converse(cell: Cell) -> Conversation:
        messages, turns = question, []
        for choice in cell.choices:
            calls = ask(messages, choice, cell.streamed)
            messages = [*messages, *sent(calls)]
            turns.append([call for _, call in calls])
        return turns

    return converse


def hold(library: str, converse: Callable[[Cell], Conversation], refused: Mapping[Cell, str] | None = None) -> None:
    """Have a library hold the conversation of each cell, with as many typed calls as there should be.

    Args:
        library: Its name, and what of it.
        converse: Holds one.
        refused: Cells that it cannot, and the error it raises, a regular expression.
    """
    refusals = refused or {}
    for cell in CELLS:
        try:
            turns = converse(cell)
        except Exception as error:
            if cell not in refusals or not re.search(refusals[cell], str(error)):
                raise
            continue
        assert cell not in refusals, f"{library}, {cell} works, and is listed: {refusals[cell]}"
        names = [[type(call).__name__ for call in turn if isinstance(call, Call)] for turn in turns]
        if cell.parallel:
            assert len(names[0]) == 2 and names[1:] == [[]], (cell, turns)
        else:
            assert names == [["Look"], ["Count"], []], (cell, turns)
    reasons = [f"; {cell}: the library refuses ({reason})" for cell, reason in refusals.items()]
    report(library, f"{len(CELLS) - len(reasons)} of {len(CELLS)} conversations with tools{''.join(reasons)}")
