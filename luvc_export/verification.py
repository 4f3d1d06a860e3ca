"""Whether a device's sign-off still speaks of the bytes that are there."""

from __future__ import annotations

from luvc_export.manifest import Manifest
from luvc_export.manifest_engines import EngineEntry, Verified


def changed(signed: Verified, manifest: Manifest) -> tuple[str, ...]:
    """Files ``signed`` speaks of that ``manifest`` no longer names with that hash; none: the sign-off stands."""
    code = {part.file: part.record for entry in manifest.engines for part in entry.code}
    now = {name: record.sha256 for name, record in {**manifest.files, **code}.items()}
    return tuple(name for name, digest in signed.files.items() if now.get(name) != digest)


def standing(entry: EngineEntry, manifest: Manifest) -> Verified | None:
    """The newest sign-off that stands for these very engines."""
    own = {entry.vision.file, entry.decoder.file}
    found = [item for item in manifest.verified if own <= set(item.files) and not changed(item, manifest)]
    return max(found, key=lambda item: item.date, default=None)
