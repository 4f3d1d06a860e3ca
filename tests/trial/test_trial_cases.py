"""Pictures of a trial are the same each time, and carry no right answer: a model that knows none would fail a gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luvc_export.calibration.cases import read_jsonl
from luvc_export.errors import MachineError, UsageError
from luvc_export.trial import steps


def test_cases_are_read_as_parity_reads_them_and_know_no_answer(tmp_path: Path) -> None:
    listed = steps.write_cases(tmp_path / "cases")
    read = list(read_jsonl(listed))
    assert len(read) == steps.QUESTIONS and all(case.answer is None for case in read)
    before = {path.name: path.read_bytes() for path in listed.parent.iterdir()}
    assert steps.write_cases(tmp_path / "cases") == listed
    assert {path.name: path.read_bytes() for path in listed.parent.iterdir()} == before, "the same each time"


def test_a_list_that_lay_there_names_nobody_else_s_pictures(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "cases.jsonl").write_text('{"image": "/home/user/passport.png", "prompt": "What is it?"}')
    assert "passport" not in steps.write_cases(tmp_path / "cases").read_text(encoding="utf-8")
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    with pytest.raises(UsageError, match="only files and folders belong here"):
        steps.write_cases(tmp_path / "link")
    assert not [*(tmp_path / "home").iterdir()]


def test_without_fonts_they_are_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> Any:
        raise MachineError("no fonts")

    monkeypatch.setattr("luvc_export.demo.questions.cases", none)
    lines = steps.write_cases(tmp_path).read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["prompt"] for line in lines} == {"What do you see?"}
