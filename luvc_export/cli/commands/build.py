"""``luvc-export build``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from luvc_export.cli import options
from luvc_export.cli.options import grouped, stated
from luvc_export.cli.tables.console import styled, write
from luvc_export.core.options import option
from luvc_export.engines.options import BuildOptions, EngineOptions
from luvc_export.errors import UsageError
from luvc_export.runtime.session_options import SessionOptions


@grouped
def build(
    context: typer.Context,
    *,
    bundle: Path = option(..., "Bundle folder; what is built is written into it.", argument=True),
    target: str = option(..., "Device, as luvc-export targets lists them."),
    plan: str | None = option(None, "Plan of the bundle; default: its default; of CPUs: all."),
    engine: EngineOptions,
    building: BuildOptions,
    opening: SessionOptions,
    as_json: options.Json = False,
) -> None:
    """Build TensorRT engines of a bundle's plan for a device, or finish the graphs of all plans for a CPU.

    Options in mixed case are trtexec's.

    [dim]luvc-export build qwen-bundle --target rtx-ada
    luvc-export build qwen-bundle --target h100 --precision bf16 --images 4 --builderOptimizationLevel 5
    luvc-export build old-bundle --target intel-cpu[/dim]
    """
    from luvc_export.bundle.folder import load
    from luvc_export.cli.tables.engines import facts, fits
    from luvc_export.engines import library, targets
    from luvc_export.pipeline import build_engine

    record = targets.find(target)
    if record.graphs:
        if engines := stated(context, EngineOptions, BuildOptions):
            raise UsageError(
                "options of engines, for a target that runs graphs",
                where=f"--target {target}",
                got=", ".join(each.flag for each in engines),
                fix="leave them out",
            )
        _finish(bundle, target, plan, opening.verify, as_json)
        return
    library.check_builds(record)
    with options.progress(as_json) as tell:
        load(bundle, opening.verify, tell, task=None)
        built = build_engine(bundle, target, plan, engine=engine, options=building, progress=tell)
    entry = built.engine(plan, target)
    text = f"wrote {bundle / entry.vision.file} and {entry.decoder.file}; luvc-export inspect {bundle} shows more"
    write(as_json, {"bundle": str(bundle), "engine": asdict(entry)}, facts(entry), styled(fits(entry)), styled(text))


def _finish(bundle: Path, target: str, plan: str | None, verify: bool, as_json: bool) -> None:
    """Graphs of a target that runs graphs."""
    from luvc_export.bundle.folder import load
    from luvc_export.pipeline import finish_graphs

    with options.progress(as_json) as tell:
        load(bundle, verify, tell)
        written = finish_graphs(bundle, target, plan, tell).manifest
    sets = [one for one in written.sets if one.target == target and plan in (None, one.plan)]
    files = sorted({name for one in sets for name in one.files} - {one.decoder for one in written.plans.values()})
    size = sum(written.files[name].bytes for name in files) / 2**20
    text = f"wrote {len(files)} graphs for {target} into {bundle}, {size:.1f} MiB"
    none = f"{target} runs the graphs of {bundle} as they are"
    write(as_json, {"bundle": str(bundle), "sets": [asdict(one) for one in sets]}, text if files else none)
