"""Files that verbs write: refused before the work, whole or not at all, and the system's own refusals in words."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from luvc_export.cli.files import check_writable, write_whole
from luvc_export.demo import CHECKPOINT
from luvc_export.errors import UsageError

Cli = Callable[..., tuple[int, str, str]]


def test_what_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    check_writable(None, "--report")
    check_writable(tmp_path / "new" / "folder" / "page.html", "--report")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path, "it is a folder"), (tmp_path / "file" / "page.html", "file is no folder")):
        with pytest.raises(UsageError) as caught:
            check_writable(path, "--report")
        assert reason in str(caught.value) and f"--report {path}" in str(caught.value)


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match="is not writable"):
        check_writable(tmp_path / "page.html", "--report")


def test_a_file_is_written_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "page.html"
    write_whole(path, "é\n")
    write_whole(path, "second\n")
    assert path.read_bytes() == b"second\n"

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"third")
    assert path.read_text() == "second\n" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/etc/secret"), 2, "where: /etc/secret"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "where: the disk"),
        (OSError(errno.EIO, "Input/output error"), 1, "internal error: OSError"),
    ],
)
def test_what_the_system_refuses_is_said(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: OSError, code: int, said: str
) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("luvc_export.export.checkpoint.open_checkpoint", refuse)
    got, out, err = cli("plan", CHECKPOINT)
    assert got == code and said in err and "fix:" in err and "Traceback" not in out + err


def test_a_plan_is_refused_before_it_is_made(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luvc_export.export.checkpoint.open_checkpoint", lambda *a, **k: 1 / 0)
    code, _, err = cli("plan", CHECKPOINT, "-o", tmp_path)
    assert code == 2 and "it is a folder" in err
