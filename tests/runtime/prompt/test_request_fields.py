"""Every field of the server's table at the other doors: a row of a batch, Triton, a row of a Dataset, ``Session``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luvc_export.batch.answerer import OF_ALL_ROWS
from luvc_export.errors import UsageError
from luvc_export.ray import actor
from luvc_export.runtime.engine.generate_batch import Ask
from luvc_export.runtime.generation.sampling import OPTIONS
from luvc_export.runtime.prompt import case_lines, request_fields
from luvc_export.runtime.prompt.case_lines import parse_case
from luvc_export.runtime.prompt.request_fields import HARMLESS, REFUSED, REFUSED_INSIDE
from luvc_export.runtime.session import Session
from luvc_export.serve.http.app import TABLE
from luvc_export.serve.vectors.doors import DOORS
from luvc_export.triton.inputs import question_from, unheard_parameters

#: Of what answers in text: vectors have fields of their own (tests/serve/http_api/test_embeddings.py).
ANSWERING = [row for row in TABLE if row["path"] not in DOORS]
#: Each field once; of a name that both paths have, what chat completions say.
FIELDS = {row["name"]: row for row in reversed(ANSWERING) if "." not in row["name"]}
ASKED = {"never": "heard"}
Door = Callable[[str, Any], Any]


def row(name: str, value: Any) -> Any:
    return parse_case(json.dumps({"prompt": "x", name: value}), "f: line 1", Path(), OF_ALL_ROWS)


def triton(name: str, value: Any) -> Any:
    return unheard_parameters(json.dumps({name: value}))


def column(name: str, value: Any) -> Any:
    return actor.check_columns({name: [None, value]})


DOORS: dict[str, tuple[Door, frozenset[str]]] = {
    "row": (row, frozenset(case_lines._FIELDS)),
    "triton": (triton, frozenset()),
    "column": (column, frozenset(actor.COLUMNS)),
}


def check(door: str, name: str) -> None:
    """A field that the door has is its own; what is harmless passes; any other is refused by name."""
    send, own = DOORS[door]
    if name in own:
        return
    send(name, None)
    for nothing in FIELDS[name].get("asks_for_nothing", ()) if name in REFUSED else ():
        send(name, nothing)
    if FIELDS[name]["is"] == "harmless":
        send(name, "x")
        return
    with pytest.raises(UsageError, match=rf"has no such option\n(.*\n)?  got: {name}\n") as refusal:
        send(name, ASKED)
    assert refusal.value.fix and (name not in OF_ALL_ROWS or door != "row" or "of the whole batch" in refusal.value.fix)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_honoured_refused_by_name_or_harmless(door: str, name: str) -> None:
    check(door, name)


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - {*OPTIONS, *Ask.__annotations__, "stream"}))
def test_session_has_it_or_names_it(session: Session, name: str) -> None:
    """What Python takes by name has no harmless others."""
    with pytest.raises(UsageError, match=rf"unknown sampling option\n(.*\n)?  got: {name}\n") as refusal:
        session.generate(None, "a", **{name: ASKED})
    assert refusal.value.fix
    with pytest.raises(UsageError, match=rf"unknown part of a question\n.*requests\[0\]\n  got: {name}\n"):
        session.generate_batch([{"prompt": "a", name: ASKED}])  # type: ignore[misc]


@pytest.mark.parametrize("door", DOORS)
def test_a_name_that_no_table_holds_shows(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: a field that the server honours, and that nobody told the other doors of."""
    monkeypatch.setattr(request_fields, "KNOWN", request_fields.KNOWN - {"echo"})
    if door == "row":  # which takes nothing that it does not know
        with pytest.raises(UsageError, match=r"got: unknown \['echo'\]"):
            row("echo", True)
    else:
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            check(door, "echo")


@pytest.mark.parametrize(
    ("send", "name", "fix"),
    [
        (row, "max_tokens", "see max_new_tokens of the whole batch"),
        (row, "n_predict", "see max_new_tokens of the whole batch"),
        (row, "temperature", "see temperature of the whole batch"),
        (row, "mm_processor_kwargs", "see image_tokens of the whole batch"),
        (row, "model", "see adapter"),
        (row, "messages", "see prompt"),
        (row, "images", "see image"),
        (row, "promt", "did you mean prompt?"),
        (row, "tools", "leave it out"),
        (column, "max_tokens", "see max_new_tokens of the whole batch"),
        (column, "images", "see image"),
        (triton, "temperature", "see temperature of the inputs"),
        (triton, "max_completion_tokens", "see max_tokens of the inputs"),
        (triton, "guided_json", "see json_schema of the inputs"),
        (triton, "min_p", "leave it out"),
        (triton, "temprature", "leave it out"),
    ],
)
def test_the_nearest_of_the_door_is_named(send: Door, name: str, fix: str) -> None:
    with pytest.raises(UsageError) as refusal:
        send(name, ASKED)
    assert refusal.value.got == name and str(refusal.value.fix).endswith(fix)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("max_tokens", "see max_new_tokens"),
        ("n_predict", "see max_new_tokens"),
        ("guided_json", "see json_schema"),
        ("response_format", "see json_schema"),
        ("stop_sequences", "see stop"),
        ("mm_processor_kwargs", "see image_tokens of generate"),
        ("temperatur", "did you mean temperature?"),
        ("tools", "leave it out"),
    ],
)
def test_session_names_the_nearest(session: Session, name: str, fix: str) -> None:
    with pytest.raises(UsageError) as refusal:
        session.generate(None, "a", **{name: 1})
    assert str(refusal.value.fix).endswith(fix)
    with pytest.raises(UsageError, match="see max_new_tokens of generate_batch, which is of all rows"):
        session.generate_batch([{"prompt": "a", "max_tokens": 1}])  # type: ignore[typeddict-unknown-key]


@pytest.mark.parametrize("name", REFUSED_INSIDE)
def test_options_inside_of_messages_are_refused(session: Session, name: str) -> None:
    """Of ``Session``, whose messages Ray's are, and of Triton."""
    part = {"type": "text", "text": "a", name: 4}
    for place, message in (("", {"content": "a", name: 4}), (".content[0]", {"content": [part]})):
        chat = [{"role": "user", **message}]
        words = rf"this has no such option\n  where: messages\[0\]{place}\n  got: {name}\n".replace(".con", r"\.con")
        with pytest.raises(UsageError, match=words.replace("[0]\\n", r"\[0\]\n")):
            session.generate(messages=chat)
        with pytest.raises(UsageError, match=f"got: {name}"):
            question_from(lambda tensor, chat=chat: [json.dumps(chat)] if tensor == "messages" else None)  # type: ignore[misc]


def test_what_nobody_has_heard_of_passes_where_others_may_be_told_by_it() -> None:
    assert unheard_parameters(json.dumps({"zzz": 1, "triton_x": True, "user": "me"})) == ["zzz"]
    assert unheard_parameters("") == []
    column("label", "a cat")
    column("prompts", "as good as misspelt, and somebody's own")
    with pytest.raises(UsageError, match=r"got: unknown \['label'\]"):
        row("label", "a cat")


def test_options_of_actors_are_known() -> None:
    for name, fix in (("temperature", "see temperature of sampling"), ("max_tokens", "see max_new_tokens of sampling"),
                      ("adapter", "see lora"), ("treads", "did you mean threads?")):  # fmt: skip
        with pytest.raises(UsageError, match=rf"Answerer has no such option\n(.*\n)?  got: {name}\n.*{fix[:-1]}"):
            actor.check_options({"threads": 1, name: 1})
    assert set(HARMLESS) & set(REFUSED) == set()
