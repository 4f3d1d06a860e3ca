"""Engines into a bundle: both files built beside it, moved in, and named in ``luvc.json`` last.

At every moment each engine that ``luvc.json`` names is the one it names: files come before their names, and older files
leave after theirs.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import EngineEntry, EngineFile, Footprint, PluginLibrary
from luvc_export.bundle.replacing import check_own, remove_unlisted_engines
from luvc_export.core.files import safe_files
from luvc_export.core.files.folders import copy_file
from luvc_export.core.target import Kv, Precision, Target, engine_form
from luvc_export.engines import builder, library
from luvc_export.engines.options import BuildOptions
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import MachineError, Progress, UsageError

#: A plan of a small model is kernels more than weights (measured: 10 MB beside 5 MB of weights).
_PLAN_BYTES = 32 << 20


@dataclass(frozen=True)
class PreparedBuild:
    """All that building the two engines of a plan takes; made by ``luvc_export.pipeline.prepare_build``, or by a pack.

    ``graphs`` are vision and decoder in the target's dialect, ``capacity`` is the largest call.
    """

    plan: str
    graphs: tuple[builder.BuildInput, builder.BuildInput]
    target: Target
    precision: Precision
    kv: Kv
    capacity: Capacity
    options: BuildOptions
    footprint: Footprint


def install(bundle: Bundle, prepared: PreparedBuild, progress: Progress) -> Bundle:
    """Build vision and decoder engine into ``bundle``, all or nothing, and return it as it is then.

    Raises:
        LuvcError: See ``builder.build``.
        MachineError: The disk is too small.
        UsageError: The bundle cannot be written to.
    """
    plan, target, capacity = prepared.plan, prepared.target, prepared.capacity
    _check_disk(bundle.folder, sum(graph.weight_bytes for graph in prepared.graphs) + 2 * _PLAN_BYTES)
    version = library.load(target.library).__version__
    check_own(bundle.folder, bundles.read_manifest(bundle.folder))
    if not os.access(bundle.folder, os.W_OK):
        raise UsageError("the bundle cannot be written to", where=str(bundle.folder), got="a folder closed to writing")
    with safe_files.scratch_folder(bundle.folder / "build") as scratch:
        plugins, options = _take_plugins(prepared.options, scratch / f"plugins.{plan}.{target.name}.so")
        prepared = replace(prepared, options=options)
        vision, decoder = (
            _build(graph, scratch / f"{part}.{plan}.{target.name}", prepared, progress)
            for part, graph in zip(("vision", "decoder"), prepared.graphs, strict=True)
        )
        entry = EngineEntry(
            plan=plan,
            target=target.name,
            precision=prepared.precision,
            kv=engine_form(prepared.kv),
            backend="tensorrt" if target.library.backend == "tensorrt" else "tensorrt_rtx",
            version=version,
            compute_capabilities=(str(target.device.compute_capability),),
            version_compatible=options.version_compatible,
            hardware_compatibility=options.hardware_compatibility,
            refit=options.refit or options.strip_weights,
            stripped=options.strip_weights,
            batch=capacity.batch,
            images=capacity.groups,
            text_capacity=capacity.text,
            vision=vision,
            decoder=decoder,
            footprint=prepared.footprint,
            plugins=plugins,
        )
        return _move_in(bundle.folder, scratch, entry)


def _take_plugins(options: BuildOptions, copy: Path) -> tuple[PluginLibrary | None, BuildOptions]:
    """Copy the plugin library, so that the file the bundle names is the one the engines are built with."""
    if options.dynamic_plugins is None:
        return None, options
    copy_file(options.dynamic_plugins, copy, links=True)
    return PluginLibrary(copy.name, bundles.record(copy)), replace(options, dynamic_plugins=copy)


def _build(graph: builder.BuildInput, stem: Path, prepared: PreparedBuild, progress: Progress) -> EngineFile:
    """Build one engine to files that begin with ``stem``."""
    plan, layers, log = (stem.with_name(f"{stem.name}.{kind}") for kind in ("engine", "layers.json", "log"))
    built = builder.build(graph, plan, prepared.target, prepared.capacity, prepared.options, progress)
    safe_files.write_new(layers, f"{built.layers}\n".encode())
    safe_files.write_new(log, built.log.encode())
    return EngineFile(
        plan.name,
        bundles.record(plan),
        built.inputs,
        built.outputs,
        built.profiles,
        graph.weight_bytes,
        built.activation_bytes,
        layers.name,
        log.name,
    )


def _move_in(folder: Path, scratch: Path, entry: EngineEntry) -> Bundle:
    """Rename files into the bundle under names nothing has, then name them in the manifest, then remove the older ones.

    Other builds may run side by side, so the manifest is read again, and one of them moves in at a time.
    """
    with safe_files.locked(folder):
        manifest = bundles.load(folder, task=None).manifest
        remove_unlisted_engines(folder, manifest)
        others = tuple(item for item in manifest.engines if (item.plan, item.target) != (entry.plan, entry.target))
        renamed, names = _named_apart(folder, entry)
        safe_files.sync_tree(scratch)
        for old, new in names.items():
            (scratch / old).rename(folder / new)
        changed = replace(manifest, engines=(*others, renamed))
        bundles.write_manifest(folder, changed)
        remove_unlisted_engines(folder, changed)
    return Bundle(folder, changed)


def _named_apart(folder: Path, entry: EngineEntry) -> tuple[EngineEntry, dict[str, str]]:
    """The entry with file names that nothing in ``folder`` has, and the new name of each."""
    parts = (entry.vision, entry.decoder)
    own = [name for part in parts for name in (part.file, part.layers, part.log)]
    own += [entry.plugins.file] if entry.plugins else []
    number = 1
    while any(os.path.lexists(folder / _numbered(name, number)) for name in own):
        number += 1
    names = {name: _numbered(name, number) for name in own}
    vision, decoder = (
        replace(part, file=names[part.file], layers=names[part.layers], log=names[part.log]) for part in parts
    )
    plugins = replace(entry.plugins, file=names[entry.plugins.file]) if entry.plugins else None
    return replace(entry, vision=vision, decoder=decoder, plugins=plugins), names


def _numbered(name: str, number: int) -> str:
    """``vision.even.h100.engine`` -> ``vision.2.even.h100.engine``."""
    kind, _, rest = name.partition(".")
    return name if number == 1 else f"{kind}.{number}.{rest}"


def _check_disk(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise MachineError(
            "the disk is too small for the engines",
            where=str(folder),
            got=f"{free / 2**20:,.0f} MiB free",
            expected=f"{wanted / 2**20:,.0f} MiB",
        )
