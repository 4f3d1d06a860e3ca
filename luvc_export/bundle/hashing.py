"""Hashes of files, and the memory of them: a large file is hashed whole once, and again when it is another by then.

What was hashed is remembered in the user's cache folder, outside the bundle, by the file's device, inode, size and both
times. A file's change time cannot be set back by who writes to it, as its modification time can.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from luvc_export.bundle.manifest import FileRecord
from luvc_export.core.files.folders import cache_folder, list_names, private_folder
from luvc_export.core.files.safe_files import create, is_own, open_regular, write_whole
from luvc_export.errors import BundleError

#: Files up to this size are hashed at every load; of larger ones it is remembered that they were.
REMEMBERED_BYTES = 64 * 2**20
#: Told how many bytes more were hashed.
OnBytes = Callable[[int], None]

_CHUNK = 2**20
_HASHES = "hashes"
#: Times of files advance in steps of the kernel's clock, 10 ms at most: a change right after another shows no new time.
_SETTLED_NS = 20_000_000
#: Files that are remembered, and what of each: a checkpoint's file may serve several bundles.
_MOST_TRIES = 8
_MOST_REMEMBERED, _MOST_FINDINGS = 4096, 64


@dataclass(frozen=True)
class Identity:
    """What tells a file from another, and from itself with other contents."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """From ``os.stat`` or ``os.fstat``."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def settled(file: IO[bytes]) -> Identity:
    """Identity of an open file, read so late that any later change shows in it."""
    identity = Identity.of(os.fstat(file.fileno()))
    if 0 <= time.time_ns() - max(identity.mtime_ns, identity.ctime_ns) < _SETTLED_NS:
        time.sleep(_SETTLED_NS / 1e9)
        identity = Identity.of(os.fstat(file.fileno()))
    return identity


class WatchedFile:
    """A file that was hashed and that something else reads: by its name, or mapped into memory.

    Args:
        path: The file.
        identity: What it was when it was hashed.
        again: Hashes it once more and returns its identity, or raises.
    """

    def __init__(self, path: Path, identity: Identity, again: Callable[[], Identity]) -> None:
        self.path, self._identity, self._again = path, identity, again

    def check(self) -> None:
        """Check that the file is still the one that was hashed; where a time has changed, hash it again.

        Raises:
            BundleError: It is another, or has changed.
        """
        try:
            now = Identity.of(self.path.stat())
        except OSError:
            raise self._error("no such file any more") from None
        if now == self._identity:
            return
        if (now.device, now.inode, now.size) != (self._identity.device, self._identity.inode, self._identity.size):
            raise self._error("another file, or another size, than was hashed when it was loaded")
        self._identity = self._again()  # a new link to it changes its time too

    def _error(self, got: str) -> BundleError:
        return BundleError(
            "a file has changed while it was in use",
            where=str(self.path),
            got=got,
            fix="load the bundle again; if it is refused then, copy or export it again",
        )


def verify(path: Path, expected: FileRecord, full: bool = False, on_bytes: OnBytes = lambda count: None) -> Identity:
    """Check a file against its record, all of it.

    Args:
        path: The file.
        expected: Its hash and size.
        full: Hash it even where it is remembered that this was done.
        on_bytes: Told how many bytes more were hashed.

    Returns:
        The identity of the file that was hashed.

    Raises:
        BundleError: It is missing, no regular file, or another.
    """
    with _opened(path) as file:
        identity = settled(file)
        if identity.size != expected.bytes:
            raise changed(path, f"{identity.size} bytes", f"{expected.bytes} bytes")
        large = identity.size > REMEMBERED_BYTES
        if large and not full and known(identity, expected.sha256):
            return identity
        for _ in range(_MOST_TRIES):  # a new link to a file changes its time too
            file.seek(0)
            digest = _digest(file, on_bytes)
            if digest != expected.sha256:
                raise changed(path, f"sha256 {digest[:16]}...", f"sha256 {expected.sha256[:16]}...")
            before, identity = identity, settled(file)
            if before == identity:
                break
        else:
            raise changed(path, "a file that changes while it is read", "one that does not")
        if large:
            remember(identity, expected.sha256)
    return identity


