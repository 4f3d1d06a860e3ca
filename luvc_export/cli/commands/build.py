"""``luvc-export build``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_bundle
from luvc_export.cli.groups import grouped
from luvc_export.cli.groups.engine import EngineOptions
from luvc_export.errors import UsageError

#: Parameters that graphs are finished with; all others are of engines.
_OF_GRAPHS = {"bundle", "target", "plan", "verify", "as_json"}


@grouped
def build(
    context: typer.Context,
    *,
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; what is built is written into it.")],
    target: Annotated[str, typer.Option("--target", help="Device, as luvc-export targets lists them.")],
    plan: Annotated[
        str | None, typer.Option("--plan", help="Plan of the bundle; default: its default; of CPUs: all.")
    ] = None,
    engine: EngineOptions,
    logits: Annotated[
        int, typer.Option("--logits", help="Positions of a call with logits: 1 to generate, more to compare.")
    ] = 1,
    version_compatible: Annotated[
        bool, typer.Option("--versionCompatible", help="The engines load in later versions of TensorRT too.")
    ] = False,
    hardware_compatibility: Annotated[
        str, typer.Option("--hardwareCompatibilityLevel", help="none, ampere+ or sameComputeCapability.")
    ] = "none",
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be replaced later.")] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", "--stripWeights", help="Plans without weights: refit before use.")
    ] = False,
    profiling_verbosity: Annotated[
        str, typer.Option("--profilingVerbosity", help="detailed, layer_names_only or none.")
    ] = "detailed",
    timing_cache: Annotated[
        Path | None, typer.Option("--timingCacheFile", help="Measured kernels; default: one for version and GPU.")
    ] = None,
    no_builder_cache: Annotated[bool, typer.Option("--noBuilderCache", help="Use no timing cache.")] = False,
    verify: options.Verify = False,
    as_json: options.Json = False,
) -> None:
    """Build TensorRT engines of a bundle's plan for a device, or finish the graphs of all plans for a CPU.

    Options in mixed case are trtexec's.

    [dim]luvc-export build qwen-bundle --target rtx-ada
    luvc-export build qwen-bundle --target h100 --precision bf16 --images 4 --builderOptimizationLevel 5
    luvc-export build old-bundle --target intel-cpu[/dim]
    """
    from luvc_export.engines import library, targets
    from luvc_export.pipeline import build_engine

    record = targets.find(target)
    if record.graphs:
        if engines := [name for name in options.given(context) if name not in _OF_GRAPHS]:
            raise UsageError(
                "options of engines, for a target that runs graphs",
                where=f"--target {target}",
                got=", ".join(map(options.flag, engines)),
                fix="leave them out",
            )
        _finish(bundle, target, plan, verify, as_json)
        return
    if no_builder_cache and timing_cache is not None:
        raise UsageError(
            "a cache is named and forbidden", where="--timingCacheFile, --noBuilderCache", fix="leave one of them out"
        )
    wanted = engine.arguments(
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        refit=refit,
        strip_weights=strip_weights,
        profiling_verbosity=profiling_verbosity,
        timing_cache=timing_cache,
        no_builder_cache=no_builder_cache,
    )
    library.check_builds(record)
    with options.progress(quiet=as_json) as tell:
        check_bundle(bundle, verify, tell)
        built = build_engine(bundle, target, plan, logits=logits, progress=tell, **wanted)
    entry = built.engine(plan, target)
    if as_json:
        print(json.dumps({"bundle": str(bundle), "engine": asdict(entry)}))
        return
    from luvc_export.cli.tables import console as consoles
    from luvc_export.cli.tables.engines import facts, fits

    console: Any = consoles.console()
    console.print(facts(entry))
    console.print(fits(entry))
    console.print(
        f"wrote {bundle / entry.vision.file} and {entry.decoder.file}; luvc-export inspect {bundle} shows more"
    )


def _finish(bundle: Path, target: str, plan: str | None, verify: bool, as_json: bool) -> None:
    """Graphs of a target that runs graphs."""
    from luvc_export.pipeline import finish_graphs

    with options.progress(quiet=as_json) as tell:
        check_bundle(bundle, verify, tell)
        written = finish_graphs(bundle, target, plan, tell).manifest
    sets = [one for one in written.sets if one.target == target and plan in (None, one.plan)]
    files = sorted({name for one in sets for name in one.files} - {one.decoder for one in written.plans.values()})
    if as_json:
        print(json.dumps({"bundle": str(bundle), "sets": [asdict(one) for one in sets]}))
    elif files:
        size = sum(written.files[name].bytes for name in files)
        print(f"wrote {len(files)} graphs for {target} into {bundle}, {size / 2**20:.1f} MiB")
    else:
        print(f"{target} runs the graphs of {bundle} as they are")
