"""Files that verbs write: refused before the work, whole or not at all, and the system's own refusals in words."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_words import Cli

from luvc_export.cli.files import check_folder, check_model, check_writable, write_whole
from luvc_export.demo import CHECKPOINT
from luvc_export.errors import UsageError


def test_what_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    check_writable(None, "--report")
    check_writable(tmp_path / "new" / "folder" / "page.html", "--report")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path, "it is a folder"), (tmp_path / "file" / "page.html", "file is no folder")):
        with pytest.raises(UsageError) as caught:
            check_writable(path, "--report")
        assert reason in str(caught.value) and f"--report {path}" in str(caught.value)


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    for path in (None, tmp_path, tmp_path / "new" / "folder"):
        check_folder(path, "--output")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path / "file", "it is a file"), (tmp_path / "file" / "new", "file is no folder")):
        with pytest.raises(UsageError) as caught:
            check_folder(path, "--output")
        assert reason in str(caught.value) and f"--output {path}" in str(caught.value)


@pytest.mark.parametrize("check", [check_writable, check_folder])
def test_a_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[Path, str], None]
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match="is not writable"):
        check(tmp_path / "new", "--report")


@pytest.mark.parametrize(
    "words",
    [
        ("export", CHECKPOINT, "-o", "file/new"),
        ("plan", CHECKPOINT, "--data", "glyph", "--save", "file"),
        ("demo", "-o", "file"),
        ("ablate", "-o", "file"),
        ("make-random", "smolvlm-256m", "-o", "file/new"),
        ("pack", "bundle", "--target", "jetson-thor", "-o", "file/new"),
        ("calibrate", "bundle", "--precision", "int8", "--data", "glyph", "-o", "file/new"),
    ],
)
def test_verbs_refuse_such_a_folder_before_the_work(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*words)
    assert code == 2 and "the folder cannot be written" in err and f"{words[-1]}\n" in err
    assert "Traceback" not in out + err and [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("checkpoint", "refusal"),
    [
        ("model/config.json", ("this is a file, and a model is a folder", "fix: give the folder: model")),
        ("bundle/luvc.json", ("this is a file, and a model is a folder", "fix: give the folder: bundle")),
        ("notes", ("this is a file, and a model is a folder", "a folder with config.json")),
        ("bundle", ("this is a bundle, not a checkpoint", "luvc-export inspect bundle names the checkpoint")),
    ],
)
def test_what_is_no_checkpoint_is_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str, refusal: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model/config.json", "bundle/luvc.json", "notes"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    check_model("model")
    check_model("owner/name", "main")
    with pytest.raises(UsageError) as caught:
        check_model(checkpoint)
    assert all(text in str(caught.value) for text in refusal)
    code, _, err = cli("ablate", "-o", "new", "--model", checkpoint)
    assert code == 2 and refusal[0] in err
    with pytest.raises(UsageError, match="a folder has no revisions"):
        check_model("model", "main")


def test_a_file_is_written_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "page.html"
    write_whole(path, "é\n")
    write_whole(path, "second\n")
    assert path.read_bytes() == b"second\n"

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"third")
    assert path.read_text() == "second\n" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "code", "refusal"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/etc/secret"), 2, "where: /etc/secret"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "where: the disk"),
        (OSError(errno.EIO, "Input/output error"), 70, "internal error: OSError"),
    ],
)
def test_what_the_system_refuses_is_said(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: OSError, code: int, refusal: str
) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("luvc_export.export.checkpoint.open_checkpoint", refuse)
    got, out, err = cli("plan", CHECKPOINT)
    assert got == code and refusal in err and "fix:" in err and "Traceback" not in out + err


def test_a_plan_is_refused_before_it_is_made(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luvc_export.export.checkpoint.open_checkpoint", lambda *a, **k: 1 / 0)
    code, _, err = cli("plan", CHECKPOINT, "-o", tmp_path)
    assert code == 2 and "it is a folder" in err
