"""Where questions come from: a file of lines, or a folder whose pictures are listed into one first. Read as a stream.

Rows are numbered from 0. Only where each shard begins is remembered: 8 bytes a shard.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from luvc_export.core.files.folders import walk
from luvc_export.core.files.safe_files import open_regular, whole
from luvc_export.core.files.text import decoded, is_utf16, read_text
from luvc_export.errors import UsageError

#: Bytes of a line; what is longer is no question.
MAX_LINE = 2**22
#: The list of a folder's pictures, in the output folder.
LISTING = "files.jsonl"


@dataclass(frozen=True)
class Row:
    """A question as it stands in its file: its number from 0, its line, and the line's number from 1."""

    number: int
    line: str
    where: int


@dataclass(frozen=True)
class Source:
    """A file of questions.

    Args:
        path: The file.
        folder: What its paths are relative to.
        rows: Lines that are not empty.
        sha256: Of the file.
        shard: Rows of a shard.
        starts: For each shard, where its first line begins: bytes.
        lines: For each shard, the number of that line.
    """

    path: Path
    folder: Path
    rows: int
    sha256: str
    shard: int
    starts: array[int]
    lines: array[int]

    def read(self, index: int) -> Iterator[Row]:
        """Rows of a shard, one after another.

        Raises:
            UsageError: The file has become shorter.
        """
        yield from read_rows(self.path, self.starts[index], self.lines[index], index * self.shard, self.size(index))

    def size(self, index: int) -> int:
        """Rows of a shard."""
        return min(self.shard, self.rows - index * self.shard)


def read_rows(path: Path, start: int, where: int, first: int, count: int) -> Iterator[Row]:
    """``count`` rows of a file from byte ``start``, which is line ``where`` and row ``first``.

    Raises:
        UsageError: The file has become shorter.
    """
    yielded = 0
    with open_regular(path, links=True) as file:
        file.seek(start)
        while yielded < count:
            line = file.readline(MAX_LINE + 1)
            if not line:
                raise UsageError("the file of questions has changed", where=str(path), fix="begin a new --output")
            if len(line) > MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
                yield Row(first + yielded, "", where)
                yielded += 1
            elif line.strip():
                yield Row(first + yielded, decoded(line, "replace"), where)
                yielded += 1
            where += 1


def open_source(path: Path, shard: int, folder: Path | None = None) -> Source:
    """Count the rows of a file, hash it, and remember where shards begin.

    ``folder`` is what its paths are relative to; None for the file's own folder.

    Raises:
        UsageError: It is missing, in UTF-16, whose lines end otherwise, or holds no row.
    """
    starts, lines = array("q"), array("q")
    digest = hashlib.sha256()
    rows = offset = where = 0
    try:
        with open_regular(path, links=True) as file:
            while line := file.readline(MAX_LINE):
                if not offset and is_utf16(line):
                    fix = "save it as UTF-8 (PowerShell: Set-Content -Encoding utf8)"
                    raise UsageError("the questions are in UTF-16", where=f"--input {path}", expected="UTF-8", fix=fix)
                at, offset = offset, offset + len(line)
                digest.update(line)
                real = bool(line.strip())
                while len(line) == MAX_LINE and not line.endswith(b"\n"):
                    line, real = file.readline(MAX_LINE), True
                    digest.update(line)
                    offset += len(line)
                where += 1
                if real:
                    if rows % shard == 0:
                        starts.append(at)
                        lines.append(where)
                    rows += 1
    except FileNotFoundError as error:
        raise UsageError(
            "there is no such input", where=f"--input {path}", expected="a JSON Lines file, or a folder of pictures"
        ) from error
    if not rows:
        raise UsageError(
            "the input holds no question",
            where=f"--input {path}",
            expected='lines such as {"image": ..., "prompt": ...}',
        )
    return Source(path, folder or path.absolute().parent, rows, digest.hexdigest(), shard, starts, lines)


def list_folder(folder: Path, prompt: str | None, listing: Path) -> None:
    """Write the pictures below a folder as lines of cases, in the order in which the system lists them.

    A picture's prompt is in a text file of its name beside it, or ``prompt``; without either its line has none, and
    its row becomes an error.

    Raises:
        UsageError: There are none.
    """
    known = Image.registered_extensions()
    count = 0
    with whole(listing) as file:
        for name in walk(folder, links=True, hidden=False):
            if Path(name).suffix.lower() not in known:
                continue
            beside = (folder / name).with_suffix(".txt")
            text = read_text(beside, UsageError, "a prompt", errors="replace").strip() if beside.is_file() else prompt
            file.write(json.dumps({"id": name, "image": name, "prompt": text or ""}).encode() + b"\n")
            count += 1
        if not count:
            raise UsageError("the folder holds no pictures", where=f"--input {folder}", expected="such as .png or .jpg")
