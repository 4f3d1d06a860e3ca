"""``luvc-export build``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import engine_options, options
from luvc_export.cli.files import check_bundle
from luvc_export.errors import UsageError


def build(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; the engines are written into it.")],
    target: Annotated[str, typer.Option("--target", help="Device, as luvc-export targets lists them.")],
    plan: Annotated[str | None, typer.Option("--plan", help="Plan of the bundle; default: its default.")] = None,
    precision: engine_options.Precision = None,
    kv: engine_options.Kv = None,
    text_capacity: engine_options.TextCapacity = None,
    images: engine_options.Images = 1,
    batch: engine_options.Batch = 1,
    adapters: engine_options.Adapters = None,
    logits: Annotated[
        int, typer.Option("--logits", help="Positions of a call with logits: 1 to generate, more to compare.")
    ] = 1,
    mem_pool_size: engine_options.MemPoolSize = "workspace:1024",
    optimization_level: engine_options.OptimizationLevel = 3,
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
    dynamic_plugins: engine_options.DynamicPlugins = None,
    device_memory: Annotated[
        float | None, typer.Option("--device-memory", help="GiB free on the device; default: its largest variant.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a quantised checkpoint's weights that would be widened or rounded.")
    ] = False,
    verify: options.Verify = False,
    as_json: options.Json = False,
) -> None:
    """Build TensorRT engines of a bundle's plan for a device.

    Options in mixed case are trtexec's.

    [dim]luvc-export build qwen-bundle --target rtx-ada
    luvc-export build qwen-bundle --target h100 --precision bf16 --images 4 --builderOptimizationLevel 5[/dim]
    """
    from luvc_export.engines import library, targets
    from luvc_export.engines.options import BuildOptions
    from luvc_export.pipeline import build_engine

    engine_options.check(precision, kv, device_memory)
    if no_builder_cache and timing_cache is not None:
        raise UsageError(
            "a cache is named and forbidden", where="--timingCacheFile, --noBuilderCache", fix="leave one of them out"
        )
    chosen = BuildOptions(
        workspace_mib=engine_options.workspace(mem_pool_size),
        builder_optimization_level=optimization_level,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,  # type: ignore[arg-type]
        refit=refit,
        strip_weights=strip_weights,
        profiling_verbosity=profiling_verbosity,  # type: ignore[arg-type]
        timing_cache=timing_cache,
        no_builder_cache=no_builder_cache,
        dynamic_plugins=dynamic_plugins,
    )
    library.check_builds(targets.find(target))
    with options.progress(quiet=as_json) as tell:
        check_bundle(bundle, verify, tell)
        built = build_engine(
            bundle,
            target,
            plan,
            precision=precision,  # type: ignore[arg-type]
            kv=kv,  # type: ignore[arg-type]
            text_capacity=text_capacity,
            images=images,
            batch=batch,
            adapters=adapters,
            logits=logits,
            options=chosen,
            device_memory_gib=device_memory,
            strict=strict,
            progress=tell,
        )
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
