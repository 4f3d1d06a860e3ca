"""``luvc-export plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luvc_export.cli import options
from luvc_export.plan import Plan


def plan(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub id; only its config is read.")],
    schedule: options.PlanName = "even",
    image_size: options.ImageSize = None,
    merge_keep: options.MergeKeep = 0.75,
    speedup: options.Speedup = None,
    kv_mib: options.KvMib = None,
    score: options.Score = Plan.score,
    rho: options.Rho = Plan.rho,
    axis: options.Axis = Plan.axis,
    spectrum: options.Spectrum = Plan.spectrum,
    last_layer: options.LastLayer = None,
    text: options.Text = 64,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the plan as JSON.")] = None,
    revision: options.Revision = None,
    as_json: options.Json = False,
) -> None:
    """Make a plan and show what it costs.

    [dim]luvc-export plan Qwen/Qwen2.5-VL-3B-Instruct --image-size 896x896 --speedup 2[/dim]
    """
    from luvc_export.cli.tables import cost_table
    from luvc_export.export.checkpoint import open_checkpoint
    from luvc_export.report import cost

    checkpoint = open_checkpoint(model, revision, weights=False)
    made = options.make(
        checkpoint,
        schedule,
        options.size(image_size),
        merge_keep=merge_keep,
        speedup=speedup,
        kv_mib=kv_mib,
        text=text,
        last_layer=last_layer,
        score=score,
        rho=rho,
        axis=axis,
        spectrum=spectrum,
    )
    costs = cost(made, checkpoint.family.decoder_shape(checkpoint.config), text)
    if output is not None:
        scratch = output.with_name(f".{output.name}.part")
        scratch.write_text(json.dumps(made.to_json(), indent=1) + "\n", encoding="utf-8")
        scratch.replace(output)
    if as_json:
        print(json.dumps({"plan": made.to_json(), "cost": costs.to_json()}))
        return
    from rich.console import Console

    Console().print(cost_table(made, costs))
