"""``luvc-export pack``: everything a device needs to build, and to prove, one plan's engines, in one folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.cases import Case
from luvc_export.calibration.drawn import DrawnCase
from luvc_export.core.files.folders import copy_file, list_names, make_folder, walk, writing_to
from luvc_export.core.files.safe_files import write_new
from luvc_export.core.options import settled
from luvc_export.core.target import Target, engine_form
from luvc_export.engines import targets
from luvc_export.engines.options import BuildOptions, EngineOptions
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import MachineError, Progress, UsageError
from luvc_export.packing import bootstrap, cases, record, wheels
from luvc_export.packing.answer import Answer, answer
from luvc_export.packing.contents import check_plugins, copy_files, given_wheels, write_manifest, write_wheel
from luvc_export.packing.record import CASES, PLUGINS, WHEELS, CasesKind, Pack
from luvc_export.pipeline import prepare_build
from luvc_export.pipeline.engines import check_strict
from luvc_export.runtime.session import Session
from luvc_export.version import VERSION

#: Tokens of an answer where nobody says how many.
_LONGEST = 8


@dataclass(frozen=True)
class PackCases:
    """Questions a pack stores, and of what kind they are."""

    kind: CasesKind
    cases: Sequence[Case]
    longest: int = _LONGEST


@dataclass(frozen=True)
class Packed:
    """A pack that was written.

    ``missing`` is what the device's Python will not find, a line each; ``others`` are plans that are not in it.
    """

    folder: Path
    pack: Pack
    missing: tuple[str, ...]
    others: tuple[str, ...]


def write_pack(
    bundle: Bundle,
    target: str,
    output: str | os.PathLike[str],
    chosen: Callable[[Session, Capacity], PackCases],
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
    asked, answers = _reference(bundle, plan, capacity, chosen, progress)
    with writing_to(output), bundles.writing(Path(output).resolve(), overwrite) as folder:
        files = [f"vision.{name}.{target}.onnx", f"decoder.{name}.{target}.onnx"]
        for file, graph in zip(files, prepared.graphs, strict=True):
            write_new(folder / file, graph.data)
        copy_files(bundle, folder, files, progress, [item for graph in prepared.graphs for item in graph.rewrites])
        entry = replace(bundle.entry(plan), vision=files[0], decoder=files[1])
        packed = write_manifest(folder, manifest, name, entry, prepared.precision, capacity)
        graph_trust.inherit(bundle, packed)
        listed = {*list_names(folder)}
        own = _put_programs(folder, options.dynamic_plugins, wheels_given)
        make_folder(folder / CASES)
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
            tools={"luvc-export": VERSION, "python": platform.python_version(), "onnxruntime": _onnxruntime()},
        )
        record.write(folder, pack)
    names = [wheels.parse(wheel.name) for wheel in wheels_given]
    missing = tuple(wheels.missing(names, python, device.device.machine or ""))
    return Packed(Path(output), pack, missing, tuple(each for each in manifest.plans if each != name))


def _put_programs(folder: Path, plugins: Path | None, wheels_given: Sequence[Path]) -> Path:
    """Plugins, wheels, this package's own and what installs and verifies; returns the package's wheel."""
    if plugins is not None:
        copy_file(plugins, folder / PLUGINS, links=True)
    make_folder(folder / WHEELS)
    for wheel in wheels_given:
        copy_file(wheel, folder / WHEELS / wheel.name, links=True)
    for name, source in ((record.BOOTSTRAP, Path(bootstrap.__file__).name), (record.SCRIPT, record.SCRIPT)):
        copy_file(Path(bootstrap.__file__).with_name(source), folder / name, links=True)
    (folder / record.SCRIPT).chmod(0o755)
    return write_wheel(folder / WHEELS)


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


def _reference(
    bundle: Bundle,
    plan: str | None,
    capacity: Capacity,
    chosen: Callable[[Session, Capacity], PackCases],
    progress: Progress,
) -> tuple[PackCases, list[Answer]]:
    """Questions, and the bundle's own answers to them."""
    if bundle.manifest.dtype == "bf16":
        raise MachineError(
            "the reference answers are made on the CPU, which computes nothing in bf16",
            where=str(bundle.folder),
            fix="export with --dtype fp32 (weights stay as they are) and pack with --precision bf16",
        )
    session = Session(bundle, "cpu", plan)
    asked = chosen(session, capacity)
    if not bundle.manifest.does.decodes and bundle.manifest.does.pooling == "every":
        asked = replace(asked, cases=[part for case in asked.cases for part in _alone(case)])
    elif not bundle.manifest.does.decodes and asked.kind == "generated":
        in_turns = [[case, *_alone(case)][place % 3] for place, case in enumerate(asked.cases)]
        asked = replace(asked, cases=in_turns)
    answers = []
    for index, case in enumerate(asked.cases):
        progress("reference answers", index / len(asked.cases))
        reply = answer(session, case.images, case.prompt, asked.longest)
        check_room(reply, bundle.manifest.prompt.image_token_id, capacity, f"case {index}: {case.prompt[:40]!r}")
        answers.append(reply)
    progress("reference answers", 1.0)
    return asked, answers


def _alone(case: Case) -> list[Case]:
    """A page and a query by themselves."""
    parts = [((image,), "") for image in case.images] + [((), case.prompt)] * bool(case.prompt)
    return [DrawnCase(images, prompt, case.kind, case.picture) for images, prompt in parts]


def check_room(case_answer: Answer, placeholder: int, capacity: Capacity, where: str) -> None:
    """Check that an answered case fits engines of ``capacity``.

    Raises:
        UsageError: It has more images or text.
    """
    images = case_answer.prompt_ids.count(placeholder)
    text = len(case_answer.prompt_ids) - images + len(case_answer.token_ids)
    for what, count, most, flag in (
        ("images", images, capacity.groups, "--images"),
        ("text tokens", text, capacity.text, "--text-capacity"),
    ):
        if count > most:
            raise UsageError(
                f"a case has more {what} than the engines take",
                where=where,
                got=count,
                expected=f"at most {most}",
                fix=f"{flag} {count}",
            )


def _onnxruntime() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
