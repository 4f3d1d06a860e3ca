"""Engines this machine was told to trust: the sha256 of what was built here, kept outside every bundle.

A hash in ``luvc.json`` says that an engine is the one its maker built, not that its maker is to be trusted. Naming
``--backend tensorrt`` says so for one run; building an engine here says so for that engine, and ``--backend auto``
takes only such.
"""

from __future__ import annotations

import os
from pathlib import Path

from luvc_export.bundle.manifest import EngineEntry
from luvc_export.core.files.folders import append, private_folder

_DIGEST = 64


def store() -> Path:
    """The list: ``$XDG_STATE_HOME/luvc-export/trusted-engines``, one sha256 a line."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "luvc-export" / "trusted-engines"


def trusted(entry: EngineEntry) -> bool:
    """Whether every file of ``entry`` that is code has a hash on the list."""
    known = _read()
    return all(part.record.sha256 in known for part in entry.code)


def trust(entry: EngineEntry) -> None:
    """Put the files of ``entry`` on the list."""
    path = store()
    private_folder(path.parent)
    new = [part.record.sha256 for part in entry.code if part.record.sha256 not in _read()]
    if new:
        append(path, "".join(f"{digest}\n" for digest in new))


def _read() -> frozenset[str]:
    try:
        text = store().read_text(encoding="ascii")
    except (OSError, ValueError):
        return frozenset()
    return frozenset(line for line in text.splitlines() if len(line) == _DIGEST)
