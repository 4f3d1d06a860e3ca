"""``pack.json``: what the installer of a pack needs to know beside ``luvc.json``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.manifest import FileRecord, Footprint
from luvc_export.core.files.json_file import read_json
from luvc_export.core.files.json_records import from_json_data
from luvc_export.core.files.safe_files import write_whole
from luvc_export.engines.options import BuildOptions
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import BundleError
from luvc_export.packing.wheels import Requirement

RECORD, SCRIPT, BOOTSTRAP = "pack.json", "install-and-verify", "bootstrap.py"
#: Folders: wheels as they came, what they unpack to on the device, and stored cases.
WHEELS, SITE, CASES = "wheels", "site", "cases"
PLUGINS = "libluvc_plugins.so"
#: Written by every run, whether it passed or not.
REPORT = "verify.json"
#: Taken away when a run begins and written last, where it passed: its last line.
VERDICT = "verdict"
SCHEMA_VERSION = 1
_RECORD_LIMIT = 16 * 2**20

#: ``task`` and ``file``: questions somebody wrote; ``generated``: pictures and prompts that only compare numbers.
CasesKind = Literal["task", "file", "generated"]


@dataclass(frozen=True)
class Pack:
    """The whole of ``pack.json``.

    Args:
        target: Name of the target.
        plan: Name of the bundle's plan.
        precision: Arithmetic of the graphs.
        reference_dtype: Arithmetic the stored outputs were made in.
        kv: Form of the cache.
        text_capacity: Text tokens of a conversation.
        images: Images of a conversation.
        workspace_mib: Scratch memory of one layer while building.
        builder_optimization_level: As of trtexec.
        weight_bytes: Of the vision and the decoder graph, in their precision.
        footprint: Predicted memory.
        python: Python of the target's system: 3.10.
        requirements: What that Python must find.
        wheels: Files in ``wheels``, the runtime's own first.
        cases: What kind of questions are stored.
        files: Everything that ``luvc.json`` does not list, by path from the pack.
        tools: Versions that made it.
        plugins: Library with the plugins that the graphs call; None where they call none.
        batch: Conversations side by side at most.
        adapters: Different adapters of one call; 0 without slots.
        adapter_rank: Largest rank of one.
        logits: Positions of a call that are read: of many vectors one of each text token.
        seal: sha256 of the rest, and of ``luvc.json`` but for what the board writes there. It shows damage, not who
            made the pack. None in packs of 0.1.0.
    """

    target: str
    plan: str
    precision: Literal["fp32", "fp16", "bf16"]
    reference_dtype: Literal["fp32", "fp16", "bf16"]
    kv: Literal["concat", "inplace", "append"]
    text_capacity: int
    images: int
    workspace_mib: int
    builder_optimization_level: int
    weight_bytes: tuple[int, int]
    footprint: Footprint
    python: str
    requirements: tuple[Requirement, ...]
    wheels: tuple[str, ...]
    cases: CasesKind
    files: dict[str, FileRecord]
    tools: dict[str, str]
    plugins: str | None = None
    batch: int = 1
    adapters: int = 0
    adapter_rank: int = 0
    logits: int = 1
    seal: str | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def capacity(self) -> Capacity:
        """The largest call of the engines."""
        sizes = self.text_capacity, self.images, self.batch, self.logits
        return Capacity(*sizes, self.adapters, self.adapter_rank)

    def options(self, folder: Path) -> BuildOptions:
        """How TensorRT is told to build; ``folder`` is where the pack lies."""
        plugins = folder / self.plugins if self.plugins else None
        return BuildOptions(self.workspace_mib, self.builder_optimization_level, dynamic_plugins=plugins)


def write(folder: Path, pack: Pack) -> None:
    """Write ``pack.json``, sealed with the ``luvc.json`` that lies beside it."""
    data = json.loads(json.dumps(dataclasses.asdict(pack)))
    write_whole(folder / RECORD, json.dumps({**data, "seal": _seal(folder, data)}, indent=1) + "\n")


def _seal(folder: Path, data: dict[str, Any]) -> str:
    """Hash of what no other hash covers; engines and sign-offs of ``luvc.json`` are written on the board."""
    manifest = read_json(folder / bundles.MANIFEST, _RECORD_LIMIT, BundleError, "the manifest")
    if not isinstance(manifest, dict):
        raise BundleError("the manifest is not a JSON object", where=str(folder / bundles.MANIFEST))
    sealed = {name: value for name, value in manifest.items() if name not in ("engines", "verified")}
    own = {name: value for name, value in data.items() if name != "seal"}
    return hashlib.sha256(json.dumps([own, sealed], sort_keys=True).encode()).hexdigest()


def read(folder: Path) -> Pack:
    """Read ``pack.json`` and check every file it lists, hashed whole.

    Raises:
        BundleError: It is missing or wrong, or a file is missing or has changed.
    """
    path = folder / RECORD
    data = read_json(path, _RECORD_LIMIT, BundleError, "this is not a pack: pack.json")
    pack = from_json_data(Pack, data, str(path))
    if pack.seal is not None and pack.seal != _seal(folder, data):
        raise BundleError(
            "pack.json or luvc.json has changed since the pack was made",
            where=str(folder),
            got="another seal",
            fix="copy the pack again, or make it again",
        )
    for name, expected in pack.files.items():
        parts = Path(name).parts
        if Path(name).is_absolute() or ".." in parts or len(parts) > 2:
            raise BundleError("a file name in the pack leaves its folder", where=str(path), got=repr(name))
        file = folder / name
        if any((folder / part).is_symlink() for part in (parts[0], name)):
            raise BundleError("a file of the pack is a link", where=str(file), fix="copy the pack again")
        if not file.is_file():
            raise BundleError("a file of the pack is missing", where=str(file), fix="copy the pack again")
        actual = bundles.record(file)
        if actual.sha256 != expected.sha256:
            raise BundleError(
                "a file of the pack has changed since it was made",
                where=str(file),
                got=f"{actual.bytes} bytes, sha256 {actual.sha256[:16]}...",
                expected=f"{expected.bytes} bytes, sha256 {expected.sha256[:16]}...",
                fix="copy the pack again, or make it again",
            )
    return pack
