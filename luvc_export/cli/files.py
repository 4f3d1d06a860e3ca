"""Files that verbs write: refused before the work where they cannot be, and whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from luvc_export.errors import UsageError


def check_writable(path: Path | None, flag: str) -> None:
    """Refuse a file that cannot be written, before the work it would end; None is fine.

    Args:
        path: File to write; folders above it may be missing.
        flag: Option that named it.

    Raises:
        UsageError: It is a folder, or the nearest folder above it is none or not writable.
    """
    if path is None:
        return
    above = next(folder for folder in path.absolute().parents if folder.exists())
    reason = None
    if path.is_dir():
        reason = "it is a folder"
    elif not above.is_dir():
        reason = f"{above} is no folder"
    elif not os.access(above, os.W_OK):
        reason = f"{above} is not writable"
    if reason:
        raise UsageError("the file cannot be written", where=f"{flag} {path}", got=reason, fix="name another file")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write through a temporary name beside ``path``, so that nobody reads half; missing folders are made.

    Raises:
        OSError: The system refuses; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
