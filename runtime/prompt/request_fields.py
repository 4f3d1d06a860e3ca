"""Fields of requests that others know and this project does not honour, for every door: what each is refused with.

The server, rows of a batch, Triton's requests, Ray's columns and ``Session`` share these tables
(``request_fields.json``). What a door has under another name, or not at all, is refused there by name with the nearest
that it has.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luvc_export.errors import UsageError

#: Values that ask for nothing, and what of ours is nearest.
Refusal = tuple[tuple[Any, ...], str]

_TABLES = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def _refusals(fields: dict[str, list[Any]]) -> dict[str, Refusal]:
    return {name: (tuple(nothing), nearest) for name, (nothing, nearest) in fields.items()}


#: Would change the answer and is not honoured, by whose field it is.
REFUSED: dict[str, Refusal] = {name: each for of in _TABLES["refused"].values() for name, each in _refusals(of).items()}
#: Of ``/v1/chat/completions``, which reads some.
CHAT_REFUSED = {name: each for name, each in REFUSED.items() if name not in _TABLES["read_by_chat"]}
#: Of ``/v1/responses``: beside those of chat completions, or other than there, but for those that are read there.
RESPONSES_REFUSED = {
    name: each
    for name, each in (REFUSED | _refusals(_TABLES["responses"])).items()
    if name not in _TABLES["read_by_responses"]
}
#: Of ``/v1/completions``.
COMPLETIONS_REFUSED = {
    name: each
    for name, each in (REFUSED | _refusals(_TABLES["completions"])).items()
    if name not in _TABLES["read_by_completions"]
}
#: As ``REFUSED``, of a message and of a part, whatever its type.
REFUSED_INSIDE = _refusals(_TABLES["inside"])
#: Leaves the answer as it is: why, by name.
HARMLESS: dict[str, str] = {name: why for why, names in _TABLES["harmless"].items() for name in names}

#: Of all paths.
_REFUSED = {**RESPONSES_REFUSED, **REFUSED}
#: What doors have under several names: the runtime's (``Session.generate`` and ``Sampling``) first, then the server's.
SAME: tuple[tuple[str, ...], ...] = tuple(map(tuple, _TABLES["same"]))
#: What the server alone has.
SERVED = ("n", "echo", "continue_final_message")
#: A name this close to a known one was meant to be it; of one that is refused anyway, one this close may have been.
_CLOSE, _NEAR = 0.82, 0.5
#: All names that some door knows.
KNOWN = frozenset({*_REFUSED, *HARMLESS, *SERVED, *(name for names in SAME for name in names)})


def asks(value: Any, nothing: Sequence[Any]) -> bool:
    """Whether ``value`` asks for something: it is no null, and none of the values that ask for nothing."""
    return value is not None and not any(value == one and type(value) is type(one) for one in nothing)


def meant(name: str, known: Collection[str]) -> str | None:
    """The known name that ``name`` is as good as a misspelling of."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=_CLOSE)), None)


def hint(name: str, own: Collection[str], beside: Mapping[str, str]) -> str:
    """What to do about a field that a door has not.

    Args:
        name: The field.
        own: Names that the door has.
        beside: What is not said there but beside it, by name, and where; an option that is said nowhere has no text.
    """
    for one in _nearest(name):
        if one in own:
            return f"leave it out, or see {one}"
        if beside.get(one):
            return f"leave it out, or see {one} of {beside[one]}"
    close = [] if name in KNOWN else difflib.get_close_matches(name, own, n=1, cutoff=_NEAR)
    return f"did you mean {close[0]}?" if close else "leave it out"


def check_fields(
    sent: Mapping[str, Any], own: Collection[str], what: str, where: str, beside: Mapping[str, str], exact: bool = False
) -> list[str]:
    """Refuse what would change an answer and is not honoured where it is sent; null is as good as absent.

    Args:
        sent: Fields and their values.
        own: Names that are read there.
        what: What has none of that name, for errors.
        where: Its place.
        beside: See ``hint``.
        exact: What is as good as misspelt passes.

    Returns:
        Names that nobody has heard of.

    Raises:
        UsageError: One is an option of another door, or as good as a misspelt one.
    """
    known, unheard = {*own, *beside, *KNOWN}, []
    for name, value in sent.items():
        if name in own or name in HARMLESS or not asks(value, _REFUSED.get(name, ((), ""))[0]):
            continue
        if name in known or (meant(name, known) and not exact):
            raise UsageError(f"{what} has no such option", where=where, got=name, fix=hint(name, own, beside))
        unheard.append(name)
    return unheard


def check_messages(messages: Sequence[Any]) -> None:
    """Refuse options inside of messages and their parts that would change the answer (``REFUSED_INSIDE``).

    Raises:
        UsageError: There is one.
    """
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        parts = content if isinstance(content, list | tuple) else ()
        inside = [(f"messages[{index}].content[{number}]", part) for number, part in enumerate(parts)]
        for where, data in [(f"messages[{index}]", message), *inside]:
            for name, (nothing, _) in REFUSED_INSIDE.items() if isinstance(data, Mapping) else ():
                if asks(data.get(name), nothing):
                    fix = hint(name, ("chat_template_kwargs", "image_tokens", "fps", "image"), {})
                    raise UsageError("this has no such option", where=where, got=name, fix=fix)


def _nearest(name: str) -> Iterator[str]:
    """Names of the same thing, and of what is nearest to it by the tables."""
    near = {**_REFUSED, **REFUSED_INSIDE}.get(name, ((), ""))[1]
    for one in (name, near):
        yield one
        for names in SAME:
            if one in names:
                yield from names
