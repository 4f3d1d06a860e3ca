"""Text files of people, whatever their editor: UTF-8, with or without a byte-order mark, or UTF-16 with one."""

from __future__ import annotations

import codecs
from pathlib import Path

from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import LuvcError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_utf16(data: bytes) -> bool:
    """Whether a text begins with the mark of UTF-16, which Windows' shells write where they redirect."""
    return data.startswith(_UTF16)


def decoded(data: bytes, errors: str = "strict", plain: str = "utf-8") -> str:
    """``data`` without its mark, which is no letter of the text: Windows' editors and shells write one.

    ``plain`` is the encoding of what has no mark.

    Raises:
        UnicodeDecodeError: It is neither ``plain`` nor marked; never with ``errors`` ``replace``.
    """
    marked = "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else plain
    return data.decode("utf-16" if is_utf16(data) else marked, errors)


def read_bytes(path: Path, error: type[LuvcError], what: str, most: int, too_large: str) -> bytes:
    """The bytes of a file, at most ``most``; a link to one is followed.

    Raises:
        LuvcError: ``error``, if ``what`` is no regular file or missing, or ``too_large`` says that of it.
    """
    try:
        with open_regular(path, links=True) as file:
            data = file.read(most + 1)
    except OSError as reason:
        raise error(f"{what} cannot be read", where=str(path), got=reason.strerror) from reason
    if len(data) > most:
        raise error(f"{what} {too_large}", where=str(path), expected=f"at most {most:,} bytes")
    return data


def read_text(path: Path, error: type[LuvcError], what: str, most: int = 2**28, errors: str = "strict") -> str:
    """The text of a file, whatever ends its lines brought to one form.

    Args:
        path: The file; a link to one is followed.
        error: What is raised; ``what`` is how it calls the file.
        what: Such as ``the corpus``.
        most: Bytes it may have.
        errors: ``replace`` for a text whatever the bytes are.

    Raises:
        LuvcError: ``error``, if it is no regular file or missing, too large, or no text.
    """
    data = read_bytes(path, error, what, most, "is too large")
    try:
        return decoded(data, errors).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as reason:
        raise error(
            f"{what} is no text", where=str(path), got=str(reason)[:80], expected="UTF-8", fix="save it as UTF-8"
        ) from reason
