"""Files and folders that verbs read and write: refused before the work; written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from luvc_export.core.files import safe_files
from luvc_export.core.files.folders import check_name, writing_to
from luvc_export.errors import UsageError

_CHECKPOINT = "a folder with config.json and safetensors, a hub id OWNER/NAME, or demo"


def check_writable(path: Path | None, flag: str) -> None:
    """Refuse a file that cannot be written, before the work it would end; None is fine.

    Raises:
        UsageError: It is a folder, or the nearest folder above it is none or not writable.
    """
    if path is None:
        return
    check_name(path, flag)
    reason = "it is a folder" if path.is_dir() else _closed(path.absolute().parent)
    if reason:
        raise UsageError("the file cannot be written", where=f"{flag} {path}", got=reason, fix="name another file")


def check_folder(path: Path | None, flag: str) -> None:
    """Refuse a folder that cannot be made or written into, before the work it would end; None is fine.

    Raises:
        UsageError: It, or the nearest above it that exists, is no folder or not writable.
    """
    if path is not None:
        check_name(path, flag)
    reason = None if path is None else "it is a file" if path.is_file() else _closed(path.absolute())
    if reason:
        raise UsageError("the folder cannot be written", where=f"{flag} {path}", got=reason, fix="name another folder")


def check_model(model: str, revision: str | None = None) -> None:
    """Refuse what lies here and is no checkpoint folder; names of the hub pass, and ``demo`` does.

    Raises:
        UsageError: It is a file, or a bundle; or a folder, which has no ``revision``.
    """
    from luvc_export.demo import checkpoint_named

    path = Path(checkpoint_named(model))
    check_name(path / "config.json", "the model")
    if path.is_file():
        known = any((path.parent / name).is_file() for name in ("config.json", "luvc.json"))
        raise UsageError(
            "this is a file, and a model is a folder",
            where=model,
            expected=_CHECKPOINT,
            fix=f"give the folder: {path.parent}" if known else None,
        )
    if (path / "luvc.json").is_file() and not (path / "config.json").is_file():
        raise UsageError(
            "this is a bundle, not a checkpoint",
            where=model,
            got="luvc.json and no config.json",
            expected=_CHECKPOINT,
            fix=f"luvc-export inspect {model} names the checkpoint it was exported from",
        )
    if revision is not None and path.is_dir():
        raise UsageError("a folder has no revisions", where=f"--revision {revision}", got=model, fix="leave it out")


def _closed(folder: Path) -> str | None:
    """Why nothing can be written in ``folder``, which may be missing; None if it can."""
    above = next(one for one in (folder, *folder.parents) if one.exists())
    if not above.is_dir():
        return f"{above} is no folder"
    return None if os.access(above, os.W_OK) else f"{above} is not writable"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write ``path`` whole or not at all, see ``safe_files.whole``.

    Raises:
        OSError: The system refuses, with the path; nothing is left behind.
    """
    with writing_to(path):
        safe_files.write_whole(path, content)
