"""How much memory is free, and whether a bundle's weights fit, known before anything is loaded."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luvc_export.errors import MachineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What is wrong where weights do not fit: unloading others may help.
SHORT, SHORT_ON_GPU = "there is not enough memory", "there is not enough memory on the GPU"
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_CGROUP_V2 = Path("/sys/fs/cgroup")
_CGROUP_V1 = Path("/sys/fs/cgroup/memory")
#: Of ``mallopt`` (malloc.h).
_MMAP_THRESHOLD = -3


def available_bytes() -> int | None:
    """Bytes a process can still allocate: the kernel's estimate, or what its container leaves; None if unknown."""
    limits = [value for value in (_meminfo(), _cgroup()) if value is not None]
    return min(limits) if limits else None


def peak_bytes() -> int | None:
    """Most memory this process has held at once, mapped files included; None if unknown."""
    return _own("VmHWM:")


def anonymous_bytes() -> int | None:
    """Memory this process holds now that no file backs; None if unknown."""
    return _own("RssAnon:")


def give_back() -> None:
    """Give the system what was freed but is still held for later: glibc keeps blocks as large as weights."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def give_back_blocks_of(size: int) -> None:
    """Have blocks of so many bytes and more given back when they are freed: by itself glibc keeps ever larger ones."""
    if sys.platform == "linux" and (option := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        option(_MMAP_THRESHOLD, size)


def leave_to_files(arrays: Iterable[NDArray[Any]]) -> int:
    """Hold no longer what ``arrays`` map of files; returns how many bytes. Whoever reads them again gets them again.

    An array that is a copy, in memory of its own, stays as it is.
    """
    import numpy as np  # doctor asks for the bytes that are free, and needs no numpy

    advice, count = getattr(mmap, "MADV_DONTNEED", None), 0
    for array in arrays:
        mapped = getattr(array, "_mmap", None)
        if advice is None or not isinstance(mapped, mmap.mmap) or not array.nbytes:
            continue
        begin = array.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
        first = begin // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(advice, first, begin + array.nbytes - first)
        count += array.nbytes
    return count


def require(needed: int, what: str, detail: str, fix: str) -> None:
    """Refuse what cannot fit.

    Raises:
        MachineError: ``needed`` bytes are more than are available; names both figures.
    """
    free = available_bytes()
    if free is not None and needed > free:
        raise MachineError(
            SHORT,
            where=what,
            got=f"{gib(free)} available",
            expected=f"{gib(needed)} ({detail})",
            fix=fix,
        )


def gib(count: float) -> str:
    """Bytes for people, in GiB."""
    return f"{count / 2**30:.2f} GiB"


def _own(key: str) -> int | None:
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux
    return None


def _meminfo() -> int | None:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux, or not readable: no estimate, so no refusal
    return None


def _cgroup() -> int | None:
    """What the container's limit leaves; cached files that the kernel would give back count as free."""
    for root, limit, usage, key in (
        (_CGROUP_V2, "memory.max", "memory.current", "inactive_file"),
        (_CGROUP_V1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            top = (root / limit).read_text(encoding="ascii").strip()
            if top == "max":
                return None
            used = int((root / usage).read_text(encoding="ascii"))
            stat = dict(line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines())
            return max(0, int(top) - used + int(stat.get(key, 0)))
        except (OSError, ValueError):
            continue
    return None
