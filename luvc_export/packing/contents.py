"""What goes into a pack beside its cases: the script, weights, the manifest, wheels."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import luvc_export
from luvc_export.bundle import folder as bundles
from luvc_export.bundle import hashing
from luvc_export.bundle.codes import Rewrite
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graph_rules import check_graph
from luvc_export.bundle.graphs import read_graph
from luvc_export.bundle.manifest import Manifest, PlanEntry, Weights
from luvc_export.core.files.folders import copy_file, list_names
from luvc_export.core.target import Precision, Target
from luvc_export.engines import codes
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import BundleError, MachineError, Progress, UsageError
from luvc_export.packing import wheels
from luvc_export.version import VERSION


def given_wheels(folder: Path | None) -> list[Path]:
    """The wheels in the folder a user named, by name.

    Raises:
        UsageError: There is none, or a file has no wheel's name.
    """
    if folder is None:
        return []
    paths = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if not paths:
        got = "no wheel in it" if folder.is_dir() else "no such folder"
        raise UsageError("there are no wheels", where=f"--wheels {folder}", got=got, expected="*.whl")
    for path in paths:
        wheels.parse(path.name)
    return paths


def copy_files(
    bundle: Bundle, folder: Path, graphs: list[str], progress: Progress, rewrites: Sequence[Rewrite] = ()
) -> None:
    """Copy what ``graphs`` and the runtime need, from the bundle or its checkpoint: weights, the tokenizer's files.

    Weights that are written for the target (``rewrites``) are written.

    Raises:
        BundleError: The weights lie in a folder below the checkpoint's.
        MachineError: The disk is too small.
    """
    plans = bundle.manifest.plans.values()
    read = {file: read_graph(bundle, file) for each in plans for file in (each.vision, each.decoder)}
    source = next((graph.folder for graph in read.values() if graph.folder != bundle.folder), bundle.folder)
    targets = [folder / graph for graph in graphs]
    named = sorted({one.location for path in targets for one in check_graph(path.read_bytes(), str(path))})
    anew = {place.file for item in rewrites for place in item.places.values()}
    named = [name for name in named if name not in anew]
    if nested := [name for name in named if Path(name).name != name]:
        raise BundleError(
            "weights lie in a folder of their own, a pack is flat",
            where=str(source),
            got=nested[0],
            fix="export again with --weights copy",
        )
    own = {file for name in bundle.manifest.plans for file in bundle.manifest.graphs_of(name)}
    own |= {tensor.location for graph in read.values() for tensor in graph.outside}
    paths = [source / name if (source / name).is_file() else bundle.folder / name for name in named]
    paths += [bundle.folder / name for name in bundle.manifest.files if name not in own]
    total, done = sum(path.stat().st_size for path in paths), 0
    if total > shutil.disk_usage(folder).free:
        raise MachineError(
            "the disk is too small for the pack", where=str(folder), got=f"{total / 2**20:,.0f} MiB needed"
        )
    for path in paths:
        progress("copying weights", done / max(1, total))
        copy_file(path, folder / path.name, links=source != bundle.folder)
        done += path.stat().st_size
    codes.write(source, folder, rewrites)
    for graph in read.values():
        graph.check_files()  # what was hashed is what was copied
    progress("copying weights", 1.0)


def write_manifest(
    folder: Path, manifest: Manifest, plan: str, entry: PlanEntry, precision: Precision, capacity: Capacity
) -> Bundle:
    """Write that a pack is a bundle of one plan, whose graphs are the target's; give it."""
    files = {path.name: bundles.record(path) for path in (folder / name for name in list_names(folder))}
    for name in files.keys() & manifest.files.keys():
        if files[name].sha256 != manifest.files[name].sha256:
            raise hashing.changed(folder / name, "other bytes while it was copied", "those that luvc.json names")
    computed = entry.precision if entry.quantised else precision
    alone = replace(entry, decoder_debug=None, variant_of=None, precision=computed)
    changed = replace(
        manifest,
        dtype=precision,
        prompt=replace(manifest.prompt, text_capacity=capacity.text),
        default_plan=plan,
        plans={plan: alone},
        weights=Weights("copy", stored=manifest.weights.stored),
        files=files,
        engines=(),
        verified=(),
        sets=(),
    )
    bundles.write_manifest(folder, changed)
    return Bundle(folder, changed)


#: The oldest time a zip file can hold: two wheels of the same sources are the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: luvc-export\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(folder: Path) -> Path:
    """Write the wheel into ``folder`` and return its path."""
    info = f"luvc_export-{VERSION}.dist-info"
    path = folder / f"luvc_export-{VERSION}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: luvc-export\nVersion: {VERSION}\nRequires-Python: >=3.10\n"
    files = {**sources(), f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": _WHEEL.encode()}
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def sources() -> dict[str, bytes]:
    """Every Python source, of the linked folders of a checkout too, and tables beside modules, by name in the wheel."""
    root = Path(luvc_export.__file__).parent
    files = {}
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = Path(folder, name)
            if path.suffix == ".py" or (path.suffix == ".json" and path.with_name("__init__.py").is_file()):
                files[f"{root.name}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return dict(sorted(files.items()))


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


#: ``e_machine`` of ELF files (elf.h: EM_X86_64, EM_AARCH64), at byte 18.
_MACHINES = {62: "x86_64", 183: "aarch64"}
_HEADER = 20


def check_plugins(library: Path | None, target: Target) -> None:
    """Check that the plugin library, if there is one, is for the target's machine.

    Raises:
        UsageError: It is no shared library, or one for another machine.
    """
    if library is None:
        return
    with library.open("rb") as file:
        head = file.read(_HEADER)
    whole = len(head) == _HEADER and head[:4] == b"\x7fELF"
    machine = _MACHINES.get(int.from_bytes(head[18:20], "little"), "another machine") if whole else "no ELF file"
    if machine != target.device.machine:
        raise UsageError(
            "this plugin library is not for the board",
            where=f"--dynamicPlugins {library}",
            got=machine,
            expected=str(target.device.machine),
            fix="build it on the board with its TensorRT (plugins/README.md) and bring it here, or leave the option "
            "out: engines build without plugins",
        )
