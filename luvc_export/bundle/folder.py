"""A bundle on disk: read with its hashes checked before anything is parsed, written whole or not at all.

Bundles are untrusted. Files named by ``luvc.json`` must lie flat in the folder; only a declared checkpoint folder
(weights mode ``reference``) may lie elsewhere.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from luvc_export.bundle import hashing
from luvc_export.bundle.hashing import WatchedFile
from luvc_export.bundle.hashing import record as record
from luvc_export.bundle.manifest import EngineEntry, EngineFile, GraphSet, Manifest, PlanEntry, PluginLibrary, Weights
from luvc_export.bundle.reference import check_reference
from luvc_export.bundle.replacing import MANIFEST as MANIFEST
from luvc_export.bundle.replacing import check_target as check_target
from luvc_export.bundle.replacing import inside as inside
from luvc_export.bundle.replacing import read_manifest as read_manifest
from luvc_export.bundle.replacing import write_manifest as write_manifest
from luvc_export.bundle.replacing import writing as writing
from luvc_export.bundle.variants import buckets_of, shared_plan, sizes_of
from luvc_export.core.files.folders import check_name
from luvc_export.core.files.safe_files import open_regular, recover
from luvc_export.errors import BundleError, UsageError, did_you_mean

if TYPE_CHECKING:
    from luvc_export.errors import Progress


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
        return self.manifest.plans[self.name_of(plan)]

    def name_of(self, plan: str | None = None) -> str:
        """``plan``, or the name of the default plan.

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
        return name

    def graph_set(self, plan: str | None, target: str, slots: bool = False) -> GraphSet:
        """The decoders that were finished for ``target``, with slots for adapters or without.

        Where there are none, as in bundles that older versions wrote, the plan's own decoder takes prompts and steps.

        Raises:
            UsageError: The bundle has no plan of that name.
        """
        name, own = self.name_of(plan), self.entry(plan).decoder
        sets = (one for one in self.manifest.sets if (one.plan, one.target, one.slots) == (name, target, slots))
        return next(sets, GraphSet(name, target, own, own, slots=self.manifest.lora is not None))

    def check_task(self, task: str) -> None:
        """Refuse what this bundle is not made for, with what is.

        Raises:
            UsageError: Its task is another than ``task``.
        """
        does = self.manifest.does
        if does.name != task:
            raise UsageError(
                "this bundle is made for another task",
                where=str(self.folder),
                got=f"a bundle of the task {does.name}",
                expected=f"one of the task {task}",
                fix=does.asked_by,
            )

    def sizes_of(self, plan: str | None = None) -> dict[tuple[int, int], str]:
        """Image sizes (height, width) that ``plan`` was exported for, and the plan's name for each, its own first."""
        return sizes_of(self.manifest, self.name_of(plan))

    def buckets_of(self, plan: str | None = None) -> dict[int, str]:
        """Buckets of ``plan``: the number of visual units that each computes, ascending, and the name of its plan."""
        return buckets_of(self.manifest, self.name_of(plan))

    def video_plan(self, plan: str | None = None) -> str | None:
        """Name of the plan that shares budgets over whole videos beside ``plan``; None without one."""
        return shared_plan(self.manifest, self.name_of(plan), "clip")

    def tiled_plan(self, plan: str | None = None) -> str | None:
        """Name of the plan that shares budgets over tiles of a picture beside ``plan``; None without one."""
        return shared_plan(self.manifest, self.name_of(plan), "tiles")

    @property
    def anchored_weights(self) -> Weights:
        """The manifest's record of weights, for a manifest that will lie in another folder."""
        weights = self.manifest.weights
        return replace(weights, folder=str((self.folder / weights.folder).resolve())) if weights.folder else weights

    def path(self, name: str) -> Path:
        """Path of bundle file ``name``.

        Raises:
            BundleError: The name is not in the manifest or leaves the folder.
        """
        if name not in self.manifest.files:
            raise BundleError("the manifest does not list this file", where=str(self.folder / MANIFEST), got=name)
        return inside(self.folder, name)

    def read(self, name: str) -> bytes:
        """Bytes of bundle file ``name``: the very bytes whose hash was found right, whatever becomes of the file.

        Raises:
            BundleError: The manifest does not list it, or it is missing or another.
        """
        return hashing.read(self.path(name), self.manifest.files[name])

    def watch(self, name: str) -> WatchedFile:
        """Hash bundle file ``name`` (a large one, if it is not remembered), for readers that must open it themselves.

        Raises:
            BundleError: The manifest does not list it, or it is missing or another.
        """
        path, known = self.path(name), self.manifest.files[name]
        return WatchedFile(path, hashing.verify(path, known), lambda: hashing.verify(path, known))

    def engine(self, plan: str | None = None, target: str | None = None) -> EngineEntry:
        """The engines of ``plan`` (None: the default plan) for ``target`` (None: where there is one only).

        Raises:
            UsageError: There is no such plan, no such engine, or ``target`` must choose.
        """
        self.entry(plan)
        name = plan or self.manifest.default_plan
        by_target = {entry.target: entry for entry in self.manifest.engines if entry.plan == name}
        if target is None and len(by_target) == 1:
            return next(iter(by_target.values()))
        if target in by_target:
            return by_target[target]
        raise UsageError(
            "the bundle holds engines for several targets" if by_target and not target else "there is no such engine",
            where=str(self.folder),
            got=f"plan {name!r}" + (f", target {target!r}" if target else ""),
            expected=did_you_mean(target or "", by_target) if by_target else "engines of this plan",
            fix=None if by_target else f"luvc-export build {self.folder} --plan {name} --target {target or 'TARGET'}",
        )

    def read_engine(self, engine: EngineFile | PluginLibrary, allow_unverified: bool = False) -> mmap.mmap:
        """Read an engine, or its plugins, into memory of this process and hash it there, at every load.

        It is executable code: the bytes returned are the bytes hashed, whatever becomes of the file.
        ``allow_unverified`` returns whatever the file holds.

        Raises:
            BundleError: The file is missing, truncated, no regular file, or not the one the manifest names.
        """
        path = inside(self.folder, engine.file)
        what = "a plugin library" if isinstance(engine, PluginLibrary) else "an engine"
        fix = "luvc-export build the engine again"
        if not path.is_file() or path.stat().st_size == 0:
            raise BundleError(f"{what} is missing or empty", where=str(path), fix=fix)
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != engine.record.bytes and not allow_unverified:
                short = size < engine.record.bytes
                raise BundleError(
                    f"{what} is truncated" if short else f"{what} has changed since it was built",
                    where=str(path),
                    got=f"{size} bytes",
                    expected=f"{engine.record.bytes} bytes",
                    fix=fix,
                )
            data = mmap.mmap(-1, size)
            at, view = 0, memoryview(data)
            while count := file.readinto(view[at:]):  # type: ignore[attr-defined]
                at += count
            view.release()
        if allow_unverified:
            return data
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


