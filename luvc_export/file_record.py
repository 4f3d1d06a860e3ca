"""What a manifest says of a file: enough to see that its bytes are the ones meant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileRecord:
    """Hash and size of a bundle file. Large files also carry the hash of their first and last MiB and a time stamp."""

    sha256: str
    bytes: int
    edges_sha256: str | None = None
    mtime_ns: int | None = None
