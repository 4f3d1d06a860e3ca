"""Whether engines load in a library and on a device: known from ``luvc.json`` before their bytes are given to either.

A plan loads in exactly the version that built it, all numbers alike ("version numbers must match (in major, minor,
patch, and build)", TensorRT release properties, developer.nvidia.com/docs/drive/drive-os/7.0.3), unless it was built
version-compatible: then in later versions of the same or the next major (docs.nvidia.com, TensorRT, version
compatibility). It runs on the compute capability it was built for; ``ampere+`` plans run on 8.0 and later, Jetson
excepted (docs.nvidia.com, TensorRT, hardware compatibility).

A hash in ``luvc.json`` says that an engine is the one its maker built, not that its maker is to be trusted. Naming
``--backend tensorrt`` says so for one run; building an engine here says so for that engine, whose sha256 is kept
outside every bundle, and ``--backend auto`` takes only such.
"""

from __future__ import annotations

import os
from pathlib import Path

from luvc_export.bundle.manifest import EngineEntry, Manifest, Verified
from luvc_export.core.files.folders import append, private_folder
from luvc_export.errors import MachineError

_AMPERE = (8, 0)


def check_library(entry: EngineEntry, backend: str, version: str) -> None:
    """Check that library ``backend`` of ``version`` (its ``__version__``) loads these engines.

    Raises:
        MachineError: It is another library or version.
    """
    built, have = _numbers(entry.version), _numbers(version)
    shared = min(len(built), len(have))  # __version__ of 10.3 leaves the build number out
    same = built[:shared] == have[:shared]
    later = entry.version_compatible and have >= built and have[0] - built[0] <= 1
    if entry.backend != backend or not (same or later):
        raise MachineError(
            "these engines were built by another version of TensorRT",
            where=f"engines of plan {entry.plan!r} for {entry.target}",
            got=f"{backend} {version}",
            expected=f"{entry.backend} {entry.version}" + (" or later" if entry.version_compatible else ""),
            fix=f"luvc-export build BUNDLE --target {entry.target}, with the version installed here",
        )


def check_device(entry: EngineEntry, compute_capability: str, integrated: bool = False) -> None:
    """Check that these engines run on a GPU of ``compute_capability``; ``integrated`` is a Jetson's.

    Raises:
        MachineError: They were built for another.
    """
    same = compute_capability in entry.compute_capabilities
    ampere = entry.hardware_compatibility == "ampere+" and not integrated and _numbers(compute_capability) >= _AMPERE
    if not (same or ampere):
        raise MachineError(
            "these engines were built for another kind of GPU",
            where=f"engines of plan {entry.plan!r} for {entry.target}",
            got=f"compute capability {compute_capability}",
            expected=", ".join(entry.compute_capabilities),
            fix="luvc-export targets, and luvc-export build BUNDLE --target for this one",
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def changed(signed: Verified, manifest: Manifest) -> tuple[str, ...]:
    """Files ``signed`` speaks of that ``manifest`` no longer names with that hash; none: the sign-off stands."""
    code = {part.file: part.record for entry in manifest.engines for part in entry.code}
    now = {name: record.sha256 for name, record in {**manifest.files, **code}.items()}
    return tuple(name for name, digest in signed.files.items() if now.get(name) != digest)


def newest_sign_off(entry: EngineEntry, manifest: Manifest) -> Verified | None:
    """The newest sign-off of these very engines none of whose files have changed since; None without one."""
    own = {entry.vision.file, entry.decoder.file}
    valid = [item for item in manifest.verified if own <= set(item.files) and not changed(item, manifest)]
    return max(valid, key=lambda item: item.date, default=None)


_DIGEST = 64


def store() -> Path:
    """The list: ``$XDG_STATE_HOME/luvc-export/trusted-engines``, one sha256 a line."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "luvc-export" / "trusted-engines"


def trusted(entry: EngineEntry) -> bool:
    """Whether every file of ``entry`` that is code has a hash on the list."""
    known = _trusted_digests()
    return all(part.record.sha256 in known for part in entry.code)


def trust(entry: EngineEntry) -> None:
    """Put the files of ``entry`` on the list."""
    path = store()
    private_folder(path.parent)
    new = [part.record.sha256 for part in entry.code if part.record.sha256 not in _trusted_digests()]
    if new:
        append(path, "".join(f"{digest}\n" for digest in new))


def _trusted_digests() -> frozenset[str]:
    try:
        text = store().read_text(encoding="ascii")
    except (OSError, ValueError):
        return frozenset()
    return frozenset(line for line in text.splitlines() if len(line) == _DIGEST)