def load(
    folder: str | os.PathLike[str],
    full: bool = False,
    progress: Progress | None = None,
    task: str | None = "generate",
) -> Bundle:
    """Read and check a bundle.

    Args:
        folder: The bundle. One that a killed process was replacing is put back first.
        full: Hash large files even where it is remembered that they were hashed.
        progress: Told (stage, fraction) while large files are hashed.
        task: What it must be made for; None takes any, for who asks it nothing or asks ``Bundle.check_task``.

    Raises:
        UsageError: No file can have such a name, or its task is another.
        BundleError: No bundle, a missing or changed file, an unsafe path, a newer schema.
    """
    root = Path(folder)
    check_name(root / MANIFEST, "the bundle")
    if not (root / MANIFEST).is_file() and not recover(root):
        raise _no_bundle(root)
    manifest = read_manifest(root)
    if task is not None:
        Bundle(root, manifest).check_task(task)
    total, done = sum(known.bytes for known in manifest.files.values()), 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        if progress and total > hashing.REMEMBERED_BYTES:
            progress("hashing files", min(1.0, done / total))

    for name, known in manifest.files.items():
        hashing.verify(inside(root, name), known, full, told)
    if full and manifest.weights.mode == "reference":
        check_reference(root, manifest, full, told)
    bundle = Bundle(root, manifest)
    bundle.entry()
    for plan in manifest.plans:
        for name in sorted(manifest.files_of(plan)):
            bundle.path(name)
    for code in (part for entry in manifest.engines for part in entry.code):
        path = inside(root, code.file)
        if full and path.exists():
            bundle.read_engine(code).close()
    return bundle


def _no_bundle(root: Path) -> BundleError:
    """What ``root`` is instead, and the folder that may have been meant: around a file, or one level below."""
    if root.is_dir():
        got, near = f"a folder without {MANIFEST}", sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))
    else:
        got = "a file" if root.exists() else "no such folder"
        near = [root.parent] if (root.parent / MANIFEST).is_file() else []
    model = root if (root / "config.json").is_file() else "MODEL"
    fix = f"luvc-export export {model} -o BUNDLE"
    folder, _, plan = root.name.rpartition("#")
    if near:
        fix = "give the bundle's folder: " + " or ".join(map(str, near[:3]))
    elif folder and (root.with_name(folder) / MANIFEST).is_file():  # as serve and --speculate write it
        fix = f"give the folder, and the plan by itself: {root.with_name(folder)} --plan {plan}"
    return BundleError(
        "this is not a bundle",
        where=str(root),
        got=got,
        expected=f"a folder with {MANIFEST}, as luvc-export export writes it",
        fix=fix,
    )
