"""What was measured on this machine, remembered in the user's cache folder with all that it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luvc_export.core.files.folders import cache_folder, private_folder
from luvc_export.core.files.json_file import parse_json
from luvc_export.core.files.safe_files import read_own, write_whole
from luvc_export.errors import UsageError


def recall(kind: str, key: Mapping[str, Any]) -> dict[str, Any]:
    """What was kept of this kind for just this key; nothing where there is none, or another user could have written it.

    ``key`` is JSON: versions, CPU features and shapes that the measurement depends on.
    """
    file = _file(kind, key)
    try:
        data = parse_json(read_own(file) or b"{}", str(file), UsageError, "what was measured")
        return dict(data) if data["key"] == json.loads(json.dumps(key)) else {}
    except (UsageError, KeyError, TypeError, ValueError):
        return {}


def keep(kind: str, key: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Keep it; where the cache folder cannot be written, it is measured again."""
    file = _file(kind, key)
    with contextlib.suppress(OSError):
        private_folder(file.parent)
        write_whole(file, json.dumps({"key": key, **data}).encode())


def _file(kind: str, key: Mapping[str, Any]) -> Path:
    return cache_folder() / kind / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.json"
