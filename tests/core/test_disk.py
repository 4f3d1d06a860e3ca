"""A full disk names the path that was written, wherever it happens."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from luvc_export import export_bundle, make_plan
from luvc_export.cli import failures
from luvc_export.cli.files import write_whole
from luvc_export.core.files import safe_files
from luvc_export.core.files.folders import writing_to
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE


def full(*arguments: Any, **named: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_only_errors_without_a_name_get_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, writing_to(tmp_path):
        full()
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError) as other, writing_to("elsewhere"):
        (tmp_path / "gone").read_bytes()
    assert other.value.filename == str(tmp_path / "gone")


def test_a_file_and_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_files, "create", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_whole(tmp_path / "page.html", "text")
    assert f"where: {tmp_path / 'page.html'}" in str(failures.explained(caught.value))
    plan = make_plan(str(CHECKPOINT), "none", image_size=IMAGE_SIZE)
    monkeypatch.setattr("luvc_export.export.weights.skeleton", full)
    with pytest.raises(OSError, match="No space") as caught:
        export_bundle(str(CHECKPOINT), tmp_path / "bundle", plan, image_size=IMAGE_SIZE)
    text = str(failures.explained(caught.value))
    assert f"where: {tmp_path / 'bundle'}" in text and "the disk" not in text and list(tmp_path.iterdir()) == []
