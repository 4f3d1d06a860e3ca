"""Which graphs are known on this machine: written by this user's own exports, or run to an end before in a helper.

A hash in ``luvc.json`` says that a graph is the one its maker wrote, not that a runtime outlives it. What is remembered
lies in the user's cache folder, outside every bundle, by a hash of all that a plan's run depends on: graphs, weights,
and what of the manifest decides their inputs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json

from luvc_export.bundle import hashing
from luvc_export.bundle.folder import Bundle
from luvc_export.core.files.folders import cache_folder
from luvc_export.core.files.safe_files import write_whole
from luvc_export.errors import LuvcError

#: Stands for this user's own exports, where else the name of a back-end does.
OWN = "own"
_FOLDER = "graphs"
#: Keys of what could not be written there.
_this_process: set[str] = set()


def known(bundle: Bundle, plan: str | None, by: str, debug: bool = False) -> bool:
    """Whether the graphs of ``plan`` were written by this user (``OWN``), or ran here by what ``by`` names."""
    folder, key = hashing.memory(_FOLDER), _key(bundle, plan, by, debug)
    return key in _this_process or (folder is not None and (folder / key).is_file())


def remember(bundle: Bundle, plan: str | None, by: str, debug: bool = False) -> bool:
    """Keep in mind that they are; False where the cache cannot be written, and this process alone keeps it."""
    folder, key = hashing.memory(_FOLDER, make=True), _key(bundle, plan, by, debug)
    try:
        if folder is None:
            raise PermissionError
        write_whole(folder / key, "")
        hashing.forget_oldest(folder)
    except OSError:
        _this_process.add(key)
        return False
    return True


def place() -> str:
    """The folder of what is remembered, for people."""
    try:
        return str(cache_folder() / _FOLDER)
    except RuntimeError:
        return "the cache folder of a user without a home"


def remember_own(bundle: Bundle) -> None:
    """Keep in mind that this user's own export wrote all plans of ``bundle``."""
    for name, entry in bundle.manifest.plans.items():
        for debug in (False, True) if entry.decoder_debug else (False,):
            remember(bundle, name, OWN, debug)


def inherit(source: Bundle, derived: Bundle) -> None:
    """What this package made of a bundle of this user's own is this user's own; of a stranger's it is nobody's."""
    with contextlib.suppress(LuvcError):
        if all(known(source, name, OWN) for name in source.manifest.plans):
            remember_own(derived)


def _key(bundle: Bundle, plan: str | None, by: str, debug: bool) -> str:
    manifest, entry = bundle.manifest, bundle.entry(plan)
    graphs = [entry.vision, entry.decoder_debug if debug else entry.decoder]
    tensors = manifest.weights.tensors  # a quantised plan may read some too
    inside = {tensor.file for tensor in tensors.values()} if manifest.weights.mode == "copy" else set()
    inside |= {entry.quantised.weights} if entry.quantised else set()
    reads = {
        "by": by,
        "graphs": [manifest.files[name].sha256 for name in graphs if name],
        "files": {name: manifest.files[name].sha256 for name in sorted(inside) if name in manifest.files},
        "tensors": {name: one.sha256 for name, one in tensors.items()} if manifest.weights.mode == "reference" else {},
        "plan": entry.plan.to_json(),
        "size": entry.size,
        "image": dataclasses.asdict(manifest.image),
        "prompt": dataclasses.asdict(manifest.prompt),
        "decoder": dataclasses.asdict(manifest.decoder),
        "dtype": manifest.dtype,
    }
    if sets := [one for one in manifest.sets if one.plan == bundle.name_of(plan)]:
        reads["sets"] = [[manifest.files[name].sha256 for name in sorted(one.files)] for one in sets]
    if entry.caches is not None:
        reads["caches"] = entry.caches.precision
    return hashlib.sha256(json.dumps(reads, sort_keys=True).encode()).hexdigest()
