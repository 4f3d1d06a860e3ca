"""``luvc-export build``."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.errors import UsageError


def build(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; the engines are written into it.")],
    target: Annotated[str, typer.Option("--target", help="Device, as luvc-export targets lists them.")],
    plan: Annotated[str | None, typer.Option("--plan", help="Plan of the bundle; default: its default.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp16, bf16 or fp32; default: the bundle's if 16-bit, else fp16.")
    ] = None,
    kv: Annotated[
        str | None, typer.Option("--kv", help="inplace (fixed capacity) or concat (grows); default: the target's.")
    ] = None,
    text_capacity: Annotated[
        int | None, typer.Option("--text-capacity", help="Text tokens, prompt and answer; default: the bundle's.")
    ] = None,
    images: Annotated[int, typer.Option("--images", help="Images of a conversation.")] = 1,
    batch: Annotated[int, typer.Option("--batch", help="Rows of a batch.")] = 1,
    logits: Annotated[
        int, typer.Option("--logits", help="Positions of a call with logits: 1 to generate, more to compare.")
    ] = 1,
    mem_pool_size: Annotated[
        str, typer.Option("--memPoolSize", help="workspace:MiB, scratch memory of one layer.")
    ] = "workspace:1024",
    optimization_level: Annotated[
        int, typer.Option("--builderOptimizationLevel", help="0 (fast build) to 5 (fast engine).")
    ] = 3,
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
    dynamic_plugins: Annotated[
        Path | None, typer.Option("--dynamicPlugins", help="libluvc_plugins.so, for engines that call its kernels.")
    ] = None,
    device_memory: Annotated[
        float | None, typer.Option("--device-memory", help="GiB free on the device; default: its largest variant.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Build TensorRT engines of a bundle's plan for a device.

    Options in mixed case are trtexec's.

    [dim]luvc-export build qwen-bundle --target rtx-ada
    luvc-export build qwen-bundle --target h100 --precision bf16 --images 4 --builderOptimizationLevel 5[/dim]
    """
    from luvc_export.engines.options import BuildOptions
    from luvc_export.pipeline import build_engine

    if precision is not None:
        options.choice("--precision", precision, ("fp16", "bf16", "fp32"))
    if kv is not None:
        options.choice("--kv", kv, ("inplace", "concat"))
    chosen = BuildOptions(
        workspace_mib=workspace(mem_pool_size),
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
    with options.progress(quiet=as_json) as tell:
        built = build_engine(
            bundle,
            target,
            plan,
            precision=precision,  # type: ignore[arg-type]
            kv=kv,  # type: ignore[arg-type]
            text_capacity=text_capacity,
            images=images,
            batch=batch,
            logits=logits,
            options=chosen,
            device_memory_gib=device_memory,
            progress=tell,
        )
    entry = built.engine(plan, target)
    if as_json:
        print(json.dumps({"bundle": str(bundle), "engine": asdict(entry)}))
        return
    from rich.console import Console

    from luvc_export.cli.engine_tables import facts, fits

    console: Any = Console()
    console.print(facts(entry))
    console.print(fits(entry))
    console.print(
        f"wrote {bundle / entry.vision.file} and {entry.decoder.file}; luvc-export inspect {bundle} shows more"
    )


def workspace(text: str) -> int:
    """MiB of trtexec's ``workspace:N``, N in MiB or with a suffix K, M or G.

    Raises:
        UsageError: It is something else.
    """
    match = re.fullmatch(r"workspace:(\d+)([KMG]?)(?:iB|B)?", text)
    if match is None:
        raise UsageError(
            "cannot read the memory pool", where="--memPoolSize", got=repr(text), expected="workspace:MiB, or with G"
        )
    return int(match[1]) * {"": 1, "M": 1, "G": 1024, "K": 0}[match[2]] + (int(match[1]) >> 10) * (match[2] == "K")
