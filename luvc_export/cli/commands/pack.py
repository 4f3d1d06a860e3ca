"""``luvc-export pack``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_model
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import styled, table, unwrapped, write
from luvc_export.core.files import safe_files
from luvc_export.core.named_plans import DEFAULT_PLAN
from luvc_export.core.options import option
from luvc_export.core.options import size as size_of
from luvc_export.engines.options import BuildOptions, EngineOptions
from luvc_export.errors import UsageError
from luvc_export.runtime.session_options import SessionOptions

if TYPE_CHECKING:
    from luvc_export.bundle.folder import Bundle
    from luvc_export.packing.write import Packed


@grouped
def pack(
    *,
    model: str = option(
        ..., "Checkpoint folder, hub id or demo, or a bundle.", argument=True, metavar="MODEL_OR_BUNDLE"
    ),
    target: str = option(..., "Board, as luvc-export targets lists them."),
    output: Path = option(..., "Folder to write.", "-o", "--output"),
    plan: str | None = option(None, "Plan of the bundle, or the schedule to export; default: its default."),
    engine: EngineOptions,
    building: BuildOptions,
    image_size: options.ImageSize = None,
    cases: Path | None = option(None, "JSON Lines file of what to ask: image, prompt."),
    task: str | None = option(None, "Ask this: glyph, or a module that has a TASK."),
    count: int = option(4, "Cases to store."),
    wheels: Path | None = option(None, "Wheels for the board's Python, to put in.", metavar="DIR"),
    overwrite: bool = option(False, "Replace an existing pack."),
    opening: SessionOptions,
    as_json: options.Json = False,
) -> None:
    """Write a folder that builds the engines on a board and proves them there.

    Copy it to the board and run ./install-and-verify: no network, no torch. Without --cases and --task, it compares
    numbers on generated pictures.

    [dim]luvc-export pack qwen-bundle --target jetson-agx-orin-jp62 --wheels wheels -o qwen-orin
    luvc-export pack Qwen/Qwen2.5-VL-3B-Instruct --target jetson-agx-orin-jp72 --cases mine.jsonl -o qwen-orin[/dim]
    """
    from luvc_export.bundle.folder import check_target
    from luvc_export.engines.targets import find
    from luvc_export.packing.questions import questions
    from luvc_export.packing.write import write_pack

    find(target)
    check_target(output, overwrite)
    check_folder(output, "--output")
    if count < 1:
        raise UsageError("there must be a case to verify with", where="--count", got=count)
    if cases is not None and task is not None:
        raise UsageError("say once what to ask", where="pack", expected="--cases FILE, --task NAME, or neither")
    questions(cases, task, count, alone=True)  # what is wrong is said before an export
    with (
        options.progress(as_json) as tell,
        _opened(model, plan, image_size, task, engine, building, output, opening.verify, tell) as (bundle, name),
    ):
        chosen = questions(cases, task, count, alone=not bundle.manifest.does.decodes)
        written = write_pack(
            bundle,
            target,
            output,
            chosen,
            name,
            wheels_folder=wheels,
            overwrite=overwrite,
            progress=tell,
            engine=engine,
            options=building,
        )
    summary = {"pack": str(output), "missing": written.missing, "other_plans": written.others}
    write(as_json, summary | asdict(written.pack), lambda: _lines(written))


@contextmanager
def _opened(
    model: str,
    plan: str | None,
    image_size: str | None,
    task: str | None,
    engine: EngineOptions,
    building: BuildOptions,
    output: Path,
    verify: bool,
    tell: Any,
) -> Iterator[tuple[Bundle, str | None]]:
    """The bundle at ``model`` and the plan's name in it; a checkpoint is exported for the moment.

    Its graphs are told of padding unless they call plugins, which know none.
    """
    from luvc_export.bundle import folder as bundles

    if (Path(model) / bundles.MANIFEST).is_file():
        if image_size is not None:
            raise UsageError(
                "a bundle has its image size", where="--image-size", fix="export it again, or leave it out"
            )
        yield bundles.load(model, verify, tell, task=None), plan
        return
    from luvc_export.calibration import tasks
    from luvc_export.pipeline import export_bundle, make_plans

    check_model(model)
    size = size_of(image_size) or (tasks.find(task).image_size if task else None)
    name = options.plan_name(plan or DEFAULT_PLAN)
    plans = make_plans(model, {name: options.plan_source(plan or DEFAULT_PLAN)}, image_size=size)
    with safe_files.scratch_folder(output.with_name(f"{output.name}.export")) as folder:
        capacity = {} if engine.text_capacity is None else {"text_capacity": engine.text_capacity}
        bundle = export_bundle(
            model,
            folder / "bundle",
            plans,
            image_size=size,
            weights="reference",
            padding=building.dynamic_plugins is None,
            progress=tell,
            **capacity,  # type: ignore[arg-type]
        )
        yield bundle, name


def _lines(written: Packed) -> Iterator[Any]:
    from luvc_export.engines import targets

    pack_record = written.pack
    target = targets.find(pack_record.target)
    images = f"{pack_record.images} image{'s' * (pack_record.images != 1)}"
    memory = f"{pack_record.footprint.peak / 2**20:,.1f} MiB at the height of loading or answering"
    rows = [
        ("graphs", f"{target.spec.dialect} dialect, {pack_record.precision}, KV {pack_record.kv}"),
        ("capacity", f"{pack_record.text_capacity} text tokens, {images}"),
        ("memory, predicted", memory),
        ("cases", f"{pack_record.cases}, answered here by ONNX Runtime in {pack_record.reference_dtype}"),
        ("wheels", ", ".join(pack_record.wheels)),
    ]
    if pack_record.plugins:
        rows.append(("plugins", f"{pack_record.plugins}, which the graphs call"))
    yield table(rows, title=f"pack of plan {pack_record.plan} for {pack_record.target}")
    if written.others:
        others = ", ".join(written.others)
        yield unwrapped(f"a pack holds one plan for one image size; not in it: {others} (--plan NAME)")
    for line in written.missing:
        rest = f" of {line} for Python {pack_record.python}, {target.device.machine}"
        yield unwrapped(("no wheel", "yellow"), rest)
    if written.missing:
        yield styled("without them the board must have these packages itself; to fetch them, with a network:")
        yield unwrapped(f"  {written.download}")
    yield unwrapped(f"wrote {written.folder}; copy it to the board and run ./install-and-verify there")
