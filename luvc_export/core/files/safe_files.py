"""Files in folders that others may have filled: opened if regular, made where nothing lies, put in place at once.

A name under which something is about to be written may be a link that a stranger planted there. So scratch files and
folders have random names and are made with ``O_EXCL``, what is opened is no link and no pipe, and what is finished
takes its place by a rename, which replaces a link instead of following it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from luvc_export.errors import UsageError

try:
    import fcntl
except ImportError:  # no POSIX locks: leftovers of a killed process stay
    fcntl = None  # type: ignore[assignment]

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
#: Opening a pipe without a writer would wait for one.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_SCRATCH = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.(part|old)")
#: Of Linux, renameat2(2).
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def open_regular(path: Path, links: bool = False) -> IO[bytes]:
    """Open a regular file for reading; ``links`` lets the last part of the path be a link to one.

    Raises:
        UsageError: It is a link, a folder, a pipe or a device.
        OSError: It is missing or closed to us.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _BINARY | _NO_WAIT | (0 if links else _NO_LINK))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and path.is_symlink():
            raise _irregular(path, "a link") from error
        if error.errno == errno.ENXIO:
            raise _irregular(path, "a socket or a device") from error
        raise
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        raise _irregular(path, "a folder" if stat.S_ISDIR(kind) else "a pipe or a device")
    return os.fdopen(handle, "rb")


def is_own(status: os.stat_result) -> bool:
    """Whether a file or folder is this user's, and nobody else may write it; true where no system says."""
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def read_own(path: Path) -> bytes | None:
    """A file that nobody but this user can have written, such as one of a cache folder; None for any other, or none.

    Its folder is this user's alone. Whether others may write the file counts where they may enter the folder.
    """
    try:
        folder = path.parent.lstat()
        if not stat.S_ISDIR(folder.st_mode) or not is_own(folder):
            return None
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            closed = hasattr(os, "geteuid") and status.st_uid == os.geteuid() and not folder.st_mode & 0o011
            return file.read() if closed or is_own(status) else None
    except (OSError, UsageError):
        return None


def create(path: Path) -> IO[bytes]:
    """Make a file where nothing lies and open it for writing and reading.

    Raises:
        FileExistsError: Something lies there, a link too.
    """
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY, 0o666), "w+b")


