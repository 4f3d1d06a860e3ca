"""Bundles on disk are replaced whole: what a folder may hold, ``luvc.json`` in and out, old for new at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luvc_export.bundle import hashing
from luvc_export.bundle.manifest import Manifest
from luvc_export.core.files import folders, safe_files
from luvc_export.core.files.json_file import read_json
from luvc_export.errors import BundleError, LuvcError, UsageError, first_few

MANIFEST = "luvc.json"
_MANIFEST_LIMIT = 64 * 2**20
#: What a pack holds beside a bundle (``packing.record``), its folders by their first part.
_PACK = frozenset(
    {"pack.json", "install-and-verify", "bootstrap.py", "verify.json", "verdict", "wheels", "site", "cases"}
)
#: Bytes of a file's name on every file system there is.
_LONGEST = 255
_ENGINE = re.compile(r"(vision|decoder|plugins)\..+\.(engine|layers\.json|log|so)")


def inside(folder: Path, name: str) -> Path:
    """Join ``name`` to ``folder``, refusing what is not a plain file name or is a link.

    Raises:
        BundleError: The name holds a separator, climbs, is empty, longer than file systems take, or that of a link.
    """
    path = folder / name
    plain = name not in ("", ".", "..") and not any(mark in name for mark in ("/", "\\", ":", "\0"))
    if not plain or len(name.encode("utf-8", "surrogatepass")) > _LONGEST or path.is_symlink():
        raise BundleError(
            "a file name in the bundle leaves its folder",
            where=str(folder / MANIFEST),
            got=repr(name)[:80],
            expected=f"a plain file name beside luvc.json, of at most {_LONGEST} bytes",
            fix="do not use this bundle; export it again from the checkpoint",
        )
    return path


def read_manifest(folder: Path) -> Manifest:
    """Read ``luvc.json``; no other file is looked at.

    Raises:
        BundleError: It is missing, too large, not JSON, or not a manifest.
    """
    path = folder / MANIFEST
    return Manifest.from_json(read_json(path, _MANIFEST_LIMIT, BundleError, "the manifest"), str(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``luvc.json`` whole or not at all."""
    safe_files.write_whole(folder / MANIFEST, json.dumps(manifest.to_json(), indent=1) + "\n")


def own_names(folder: Path, manifest: Manifest) -> set[str]:
    """Names in a bundle's folder that are the bundle's, or the pack's that it is: the record of what was written.

    Raises:
        BundleError: One of them leaves the folder, or is that of a link.
    """
    names = {MANIFEST, *manifest.files}
    for entry in manifest.engines:
        names |= {part.file for part in entry.code}
        names |= {name for part in (entry.vision, entry.decoder) for name in (part.layers, part.log)}
    for name in names:
        inside(folder, name)
    if (folder / "pack.json").is_file():
        names |= _PACK | {"libluvc_plugins.so"}
    return names


def strangers(folder: Path, manifest: Manifest) -> list[str]:
    """What lies in a bundle's folder and is not the bundle's: links, and files that ``luvc.json`` does not list."""
    own = own_names(folder, manifest)
    return [
        name
        for name in folders.list_names(folder)
        if (folder / name).is_symlink()
        or (name not in own and not safe_files.is_scratch(name) and not _ENGINE.fullmatch(name))
    ]


def remove_unlisted_engines(folder: Path, manifest: Manifest) -> None:
    """Remove files named as engines are that no manifest names: a build that was killed left them."""
    own = own_names(folder, manifest)
    for name in folders.list_names(folder):
        if name not in own and _ENGINE.fullmatch(name) and not (folder / name).is_dir():
            safe_files.remove(folder / name)


def take_along(
    folder: Path, manifest: Manifest, target: Path, *, but: frozenset[str] = frozenset(), link: bool
) -> None:
    """Bring what the bundle at ``folder`` holds, and nothing else, into the folder ``target``.

    Args:
        folder: The bundle's.
        manifest: Its manifest, read and checked.
        target: A new folder of our own.
        but: Names that stay behind.
        link: Hard links where the file system has them; else copies, which stay when the bundle changes.

    Raises:
        BundleError: A name leaves the folder, or is that of a link.
        UsageError: Something is no regular file.
    """
    take = hashing.link if link else folders.copy_file
    for name in sorted(own_names(folder, manifest) - but):
        source = inside(folder, name)
        if source.is_dir():
            folders.copy_tree(source, target / name)
        elif source.exists():
            take(source, target / name)


def check_own(folder: Path, manifest: Manifest) -> None:
    """Check that a bundle that is written into holds nothing but its own.

    Raises:
        BundleError: There are links, or files that ``luvc.json`` does not list.
    """
    if foreign := strangers(folder, manifest):
        raise BundleError(
            "the bundle's folder holds what is not the bundle's, so nothing is written into it",
            where=str(folder),
            got=first_few(map(repr, foreign)),
            expected="the files that luvc.json lists, and no links",
            fix="move them away first; if the bundle is not your own, they may have been planted",
        )


def check_target(final: Path, overwrite: bool) -> None:
    """Check that a bundle may be written to ``final``, before any long work.

    Raises:
        UsageError: It exists and ``overwrite`` is False, or it is no bundle, or holds what is not the bundle's.
    """
    folders.check_name(final / MANIFEST, "the output folder")
    safe_files.recover(final)
    if not final.exists() and not final.is_symlink():
        return
    bundle = (final / MANIFEST).is_file()
    empty = final.is_dir() and not folders.list_names(final)
    if empty or (overwrite and bundle):
        if not empty:
            _check_removable(final)
        return
    raise UsageError(
        "the output folder exists",
        where=str(final),
        got="a bundle" if bundle else "something that is not a bundle",
        fix="choose another -o" + (", or pass --overwrite" if bundle else ""),
    )


def _check_removable(folder: Path) -> None:
    """Replacing a bundle removes what it holds, and nothing else may go with it."""
    try:
        manifest = read_manifest(folder)
    except LuvcError as error:
        raise UsageError(
            "the bundle that is to be replaced cannot be read, so it is not known what of the folder is the bundle's",
            where=error.where,
            got=error.what,
            fix="remove the folder yourself, or choose another -o",
        ) from error
    check_own(folder, manifest)


@contextmanager
def writing(target: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``target`` that becomes ``target`` when the block ends without an error.

    Old and new are exchanged at once where the system can. Where ``target`` is a link, the folder it leads to is
    replaced and the link stays.

    Raises:
        UsageError: ``target`` exists and ``overwrite`` is False, or it is no bundle, or holds what is not the bundle's.
    """
    final = Path(os.path.realpath(target)) if Path(target).is_symlink() else Path(target)
    check_target(final, overwrite)
    with safe_files.scratch_folder(final) as scratch:
        yield scratch
        check_target(final, overwrite)
        safe_files.put_in_place(scratch, final)
