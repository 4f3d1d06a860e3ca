"""docs/serving.md lists the tests of other suites that fail as the runs are held to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
LISTS = sorted((ROOT / "benchmarks" / "serving" / "official").glob("*_standard.json"))


@pytest.mark.parametrize("listed", LISTS, ids=lambda file: file.stem)
def test_the_page_has_what_the_list_has(listed: Path) -> None:
    suite = json.loads(listed.read_text(encoding="utf-8"))
    assert suite["tests"].keys() == suite["errors"].keys()
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| {suite['suite']} | ")][1:]
    assert rows == [
        f"| {suite['suite']} | {reason} | {', '.join(f'`{name}`' for name in names)} |"
        for reason, names in suite["tests"].items()
    ], "written by benchmarks/serving/clients.sh ENVIRONMENTS .venv/bin/python --page docs/serving.md"


@pytest.mark.parametrize(
    "library", ["openai", "instructor", "pydantic-ai", "openai-agents", "litellm", "langchain", "llama-index"]
)
def test_each_library_has_every_conversation_or_says_why_not(library: str) -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| {library}, ") and "conversations" in line]
    assert rows and all("| 4 of 4 " in row or "the library refuses (" in row for row in rows), rows
