"""Variables of the chat template that a caller gives: the same answer through every door, and another than without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from luvc_export.batch.answerer import Answerer
from luvc_export.batch.job import BatchJob
from luvc_export.batch.source import Row
from luvc_export.bundle.folder import Bundle
from luvc_export.cli import app
from luvc_export.errors import UsageError
from luvc_export.ray.actor import ask_of
from luvc_export.runtime.generation.sampling import read_template_values
from luvc_export.runtime.session import Session

#: The demo's template reads this one.
VALUES = {"add_generation_prompt": False}
OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6}


@pytest.fixture(scope="module")
def session(short_bundle: Bundle) -> Session:
    return Session(short_bundle, "cpu", "thirds", 1)


def test_every_door_gives_them_to_the_template(session: Session, short_bundle: Bundle, tmp_path: Path) -> None:
    plain = session.generate(None, "Hello", **OPTIONS)
    own = session.generate(None, "Hello", chat_template_kwargs=VALUES, **OPTIONS)
    assert own.token_ids != plain.token_ids
    rows = session.generate_batch([{"prompt": "Hello", "chat_template_kwargs": VALUES}, {"prompt": "Hello"}], **OPTIONS)
    assert [row.token_ids for row in rows] == [own.token_ids, plain.token_ids]
    job = BatchJob(short_bundle.folder, tmp_path, tmp_path, plan="thirds", backend="cpu", threads=1, sampling=OPTIONS)
    job = BatchJob.from_json({**job.to_json(), "chat_template_kwargs": VALUES})
    answerer = Answerer.of(job)
    ((_, answer),) = answerer.answer_lines([Row(0, json.dumps({"prompt": "Hello"}), 1)], tmp_path, tmp_path)
    assert answer.text == own.text and answer.error is None
    assert [one.text for one in answerer.answer([ask_of({"prompt": "Hello"})])] == [own.text], "as a row of a Dataset"
    assert "chat_template_kwargs" in job.identity()
    asked = ["run", str(short_bundle.folder), "--prompt", "Hello", "--plan", "thirds", "--backend", "cpu", "--json"]
    asked += ["--max-new-tokens", "1", "--chat-template-kwargs", json.dumps(VALUES)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0 and json.loads(result.stdout)["token_ids"] == list(own.token_ids[:1])


@pytest.mark.parametrize("wrong", [["add_generation_prompt"], {"a b": 1}, {1: 2}, "x"])
def test_what_is_no_mapping_of_names_is_refused(session: Session, wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"variables of the chat template are given by name\n(.|\n)*enable_thinking"):
        session.generate(None, "Hello", chat_template_kwargs=wrong)


def test_the_templates_own_values_are_not_the_callers(session: Session) -> None:
    with pytest.raises(UsageError, match=r"own values cannot be given\n(.|\n)*messages"):
        session.generate(None, "Hello", chat_template_kwargs={"messages": []})


def test_bytes_of_a_shell_that_are_no_text_are_refused() -> None:
    with pytest.raises(UsageError, match="not JSON"):
        read_template_values('{"a": "\udcff"}')
