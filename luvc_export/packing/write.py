"""``luvc-export pack``: everything a device needs to build, and to prove, one plan's engines, in one folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.core.files.folders import list_names, walk, writing_to
from luvc_export.core.files.safe_files import write_new
from luvc_export.core.options import settled
from luvc_export.core.target import Target, engine_form
from luvc_export.engines import targets
from luvc_export.engines.options import BuildOptions, EngineOptions
from luvc_export.errors import Progress, UsageError
from luvc_export.packing import cases, record, wheels
from luvc_export.packing.contents import copy_files, write_manifest
from luvc_export.packing.programs import check_plugins, given_wheels, put_programs, tools
from luvc_export.packing.questions import Choose, reference
from luvc_export.packing.record import CASES, PLUGINS, Pack
from luvc_export.pipeline.engines import check_strict, prepare_build


@dataclass(frozen=True)
class Packed:
    """A pack that was written.

    ``missing`` is what the device's Python will not find, a line each; ``others`` are plans that are not in it.
    """

    folder: Path
    pack: Pack
    missing: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def download(self) -> str:
        """The command that fetches the wheels of the device's Python, where there is a network."""
        return wheels.download(self.pack.python, targets.find(self.pack.target).device.machine or "")


def write_pack(
    bundle: Bundle,
    target: str,
    output: str | os.PathLike[str],
    chosen: Choose,
    plan: str | None = None,
    *,
    options: BuildOptions | None = None,
    wheels_folder: Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda stage, done: None,
    engine: EngineOptions | None = None,
    **settings: Any,
) -> Packed:
    """Write a pack of one plan to ``output``, whole or not at all.

    The reference outputs are those of the bundle's own graphs in ONNX Runtime on this machine's CPU. ``target`` is one
    that engines cannot be built for here, ``chosen`` says what to ask, given the session that answers and the capacity
    of the engines, ``wheels_folder`` has wheels to put in, and ``overwrite`` replaces an existing pack or bundle.
    ``engine`` and ``settings``: see ``build_engine``.

    Raises:
        UsageError: A bundle of pairs, an unknown target or plan, a target without a system of its own, a case that does
            not fit, plugins for another machine, with ``strict`` such codes.
        BundleError: The bundle has no weights, or they cannot lie flat beside the graphs.
        PlanError: The plan does not fit on the device.
        MachineError: Memory or packages are missing here.
    """
    if bundle.manifest.does.pairs:
        bundle.check_task("embed")
    device, options = targets.find(target), options or BuildOptions()
    asked_for = settled(EngineOptions, engine, settings, "write_pack")
    python = _system(device)
    options.check(device.library)
    check_plugins(options.dynamic_plugins, device)
    bundles.check_target(Path(output), overwrite)
    wheels_given = given_wheels(wheels_folder)
    prepared = prepare_build(bundle, target, plan, engine=asked_for, options=options, progress=progress)
    if asked_for.strict:
        check_strict(prepared.graphs, device)
    name, capacity, manifest = prepared.plan, prepared.capacity, bundle.manifest
    asked, answers = reference(bundle, plan, capacity, chosen, progress)
    with writing_to(output), bundles.writing(Path(output).resolve(), overwrite) as folder:
        files = [f"vision.{name}.{target}.onnx", f"decoder.{name}.{target}.onnx"]
        for file, graph in zip(files, prepared.graphs, strict=True):
            write_new(folder / file, graph.data)
        copy_files(bundle, folder, files, progress, [item for graph in prepared.graphs for item in graph.rewrites])
        entry = replace(bundle.entry(plan), vision=files[0], decoder=files[1])
        write_manifest(bundle, folder, name, entry, prepared.precision, capacity)
        listed = {*list_names(folder)}
        own = put_programs(folder, options.dynamic_plugins, wheels_given)
        cases.write(folder / CASES, asked.cases, answers)
        paths = sorted(folder / name for name in walk(folder) if name.rpartition("/")[2] not in listed)
        pack = Pack(
            target=target,
            plan=name,
            precision=prepared.precision,
            reference_dtype=manifest.dtype,
            kv=engine_form(prepared.kv),
            text_capacity=capacity.text,
            images=capacity.groups,
            workspace_mib=options.workspace_mib,
            builder_optimization_level=options.builder_optimization_level,
            weight_bytes=(prepared.graphs[0].weight_bytes, prepared.graphs[1].weight_bytes),
            footprint=prepared.footprint,
            python=python,
            requirements=wheels.REQUIRED,
            wheels=(own.name, *(wheel.name for wheel in wheels_given)),
            cases=asked.kind,
            files={path.relative_to(folder).as_posix(): bundles.record(path) for path in paths},
            plugins=PLUGINS if options.dynamic_plugins else None,
            batch=capacity.batch,
            adapters=capacity.adapters,
            adapter_rank=capacity.rank,
            logits=capacity.logits,
            tools=tools(),
        )
        record.write(folder, pack)
    missing = tuple(wheels.missing(map(wheels.parse, pack.wheels[1:]), python, device.device.machine or ""))
    return Packed(Path(output), pack, missing, tuple(each for each in manifest.plans if each != name))


def _system(device: Target) -> str:
    """The Python of the target's own system, which the installer runs on."""
    if device.device.l4t is None or device.device.python is None:
        raise UsageError(
            "packs are for boards that come with a system of their own",
            where=f"--target {device.name}",
            got=device.title,
            expected=", ".join(name for name in targets.names() if targets.find(name).device.l4t),
            fix=f"luvc-export build BUNDLE --target {device.name}, on a machine with that GPU",
        )
    return device.device.python
