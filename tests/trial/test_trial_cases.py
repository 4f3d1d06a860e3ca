"""Pictures of a trial are drawn once, and carry no right answer: a model that knows none would fail a gate for that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luvc_export.calibration.cases import read_jsonl
from luvc_export.errors import MachineError
from luvc_export.trial import cases


def test_cases_are_read_as_parity_reads_them_and_know_no_answer(tmp_path: Path) -> None:
    listed = cases.write(tmp_path / "cases")
    found = list(read_jsonl(listed))
    assert len(found) == cases.QUESTIONS and all(case.answer is None for case in found)
    before = listed.stat().st_mtime_ns
    assert cases.write(tmp_path / "cases") == listed and listed.stat().st_mtime_ns == before


def test_without_fonts_they_are_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> Any:
        raise MachineError("no fonts")

    monkeypatch.setattr("luvc_export.demo.questions.cases", none)
    lines = cases.write(tmp_path).read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["prompt"] for line in lines} == {"What do you see?"}
