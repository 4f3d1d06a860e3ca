"""What a pack has of its bundle: weights, the tokenizer's files, the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import graph_trust, hashing
from luvc_export.bundle.codes import Rewrite
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graph_rules import check_graph
from luvc_export.bundle.graphs import read_graph
from luvc_export.bundle.manifest import PlanEntry, Weights
from luvc_export.core.files.folders import copy_file, list_names
from luvc_export.core.target import Precision
from luvc_export.engines import codes
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import BundleError, MachineError, Progress


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
    bundle: Bundle, folder: Path, plan: str, entry: PlanEntry, precision: Precision, capacity: Capacity
) -> None:
    """Write that a pack is a bundle of one plan, whose graphs are the target's, made of those of ``bundle``."""
    manifest = bundle.manifest
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
    graph_trust.inherit(bundle, Bundle(folder, changed))
