"""What goes into a pack beside its cases: the script, weights, the manifest, wheels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from luvc_export import bundle as bundles
from luvc_export.bundle import Bundle
from luvc_export.engines.pack import wheels
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import BundleError, MachineError, UsageError
from luvc_export.manifest import Manifest, PlanEntry, Weights
from luvc_export.runtime.graphfile import outside_weights
from luvc_export.target import Precision

Progress = Callable[[str, float], None]

#: POSIX sh: JetPack's Python may be called otherwise than python3, so it can be named.
SCRIPT = """#!/bin/sh
# Checks this device, builds the engines and answers the stored cases; --help says more.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null 2>&1; then
  echo "error: there is no $python here" >&2
  echo "  fix: PYTHON=/path/to/python3 $0" >&2
  exit 3
fi
exec "$python" "$here/bootstrap.py" "$@"
"""


def given_wheels(folder: Path | None) -> list[Path]:
    """The wheels in the folder a user named, by name.

    Raises:
        UsageError: There is none, or a file has no wheel's name.
    """
    if folder is None:
        return []
    found = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if not found:
        got = "no wheel in it" if folder.is_dir() else "no such folder"
        raise UsageError("there are no wheels", where=f"--wheels {folder}", got=got, expected="*.whl")
    for path in found:
        wheels.parse(path.name)
    return found


def copy_files(bundle: Bundle, folder: Path, graphs: list[str], progress: Progress) -> None:
    """Copy what ``graphs`` and the runtime need, from the bundle or its checkpoint: weights, the tokenizer's files.

    Raises:
        BundleError: The weights lie in a folder below the checkpoint's.
        MachineError: The disk is too small.
    """
    weights = bundle.manifest.weights
    source = bundle.folder / weights.folder if weights.folder else bundle.folder
    named = sorted({weight.location for graph in graphs for weight in outside_weights(folder / graph).values()})
    if nested := [name for name in named if Path(name).name != name]:
        raise BundleError(
            "weights lie in a folder of their own, a pack is flat",
            where=str(source),
            got=nested[0],
            fix="export again with --weights copy",
        )
    plans = bundle.manifest.plans.values()
    own = {file for each in plans for file in (each.vision, each.decoder, each.decoder_debug) if file}
    own |= {weight.location for file in own for weight in outside_weights(bundle.path(file)).values()}
    paths = [source / name if (source / name).is_file() else bundle.folder / name for name in named]
    paths += [bundle.folder / name for name in bundle.manifest.files if name not in own]
    total, done = sum(path.stat().st_size for path in paths), 0
    if total > shutil.disk_usage(folder).free:
        raise MachineError(
            "the disk is too small for the pack", where=str(folder), got=f"{total / 2**20:,.0f} MiB needed"
        )
    for path in paths:
        progress("copying weights", done / max(1, total))
        shutil.copyfile(path, folder / path.name)
        done += path.stat().st_size
    progress("copying weights", 1.0)


def write_manifest(
    folder: Path, manifest: Manifest, plan: str, entry: PlanEntry, precision: Precision, capacity: Capacity
) -> None:
    """A pack is a bundle of one plan, whose graphs are the target's."""
    files = {path.name: bundles.record(path) for path in sorted(folder.iterdir())}
    changed = replace(
        manifest,
        dtype=precision,
        prompt=replace(manifest.prompt, text_capacity=capacity.text),
        default_plan=plan,
        plans={plan: replace(entry, decoder_debug=None)},
        weights=Weights("copy"),
        files=files,
        engines=(),
        verified=(),
    )
    bundles.write_manifest(folder, changed)
