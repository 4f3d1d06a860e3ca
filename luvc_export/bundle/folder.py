"""A bundle on disk: read with its hashes checked before anything is parsed, written whole or not at all.

Bundles are untrusted. Files named by ``luvc.json`` must lie flat in the folder; only a declared checkpoint folder
(weights mode ``reference``) may lie elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from luvc_export.bundle.manifest import EngineEntry, EngineFile, FileRecord, Manifest, PlanEntry, PluginLibrary
from luvc_export.errors import BundleError, UsageError, did_you_mean

MANIFEST = "luvc.json"

#: Files up to this size are hashed at every load; larger ones by size, time stamp and their first and last MiB.
FULL_HASH_BYTES = 64 * 2**20
_EDGE = 2**20
_MANIFEST_LIMIT = 64 * 2**20


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its folder and manifest."""

    folder: Path
    manifest: Manifest

    def entry(self, plan: str | None = None) -> PlanEntry:
        """The graphs of ``plan``, or of the default plan.

        Raises:
            UsageError: The bundle has no plan of that name.
        """
        name = plan or self.manifest.default_plan
        if name not in self.manifest.plans:
            raise UsageError(
                "the bundle has no such plan",
                where=str(self.folder),
                got=repr(name),
                expected=did_you_mean(name, self.manifest.plans),
            )
        return self.manifest.plans[name]

    def sizes_of(self, plan: str | None = None) -> dict[tuple[int, int], str]:
        """Image sizes (height, width) that ``plan`` was exported for, and the plan's name for each, its own first.

        A plan ``NAME@HxW`` is ``NAME`` for pictures of another size.
        """
        self.entry(plan)
        name, own = plan or self.manifest.default_plan, self.manifest.image.size
        other = re.compile(re.escape(name) + r"@\d+x\d+")
        named = {key: entry for key, entry in self.manifest.plans.items() if other.fullmatch(key)}
        return {self.entry(name).size or own: name} | {entry.size or own: key for key, entry in named.items()}

    def video_plan(self, plan: str | None = None) -> str | None:
        """Name of the plan that shares budgets over whole videos beside ``plan``: ``NAME@video``; None without one."""
        name = f"{plan or self.manifest.default_plan}@video"
        return name if name in self.manifest.plans else None

    def path(self, name: str) -> Path:
        """Path of bundle file ``name``.

        Raises:
            BundleError: The name is not in the manifest or leaves the folder.
        """
        if name not in self.manifest.files:
            raise BundleError("the manifest does not list this file", where=str(self.folder / MANIFEST), got=name)
        return inside(self.folder, name)

    def engine(self, plan: str | None = None, target: str | None = None) -> EngineEntry:
        """The engines of ``plan`` (None: the default plan) for ``target`` (None: where there is one only).

        Raises:
            UsageError: There is no such plan, no such engine, or ``target`` must choose.
        """
        self.entry(plan)
        name = plan or self.manifest.default_plan
        found = {entry.target: entry for entry in self.manifest.engines if entry.plan == name}
        if target is None and len(found) == 1:
            return next(iter(found.values()))
        if target in found:
            return found[target]
        raise UsageError(
            "the bundle holds engines for several targets" if found and not target else "there is no such engine",
            where=str(self.folder),
            got=f"plan {name!r}" + (f", target {target!r}" if target else ""),
            expected=did_you_mean(target or "", found) if found else "engines of this plan",
            fix=None if found else f"luvc-export build {self.folder} --plan {name} --target {target or 'TARGET'}",
        )

    def read_engine(self, engine: EngineFile | PluginLibrary, allow_unverified: bool = False) -> mmap.mmap:
        """Map an engine, or its plugins, after hashing all of it: executable code, so the hash decides at every load.

        The bytes returned are the bytes hashed. ``allow_unverified`` maps whatever the file holds.

        Raises:
            BundleError: The file is missing, truncated, or not the one the manifest names.
        """
        path = inside(self.folder, engine.file)
        what = "a plugin library" if isinstance(engine, PluginLibrary) else "an engine"
        fix = "luvc-export build the engine again"
        if not path.is_file() or path.stat().st_size == 0:
            raise BundleError(f"{what} is missing or empty", where=str(path), fix=fix)
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if allow_unverified:
            return data
        if len(data) != engine.record.bytes:
            short = len(data) < engine.record.bytes
            raise BundleError(
                f"{what} is truncated" if short else f"{what} has changed since it was built",
                where=str(path),
                got=f"{len(data)} bytes",
                expected=f"{engine.record.bytes} bytes",
                fix=fix,
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != engine.record.sha256:
            raise BundleError(
                f"{what} has changed since it was built; it is executable code, so it is not loaded",
                where=str(path),
                got=f"sha256 {digest[:16]}...",
                expected=f"sha256 {engine.record.sha256[:16]}...",
                fix=f"{fix}; --allow-unverified runs it anyway, with all that its author wants it to do here",
            )
        return data


def inside(folder: Path, name: str) -> Path:
    """Join ``name`` to ``folder``, refusing what is not a plain file name or is a link leading out.

    Raises:
        BundleError: The name holds a separator, climbs, is empty, or links outside.
    """
    path = folder / name
    plain = name not in ("", ".", "..") and not any(mark in name for mark in ("/", "\\", ":", "\0"))
    if not plain or path.is_symlink():
        raise BundleError(
            "a file name in the bundle leaves its folder",
            where=str(folder / MANIFEST),
            got=repr(name),
            expected="a plain file name beside luvc.json",
            fix="do not use this bundle; export it again from the checkpoint",
        )
    return path


def load(folder: str | os.PathLike[str], full: bool = False) -> Bundle:
    """Read and check a bundle. ``full`` hashes large weights too.

    Raises:
        BundleError: No bundle, a missing or changed file, an unsafe path, a newer schema.
    """
    root = Path(folder)
    manifest_path = root / MANIFEST
    if not manifest_path.is_file():
        raise _no_bundle(root)
    if manifest_path.stat().st_size > _MANIFEST_LIMIT:
        raise BundleError("the manifest is too large to be one", where=str(manifest_path))
    try:
        data = json.loads(manifest_path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError("the manifest is not JSON", where=str(manifest_path), got=str(error)) from error
    manifest = Manifest.from_json(data, str(manifest_path))
    for name, record in manifest.files.items():
        _check(inside(root, name), record, full)
    bundle = Bundle(root, manifest)
    bundle.entry()
    for entry in manifest.plans.values():
        weights = entry.quantised.weights if entry.quantised else None
        for name in filter(None, (entry.vision, entry.decoder, entry.decoder_debug, weights)):
            bundle.path(name)
    for code in (part for entry in manifest.engines for part in entry.code):
        path = inside(root, code.file)
        if full and path.exists():
            bundle.read_engine(code).close()
    return bundle


def record(path: Path) -> FileRecord:
    """Hash a file for the manifest."""
    size = path.stat().st_size
    large = size > FULL_HASH_BYTES
    return FileRecord(
        sha256=_sha256(path),
        bytes=size,
        edges_sha256=_edges_sha256(path) if large else None,
        mtime_ns=path.stat().st_mtime_ns if large else None,
    )


def check_target(final: Path, overwrite: bool) -> None:
    """Check that a bundle may be written to ``final``, before any long work.

    Raises:
        UsageError: It exists and ``overwrite`` is False, or it is no bundle.
    """
    if final.exists() or final.is_symlink():
        empty = final.is_dir() and not any(final.iterdir())
        if not empty and not (overwrite and (final / MANIFEST).is_file()):
            raise UsageError(
                "the output folder exists",
                where=str(final),
                got="a bundle" if (final / MANIFEST).is_file() else "something that is not a bundle",
                fix="choose another -o" + (", or pass --overwrite" if (final / MANIFEST).is_file() else ""),
            )


@contextmanager
def writing(target: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``target`` that becomes ``target`` when the block ends without an error.

    Raises:
        UsageError: ``target`` exists and ``overwrite`` is False, or it is no bundle.
    """
    final = Path(target)
    check_target(final, overwrite)
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".part", dir=final.parent))
    scratch.chmod(0o755)
    try:
        yield scratch
        if final.exists():
            old = scratch.with_suffix(".old")
            final.rename(old)
            scratch.rename(final)
            shutil.rmtree(old)
        else:
            scratch.rename(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``luvc.json`` through a temporary name."""
    scratch = folder / f".{MANIFEST}.part"
    scratch.write_text(json.dumps(manifest.to_json(), indent=1) + "\n", encoding="utf-8")
    scratch.replace(folder / MANIFEST)


def _check(path: Path, expected: FileRecord, full: bool) -> None:
    if not path.is_file():
        raise BundleError("a file of the bundle is missing", where=str(path), fix="export or copy the bundle again")
    stat = path.stat()
    if stat.st_size != expected.bytes:
        raise _changed(path, f"{stat.st_size} bytes", f"{expected.bytes} bytes")
    quick = expected.edges_sha256 is not None and not full
    if quick and stat.st_mtime_ns == expected.mtime_ns:
        digest, wanted = _edges_sha256(path), expected.edges_sha256
    else:
        digest, wanted = _sha256(path), expected.sha256
    if digest != wanted:
        raise _changed(path, f"sha256 {digest[:16]}...", f"sha256 {str(wanted)[:16]}...")


def _changed(path: Path, got: str, expected: str) -> BundleError:
    return BundleError(
        "a file of the bundle has changed since it was exported",
        where=str(path),
        got=got,
        expected=expected,
        fix="copy the bundle again, or export it again",
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_EDGE):
            digest.update(chunk)
    return digest.hexdigest()


def _edges_sha256(path: Path) -> str:
    with path.open("rb") as file:
        first = file.read(_EDGE)
        file.seek(-_EDGE, os.SEEK_END)
        return hashlib.sha256(first + file.read(_EDGE)).hexdigest()


def _no_bundle(root: Path) -> BundleError:
    """What ``root`` is instead, and the folder that may have been meant: around a file, or one level below."""
    if root.is_dir():
        got, near = f"a folder without {MANIFEST}", sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))
    else:
        got = "a file" if root.exists() else "no such folder"
        near = [root.parent] if (root.parent / MANIFEST).is_file() else []
    model = root if (root / "config.json").is_file() else "MODEL"
    given = "give the bundle's folder: " + " or ".join(map(str, near[:3]))
    return BundleError(
        "this is not a bundle",
        where=str(root),
        got=got,
        expected=f"a folder with {MANIFEST}, as luvc-export export writes it",
        fix=given if near else f"luvc-export export {model} -o BUNDLE",
    )
