"""What is searched: pictures of a folder and pages of PDFs, each known by a hash of what it shows.

PDFs are strangers' and their decoder is large: pages are drawn in a helper process (``runtime.confined``) that gets
bytes and no path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from luvc_export.core.files.folders import walk
from luvc_export.core.files.text import read_bytes
from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.confined.helpers import NICE, Helpers
from luvc_export.runtime.media.pictures import Picture

#: Bytes of a file, pages of a PDF, and pixels of the longer side of a page as it is drawn.
MAX_BYTES, MAX_PAGES, SIDE = 2**28, 10_000, 2048
#: Bytes and seconds of computing for one page.
MEMORY, SECONDS = 2**30, 16.0
_helpers = Helpers("luvc_export.search.pdf_task", MEMORY, SECONDS, most=1, nice=NICE)
PDF = ".pdf"


class Page(NamedTuple):
    """A page: a picture, the hash of its file or its pixels, its number from 1 in a PDF, and why it cannot be read."""

    picture: Picture
    sha256: str
    number: int | None = None
    error: UsageError | None = None


def list_files(pages: Path) -> dict[str, Path]:
    """Pictures and PDFs below a folder by their names in it, sorted; of a file, itself.

    Raises:
        UsageError: There are none.
    """
    names = [pages.name] if pages.is_file() else sorted(walk(pages, links=True, hidden=False)) if pages.is_dir() else []
    known = {*Image.registered_extensions(), PDF}
    files = {name: pages if pages.is_file() else pages / name for name in names if Path(name).suffix.lower() in known}
    if not files:
        expected = "a folder of pictures or PDFs, or one of them"
        got = "neither" if pages.exists() else "no such file or folder"
        raise UsageError("there are no pages to search", where=f"PAGES {pages}", got=got, expected=expected)
    return files


def read_file(path: Path) -> tuple[bytes, str]:
    """A file of pages, and its hash.

    Raises:
        UsageError: It cannot be read, or is too large.
    """
    data = read_bytes(path, UsageError, "this file of pages", MAX_BYTES, "is too large")
    return data, hashlib.sha256(data).hexdigest()


def pages_of(path: Path, data: bytes, sha256: str, only: int | None = None) -> Iterator[Page]:
    """Pages of a file, one after another; ``only`` is the number of one of a PDF's.

    Raises:
        UsageError: A PDF cannot be read, or takes too much time or memory; of a page of it, ``Page.error`` says so.
        MachineError: pypdfium2 is not installed, or no helper can be started here.
    """
    if path.suffix.lower() != PDF:
        yield Page(data, sha256)
        return
    if find_spec("pypdfium2") is None:
        fix = "pip install 'luvc-export[pdf]'; or save its pages as pictures"
        raise MachineError("PDFs are read by pypdfium2, which is not installed", where=str(path), fix=fix)
    count = int(_ask(path, data, sha256, None)[0]["pages"])
    if count > MAX_PAGES:
        expected = f"at most {MAX_PAGES:,}"
        raise UsageError("the PDF has too many pages", where=str(path), got=f"{count:,}", expected=expected)
    for number in range(1, count + 1) if only is None else [only]:
        try:
            reply, pixels = _ask(path, data, sha256, number - 1)
        except UsageError as error:
            yield Page(b"", "", number, error)
            continue
        size = tuple(reply["size"])
        digest = hashlib.sha256(f"{size}".encode() + pixels).hexdigest()
        yield Page(Image.frombytes("RGB", size, pixels), digest, number)


def _ask(path: Path, data: bytes, sha256: str, page: int | None) -> tuple[dict[str, Any], bytes]:
    request = {"sha256": sha256, "page": page, "side": SIDE, "where": str(path)}
    fix = "save its pages as pictures first"
    reply, pixels = _helpers.decode("the PDF", request, b"", fix)
    return _helpers.decode("the PDF", request, data, fix) if "lacks" in reply else (reply, pixels)
