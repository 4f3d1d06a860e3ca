"""The one walk through a folder, and the one way of copying out of it: regular files alone, no link is followed.

A folder that a stranger may have filled can hold links out of it, pipes that are waited for, and devices without an
end. Every verb that lists, copies or fills a folder does it here (``tests/test_writing.py``).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from luvc_export.core.files.json_file import read_json
from luvc_export.core.files.safe_files import create, open_regular, write_whole
from luvc_export.errors import UsageError, first_few

#: Folders inside folders that a walk goes down.
MAX_DEPTH = 64
#: What a folder was written with: names of its files, relative to it. ``luvc.json`` is that of a bundle.
WRITTEN = "written.json"
_MOST_BYTES = 2**26
_CHUNK = 2**20
#: What Python leaves beside programs that others run.
_LEFT_BY_PYTHON = "__pycache__"


def cache_folder() -> Path:
    """The user's cache folder of this package."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "luvc-export"


def walk(folder: Path, links: bool = False, hidden: bool = True) -> Iterator[str]:
    """Names of the regular files below ``folder``, relative to it with ``/`` between, as the system lists them.

    Args:
        folder: Where. Folders below it that are links are not entered.
        links: What is no regular file is left out, and a name may be a link to one (a user's own pictures). Else
            everything but files and folders is refused.
        hidden: Names that begin with a dot too.

    Raises:
        UsageError: There is a link, a pipe, a socket or a device, or the folders never end.
        OSError: A folder cannot be read.
    """
    waiting = [("", 0)]
    while waiting:
        inner, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise UsageError("folders inside folders without an end", where=str(folder), got=f"{inner[:200]}...")
        with os.scandir(folder / inner) as entries:
            for entry in entries:
                name = f"{inner}{entry.name}"
                if not hidden and entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{name}/", depth + 1))
                elif entry.is_file(follow_symlinks=links):
                    yield name
                elif not links:
                    raise _strange(folder / name)


def check_name(path: Path, what: str, fix: str | None = None) -> None:
    """Refuse a name that no file of this system can have, before something asks whether it is there.

    Args:
        path: The name.
        what: Whose it is, for the error.
        fix: How to mend it, for the error.

    Raises:
        UsageError: It is too long, or holds a NUL or half a character.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
            return
        got = f"{len(str(path)):,} characters" if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"{what} has a name that no file can have", where=repr(str(path)[:80]), got=got, fix=fix
        ) from error


def list_names(folder: Path) -> list[str]:
    """What lies in ``folder`` itself, sorted; of nothing, or of no folder, nothing."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []


def copy_file(source: Path, target: Path, links: bool = False) -> None:
    """Copy a regular file to where nothing lies; ``links`` lets ``source`` itself be a link to one.

    Raises:
        UsageError: ``source`` is a link, a folder, a pipe or a device.
        FileExistsError: Something lies at ``target``, a link too.
    """
    with open_regular(source, links) as file, create(target) as copy:
        shutil.copyfileobj(file, copy, _CHUNK)


def copy_tree(source: Path, target: Path) -> None:
    """Copy every file below ``source`` to ``target``, a folder of our own where nothing of these names lies.

    Raises what ``walk`` raises.
    """
    make_folder(target)
    for name in walk(source):
        make_folder((target / name).parent)
        copy_file(source / name, target / name)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are missing; one that the user named may be a link to a folder."""
    path.mkdir(parents=True, exist_ok=True)


def private_folder(path: Path) -> None:
    """Make a folder that only this user can read, and those above it, if they are missing."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)


def own_folder(path: Path) -> None:
    """Make a folder inside one that the user named, or take the one that is there.

    Raises:
        UsageError: What lies there is a link, or no folder.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    if path.is_symlink() or not path.is_dir():
        raise _strange(path)


def check_own_names(folder: Path) -> None:
    """Check a folder that a verb writes several things into, some of them by programs of others: no name is a link.

    Raises:
        UsageError: One is, or is a pipe, a socket or a device.
    """
    for name in list_names(folder):
        kind = (folder / name).lstat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise _strange(folder / name)


@contextmanager
def fresh(path: Path) -> Iterator[IO[bytes]]:
    """A new file at ``path`` that can be read while it is written, as a log; a link there goes, not what it leads to.

    Raises:
        OSError: A folder lies there, or the system refuses.
    """
    path.unlink(missing_ok=True)
    with create(path) as file:
        yield file


def append(path: Path, text: str) -> None:
    """Add lines to a list of this user's own, which nobody else can read.

    Raises:
        OSError: The system refuses; a link lies there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def note_written(folder: Path) -> None:
    """Write down what ``folder`` holds, so that it can be replaced by who wrote it and nothing else goes with it."""
    write_whole(folder / WRITTEN, json.dumps(sorted(walk(folder)), indent=1) + "\n")


def check_written(folder: Path) -> None:
    """Check that ``folder`` holds nothing but what ``note_written`` wrote down.

    Raises:
        UsageError: It holds something else, or nothing is written down.
    """
    listed = read_json(folder / WRITTEN, _MOST_BYTES, UsageError, "the list of what was written here")
    own = {WRITTEN, *(name for name in listed if isinstance(name, str))} if isinstance(listed, list) else {WRITTEN}
    unlisted = sorted(name for name in walk(folder) if name not in own and _LEFT_BY_PYTHON not in name.split("/"))
    if unlisted:
        raise UsageError(
            "this folder holds what this command did not write, so it is not replaced",
            where=str(folder),
            got=first_few(map(repr, unlisted)),
            fix="move these files away first",
        )


def _strange(path: Path) -> UsageError:
    kind = path.lstat().st_mode if path.is_symlink() or path.exists() else 0
    got = "a link" if stat.S_ISLNK(kind) else "a file" if stat.S_ISREG(kind) else "a pipe, a socket or a device"
    return UsageError(
        "only files and folders belong here",
        where=str(path),
        got=got,
        fix="remove it; if the folder is not your own, it may have been planted",
    )


@contextmanager
def writing_to(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give ``path`` to an OSError of this block that names no file: a full disk, a file that is too large.

    Raises:
        OSError: As it came, with ``filename``.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise
