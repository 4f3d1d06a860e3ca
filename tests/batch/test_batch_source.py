"""Questions are streamed, numbered and found again at every shard; a folder's pictures become a list once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from luvc_export.batch import source as sources
from luvc_export.batch.source import Row, list_folder, open_source
from luvc_export.errors import UsageError


@given(
    lines=st.lists(st.sampled_from(["", "  ", "a", "bb\r", "ü" * 9, "x" * 40]), max_size=40), shard=st.integers(1, 9)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_once_in_order_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], shard: int
) -> None:
    """Lines longer than the limit are rows too, without their text."""
    monkeypatch.setattr(sources, "MAX_LINE", 30)
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    real = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not real:
        with pytest.raises(UsageError, match="holds no question"):
            open_source(path, shard)
        return
    source = open_source(path, shard)
    assert source.rows == len(real) and len(source.starts) == -(-len(real) // shard)
    rows = [row for index in range(len(source.starts)) for row in source.read(index)]
    assert [(row.number, row.where) for row in rows] == [(index, number) for index, (number, _) in enumerate(real)]
    assert [row.line.strip() for row in rows] == ["" if len(line) > 29 else line.strip() for _, line in real]


def test_a_file_that_became_shorter_is_said(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("a\nb\nc\n")
    source = open_source(path, 2)
    assert [*source.read(1)] == [Row(2, "c\n", 3)]
    path.write_text("a\n")
    with pytest.raises(UsageError, match="has changed"):
        list(source.read(1))
    with pytest.raises(UsageError, match="no such input"):
        open_source(tmp_path / "none.jsonl", 2)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    folder, listing = tmp_path / "pictures", tmp_path / "out" / "files.jsonl"
    (folder / "deep er").mkdir(parents=True)
    for name in ("a.png", "deep er/b.JPG", ".hidden.png", "notes.md"):
        Image.new("RGB", (8, 8)).save(folder / name, "PNG")
    (folder / "a.txt").write_text("its own?\n")
    (folder / "loop").symlink_to(folder)
    list_folder(folder, "everybody's?", listing)
    rows = sorted(map(json.loads, listing.read_text().splitlines()), key=lambda one: one["id"])
    assert rows == [
        {"id": "a.png", "image": "a.png", "prompt": "its own?"},
        {"id": "deep er/b.JPG", "image": "deep er/b.JPG", "prompt": "everybody's?"},
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no pictures"):
        list_folder(tmp_path / "empty", "?", tmp_path / "other.jsonl")
    assert not (tmp_path / "other.jsonl").exists()
