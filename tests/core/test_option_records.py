"""Options as fields: what commands ask for, what they make of it, and what Python's keywords are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from luvc_export.cli import VERBS, application
from luvc_export.cli.options import grouped, stated
from luvc_export.core.options import asked_of, keywords_of, option, settled, tagged
from luvc_export.core.options import stated as changed
from luvc_export.errors import UsageError
from luvc_export.runtime.session_options import SessionOptions


def doubled(text: str | None) -> int | None:
    return None if text is None else 2 * int(text)


@dataclass(frozen=True, kw_only=True)
class Base:
    verify: bool = option(False, "Hash again.")


@dataclass(frozen=True)
class Record(Base):
    place: Path = option(..., "A place.", argument=True)
    words: tuple[str, ...] = option((), "Words; repeat.", "-w", "--word", tags=("many",))
    size: int | None = option(None, "Half of it.", written=str | None, read=doubled)
    colour: str = option("red", "A colour.", choices=("red", "blue"), verbs=("show",), keyword="tint")
    hidden: int = 3


def shown(verb: str, *words: str, base: Record | None = None) -> tuple[Any, str]:
    """The record that ``verb`` gets of a command line, and what stood on standard output."""
    app, records = typer.Typer(), list[Any]()

    def command(context: typer.Context, *, record: Record) -> None:
        print(" ".join(each.flag for each in stated(context, Record)))
        records.append(record)

    command.__name__, command.__annotations__ = verb, {"context": typer.Context, "record": Record}
    app.command(verb)(grouped(command))
    result = CliRunner().invoke(app, [*words], catch_exceptions=True)
    if isinstance(result.exception, UsageError):
        raise result.exception
    return records[0], result.output


def test_a_command_line_becomes_a_record() -> None:
    record, output = shown("show", "here", "-w", "a", "--word", "b", "--size", "4", "--colour", "blue", "--verify")
    assert record == Record(Path("here"), ("a", "b"), 8, "blue", verify=True) and record.hidden == 3
    assert output.split() == ["--place", "--word", "--size", "--colour", "--verify"]
    assert shown("show", "here")[0] == Record(Path("here"))


def test_a_verb_asks_for_what_belongs_to_it_and_a_base_stands_behind() -> None:
    assert [each.name for each in asked_of(Record, "show")] == ["place", "words", "size", "colour", "verify"]
    assert [each.name for each in asked_of(Record, "other")] == ["place", "words", "size", "verify"]
    assert [each.default for each in asked_of(Record, "other", Record(Path(), verify=True))][-1] is True
    with pytest.raises(UsageError, match=r"unknown choice(.|\n)*--colour(.|\n)*'blu'(.|\n)*blue"):
        shown("show", "here", "--colour", "blu")


def test_python_has_the_same_fields_by_name() -> None:
    assert settled(Record, Record(Path("a")), {"size": 3}, "Record") == Record(Path("a"), size=3)
    with pytest.raises(UsageError, match=r"there is no such option(.|\n)*sise(.|\n)*did you mean .?size"):
        settled(Record, Record(Path("a")), {"sise": 3}, "Record")
    assert keywords_of(Record)["tint"] == "colour" and tagged(Record, "many") == {"words"}
    assert changed(Record(Path("a"), colour="blue"), ("colour", "size")) == {"colour": "blue"}


def test_values_that_are_said_come_by_name() -> None:
    calls: list[dict[str, Any]] = []

    @grouped
    def show(*, asked: Annotated[dict[str, Any], Record]) -> None:
        calls.append(asked)

    show(place=None, word=["x"], size="0", colour=None, verify=False)
    assert calls == [{"words": ("x",), "size": 0}]


def test_a_session_s_options_are_texts_and_back() -> None:
    asked = SessionOptions(threads=2, speculate="lookup:4", plan="even", verify=True, max_pixels=9)
    assert SessionOptions.of_texts({**asked.texts(), "bundle": "elsewhere"}) == asked
    assert SessionOptions().texts() == {"backend": "auto"}
    for wrong in ({"max_pixels": 0}, {"speculate": "guess"}, {"lora": ["noname"]}):
        with pytest.raises(UsageError):
            SessionOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_alone_is_imported_and_the_others_keep_their_purpose(verb: str) -> None:
    alone, whole = application(verb), application()
    for one, other in zip(alone.registered_commands, whole.registered_commands, strict=True):
        purpose = (other.callback.__doc__ or "").strip().split("\n")[0] if other.callback else ""
        assert one.name == other.name and (one.help == purpose or one.callback is other.callback)
