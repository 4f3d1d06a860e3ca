"""What a call form is: its marks, how a call is read, and how grammars write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luvc_export.serve.tools.letters import Letters, Malformed, Reading
from luvc_export.serve.tools.rules import Rules

#: Schemas of arguments by name of the tool.
Schemas = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class CallForm:
    """A way in which templates write calls.

    Args:
        name: As ``--tool-parser`` has it.
        begin: The mark before calls; none where an answer that begins with ``{`` is one.
        marks: All its marks, which may each be one token.
        written: A regular expression: what templates of this form write, or have in their source.
        read: Reads what follows ``begin``: one call or several.
        one: The rule of one tool's call.
        whole: The rule of all calls of an answer, of that of any one of them, and whether there may be several.
        id_letters: Letters of a call's id, where templates want so many.
    """

    name: str
    begin: str
    marks: tuple[str, ...]
    written: str
    read: Callable[[Letters, Schemas], Reading[None]]
    one: Callable[[Rules, str, Mapping[str, Any]], str]
    whole: Callable[[Rules, str, bool], str]
    id_letters: int | None = None


def call_object(letters: Letters) -> Reading[None]:
    """``{"name": ..., "arguments": {...}}``, in any order, perhaps with more; ``parameters`` are arguments too.

    Raises:
        Malformed: It is none.
    """
    yield from letters.expect("{")
    named, early = False, list[str]()
    while True:
        yield from letters.blanks()
        if (yield from letters.at("}")):
            break
        if (yield from letters.at(",")):
            continue
        key = yield from letters.json_string()
        yield from letters.blanks()
        yield from letters.expect(":")
        yield from letters.blanks()
        if key == "name" and not named:
            letters.begin_call((yield from letters.json_string()))
            named = True
            if early:
                letters.argue("".join(early))
        elif key in ("arguments", "parameters"):
            yield from letters.json_value(letters.argue if named else early.append)
        else:
            yield from letters.json_value(_nothing)
    if not named:
        raise Malformed
    letters.end_call()


def _nothing(_: str) -> None:
    pass