def write_new(path: Path, content: bytes | mmap.mmap) -> None:
    """Write a file where nothing lies.

    Raises:
        FileExistsError: Something lies there, a link too.
    """
    with create(path) as file:
        file.write(content)


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Give a file that becomes ``path`` when the block ends without an error: nobody reads half of it.

    Folders above are made. What lies at ``path`` is replaced; a link there is replaced, never followed.

    Raises:
        OSError: The system refuses; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clean_leftovers(path)
    scratch, file, held = _scratch_file(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        sync_folder(path.parent)
    finally:
        scratch.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


def _scratch_file(path: Path) -> tuple[Path, IO[bytes], int | None]:
    """A new file beside ``path``, open, and a handle that keeps it locked until it has its name."""
    while True:
        scratch = _scratch_name(path)
        file = create(scratch)
        held = os.dup(file.fileno()) if fcntl is not None else None
        if held is None or _is_still(scratch, held):
            return scratch, file, held
        file.close()
        os.close(held)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write ``path`` whole or not at all, see ``whole``."""
    with whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Make a folder beside ``target``, locked while the block runs and removed when it ends, if it is still there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    clean_leftovers(target)
    while True:
        folder = _scratch_name(target)
        folder.mkdir(mode=0o700)
        handle = _lock_folder(folder)
        if handle is None or _is_still(folder, handle):
            break
        os.close(handle)
    try:
        yield folder
    finally:
        remove(folder)
        if handle is not None:
            os.close(handle)


def temporary_folder(name: str) -> AbstractContextManager[Path]:
    """A scratch folder where the system keeps such; what killed processes left there under ``name`` is removed."""
    return scratch_folder(Path(tempfile.gettempdir()) / name)


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Lock ``folder`` while the block runs.

    Args:
        folder: Where this process writes.
        wait: Wait until no other process has it locked.

    Raises:
        UsageError: Another process has it locked, and ``wait`` is False.
    """
    handle = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        if handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise UsageError(
                    "another process is writing here", where=str(folder), fix="wait for it, or name another folder"
                ) from error
            except OSError:  # a file system without locks
                pass
        yield
    finally:
        if handle is not None:
            os.close(handle)


def put_in_place(scratch: Path, target: Path) -> None:
    """Make the folder ``scratch`` the folder ``target``, on disk when this returns; what was there is removed.

    Where the system can exchange two names at once there is no moment without ``target``. Elsewhere the old folder
    waits as ``.NAME.*.old``, locked while this process lives, and ``recover`` puts it back.

    Raises:
        OSError: The system refuses; ``target`` is what it was.
    """
    sync_tree(scratch)
    scratch.chmod(0o755)
    for _ in range(8):  # another writer may take or leave the place between two of these calls
        if not target.exists():
            try:
                scratch.rename(target)
                break
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
        with contextlib.suppress(FileNotFoundError):
            if exchange(scratch, target):
                remove(scratch)
                break
            if _by_two_renames(scratch, target):
                break
    else:
        raise OSError(errno.EBUSY, "another process keeps writing here", str(target))
    sync_folder(target.parent)


def _by_two_renames(scratch: Path, target: Path) -> bool:
    old = scratch.with_suffix(".old")
    handle = _lock_folder(target)
    try:
        target.rename(old)
        try:
            scratch.rename(target)
        except OSError as error:
            if error.errno in _TAKEN:  # another writer was faster: theirs is the next old one
                remove(old)
                return False
            old.rename(target)
            raise
        remove(old)
        return True
    finally:
        if handle is not None:
            os.close(handle)


def recover(target: Path) -> bool:
    """Put back a folder ``target`` that a killed process had moved aside; tell whether there was one."""
    if target.exists() or target.is_symlink():
        return False
    for path in _leftovers(target):
        handle = _free(path) if path.suffix == ".old" else None
        if handle is not None:
            with contextlib.suppress(OSError):
                path.rename(target)
            os.close(handle)
            return target.is_dir()
    return False


def clean_leftovers(target: Path) -> None:
    """Remove what processes that are gone left beside ``target`` while they wrote it."""
    recover(target)
    for path in _leftovers(target):
        handle = _free(path)
        if handle is not None:
            remove(path)
            os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_scratch(name: str) -> bool:
    """Whether a file or folder has a name as those have that are being written, or were when their process ended."""
    return _SCRATCH.fullmatch(name) is not None


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once (``renameat2``); False where the system or the file system cannot.

    Raises:
        OSError: It can, and refuses.
    """
    if not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:  # a C library older than glibc 2.28
        return False
    names = os.fsencode(one), os.fsencode(other)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def sync_tree(folder: Path) -> None:
    """Bring every file below ``folder``, and the folders, to disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            handle = os.open(os.path.join(place, name), os.O_RDONLY | _BINARY | _NO_LINK | _NO_WAIT)  # noqa: PTH118
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(place))


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to disk, where the system lets a folder be opened."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EBADF, errno.EROFS):
                raise
        finally:
            os.close(handle)


def _irregular(path: Path, got: str) -> UsageError:
    return UsageError("this is no regular file", where=str(path), got=got, expected="a regular file")


def _scratch_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")


def _leftovers(target: Path) -> list[Path]:
    try:
        names = sorted(path.name for path in target.parent.iterdir())
    except OSError:
        return []
    matches = [(name, _SCRATCH.fullmatch(name)) for name in names]
    return [target.with_name(name) for name, match in matches if match and match["name"] == target.name]


def _lock_folder(folder: Path) -> int | None:
    """Open and lock a folder: whoever finds it unlocked knows that its process is gone."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY | _NO_LINK)
    except OSError:
        return None
    _lock(handle)
    return handle


def _lock(handle: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks: its leftovers stay
            fcntl.flock(handle, fcntl.LOCK_EX)


def _is_still(path: Path, handle: int) -> bool:
    """Lock what was just made: False where another process took it for a leftover before it was locked."""
    _lock(handle)
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _free(path: Path) -> int | None:
    """An open handle of a leftover of ours that no process holds, locked; None for all others."""
    if fcntl is None:
        return None
    try:
        handle = os.open(path, os.O_RDONLY | _NO_LINK | _NO_WAIT)
    except OSError:
        return None
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            raise BlockingIOError
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
