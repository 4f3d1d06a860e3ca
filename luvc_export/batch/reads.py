"""What a batch reads of a bundle: its plan, those that stand in for it, and their files; nothing of other plans."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luvc_export.bundle.folder import MANIFEST
from luvc_export.bundle.plans import variants
from luvc_export.bundle.replacing import read_manifest
from luvc_export.core.files.json_file import parse_json
from luvc_export.errors import BundleError
from luvc_export.runtime.prompt.request import largest_canvas

#: Fields of ``luvc.json`` that say nothing of how a question is answered, or of every plan; those of use follow.
_NOT_ALL = ("default_plan", "engines", "files", "plans", "sets", "tools", "verified", "schema_version")


def sha256_read(folder: Path, plan: str | None, engines: bool) -> str:
    """SHA-256 of what answers of ``plan`` depend on, as ``luvc.json`` writes it.

    Variants of it (for other sizes, videos, tiles, fewer units) belong to it: a question is routed to them. Other plans
    and their files do not, but for the image sizes they bring: pictures are opened as large as any plan has use for.

    Args:
        folder: Of a bundle.
        plan: Name of a plan; None for the default.
        engines: Engines of the plan may answer.

    Raises:
        BundleError: Its ``luvc.json`` is damaged.
    """
    manifest, path = read_manifest(folder), folder / MANIFEST
    name = plan or manifest.default_plan
    data: dict[str, Any] = parse_json(path.read_bytes(), str(path), BundleError, MANIFEST)
    answering = variants.answering(manifest, name) if name in manifest.plans else set[str]()
    own = {key: entry for key, entry in data["plans"].items() if key in answering}
    others = {word for key, entry in data["plans"].items() if key not in own for word in _texts(entry)}
    sets = [entry for entry in data.get("sets", ()) if entry["plan"] in own]
    named = {word for entry in (*own.values(), *sets) for word in _texts(entry)}
    files = {
        file: record["sha256"]
        for file, record in data["files"].items()
        if file in named or not (file in others or file.endswith((".onnx", ".safetensors")))  # scorers are in graphs
    }
    built = [entry for entry in data.get("engines", ()) if entry["plan"] in own] if engines else []
    common = {key: value for key, value in data.items() if key not in _NOT_ALL}
    read = {**common, "plan": name, "plans": own, "files": files, "engines": built}
    read["canvas"] = largest_canvas(manifest)
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def sha256_manifest(folder: Path) -> str:
    """SHA-256 of all of ``luvc.json``: what folders that 0.1.0 began remember."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