def read(path: Path, expected: FileRecord) -> bytes:
    """The bytes of a file, the very ones that were hashed.

    Raises:
        BundleError: It is missing, no regular file, or another.
    """
    with _opened(path) as file:
        data = file.read(expected.bytes + 1) if expected.bytes >= 0 else b""
    if len(data) != expected.bytes:
        got = f"{len(data)} bytes" if len(data) < expected.bytes else f"more than {expected.bytes} bytes"
        raise changed(path, got, f"{expected.bytes} bytes")
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected.sha256:
        raise changed(path, f"sha256 {digest[:16]}...", f"sha256 {expected.sha256[:16]}...")
    return data


def record(path: Path) -> FileRecord:
    """Hash a file of one's own for the manifest."""
    with open_regular(path) as file:
        large = os.fstat(file.fileno()).st_size > REMEMBERED_BYTES
        before = settled(file) if large else None
        digest, identity = _digest(file), Identity.of(os.fstat(file.fileno()))
    if identity == before:
        remember(identity, digest)
    return FileRecord(digest, identity.size)


def changed(path: Path, got: str, expected: str) -> BundleError:
    """The error for a file that is not the one its record speaks of."""
    return BundleError(
        "a file of the bundle has changed since it was exported",
        where=str(path),
        got=got,
        expected=expected,
        fix="copy the bundle again, or export it again",
    )


def known(identity: Identity, what: str) -> bool:
    """Whether it is remembered that the file of this identity was found to be ``what``."""
    folder = memory(_HASHES)
    if folder is None:
        return False
    try:
        return what in (folder / _key(identity)).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return False


def remember(identity: Identity, what: str) -> None:
    """Keep in mind that the file of this identity was found to be ``what``, where the cache can be written."""
    folder = memory(_HASHES, make=True)
    if folder is None:
        return
    with contextlib.suppress(OSError):
        path = folder / _key(identity)
        lines = path.read_text(encoding="utf-8").splitlines()[-_MOST_FINDINGS:] if path.is_file() else []
        write_whole(path, "\n".join([*(line for line in lines if line != what), what, ""]))
        forget_oldest(folder)


def forget_oldest(folder: Path) -> None:
    """Keep a folder of what is remembered from growing without end."""
    paths = [folder / name for name in list_names(folder)]
    if len(paths) > _MOST_REMEMBERED:
        for oldest in sorted(paths, key=lambda one: one.lstat().st_mtime_ns)[:256]:
            oldest.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Hard link where the file system has them, else a copy; what is remembered of a file goes with it.

    Raises:
        BundleError: ``source`` is no regular file.
    """
    with open_regular(source) as file:
        before = Identity.of(os.fstat(file.fileno()))
        try:
            os.link(source, target, follow_symlinks=False)
        except (OSError, NotImplementedError):
            with create(target) as copy:
                shutil.copyfileobj(file, copy, _CHUNK)
            return
        after = Identity.of(os.fstat(file.fileno()))
        linked = Identity.of(target.lstat())
    if linked != after:
        raise changed(source, "another file than a moment ago", "one that does not change")
    if dataclasses.replace(after, ctime_ns=before.ctime_ns) == before:
        _carry(before, after)


def memory(name: str, make: bool = False) -> Path | None:
    """The folder of what is remembered under ``name``; None where it is not this user's alone."""
    try:
        folder = cache_folder() / name
        if make:
            private_folder(folder)
        status = folder.lstat()
    except (OSError, RuntimeError):  # no home folder
        return None
    return folder if stat.S_ISDIR(status.st_mode) and is_own(status) else None


def _opened(path: Path) -> IO[bytes]:
    try:
        return open_regular(path)
    except OSError as error:
        fix = "export or copy the bundle again"
        raise BundleError("a file of the bundle is missing", where=str(path), got=error.strerror, fix=fix) from error


def _carry(before: Identity, after: Identity) -> None:
    folder = memory(_HASHES)
    if folder is not None:
        with contextlib.suppress(OSError):
            write_whole(folder / _key(after), (folder / _key(before)).read_bytes())


def _key(identity: Identity) -> str:
    return hashlib.sha256(str(identity).encode()).hexdigest()


def _digest(file: IO[bytes], on_bytes: OnBytes = lambda count: None) -> str:
    digest: Any = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:count])
        on_bytes(count)
    return str(digest.hexdigest())
