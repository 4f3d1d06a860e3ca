"""``luvc-export export``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_model
from luvc_export.cli.grouped import grouped, stated
from luvc_export.cli.groups import ScoreOptions, SizeOptions, check_shaping
from luvc_export.core.named_plans import DEFAULT_PLAN, NAMED
from luvc_export.core.options.texts import percentages
from luvc_export.core.plan import Plan, Sharing
from luvc_export.core.plan.request import EncoderRequest, LlmRequest, PlanRequest, check_frames
from luvc_export.errors import UsageError
from luvc_export.pipeline.export_options import ExportOptions

if TYPE_CHECKING:
    from luvc_export.bundle.folder import Bundle


@grouped
def export(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Argument(help="Checkpoint folder, hub id, or demo for the bundled model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Bundle folder to write.")],
    plan: Annotated[
        list[str] | None,
        typer.Option(
            "--plan",
            help=f"{', '.join(NAMED)}, none, a schedule, a JSON file or 64,32,0; repeat. Default: {DEFAULT_PLAN}.",
        ),
    ] = None,
    canvas: SizeOptions,
    asked: ExportOptions,
    no_weights: Annotated[bool, typer.Option("--no-weights", help="Graphs alone, from the config.")] = False,
    encoder: EncoderRequest,
    unit_buckets: Annotated[
        str | None,
        typer.Option(
            "--unit-buckets",
            metavar="25,50,..",
            help="Percent of units: also graphs of fewer, for pictures whose other units neighbours foretell; no "
            "merging.",
        ),
    ] = None,
    llm: LlmRequest,
    sharing: Sharing,
    ranking: ScoreOptions,
    as_json: options.Json = False,
) -> None:
    """Export a checkpoint to a bundle of compressed ONNX graphs.

    [dim]luvc-export export Qwen/Qwen2.5-VL-3B-Instruct -o qwen-bundle --image-size 896x896[/dim]

    [dim]luvc-export export Qwen/Qwen2.5-VL-3B-Instruct -o qwen-bundle --image-tokens 256,1024[/dim]

    [dim]luvc-export export Qwen/Qwen3-VL-4B-Instruct -o films --image-size 448x448 --joint-frames 16[/dim]

    [dim]luvc-export export Qwen/Qwen3-VL-4B-Instruct -o pages --image-size 1120x800 --unit-buckets 25,50,75,100[/dim]

    [dim]luvc-export export Qwen/Qwen3-VL-4B-Instruct -o short --vocab 32768 --data questions.jsonl[/dim]

    [dim]luvc-export export Qwen/Qwen3-VL-4B-Instruct -o served --lora-slots 16[/dim]

    [dim]luvc-export export OpenGVLab/InternVL3-1B-hf -o internvl-bundle --tiles 1x1 --tiles 2x2 --tiles 2x3[/dim]
    """
    from luvc_export.bundle.folder import check_target
    from luvc_export.export.checkpoint import open_checkpoint
    from luvc_export.export.reading.remarks import remarks
    from luvc_export.pipeline import export_bundle, make_plans

    check_target(output, asked.overwrite)
    check_folder(output, "--output")
    check_model(model, asked.revision)
    if no_weights:
        asked = replace(asked, weights="none")
    checkpoint = open_checkpoint(model, asked.revision, weights=not no_weights)
    named = _sources(plan or [], llm)
    check_shaping(stated(context, EncoderRequest, LlmRequest, Sharing, ScoreOptions), named.values())
    check_frames(encoder, asked.joint_frames)
    sizes = canvas.sizes(checkpoint)
    plans = make_plans(
        checkpoint,
        named,
        image_size=sizes,
        joint_frames=asked.joint_frames,
        joint_tiles=asked.joint_tiles,
        unit_buckets=percentages(unit_buckets),
        request=PlanRequest(llm, encoder, sharing),
        **ranking.choices(),
    )
    ranking.check_used(plans.values())
    video = asked.video or asked.joint_frames is not None
    asked = replace(asked, video=video, joint_frames=None, joint_tiles=None)  # the plans say it now
    with options.progress(quiet=as_json) as tell:
        written = export_bundle(checkpoint, output, plans, image_size=sizes, options=asked, progress=tell)
    _show(written, plans, remarks(checkpoint), as_json)


def _show(written: Bundle, plans: Mapping[str, Plan], remarks: Iterable[str], as_json: bool) -> None:
    from luvc_export.cli.tables import console as consoles
    from luvc_export.cli.tables.named import cost_table
    from luvc_export.core.plan.cost import cost

    folder, manifest = written.folder, written.manifest
    codes = manifest.weights.stored
    notes = (*remarks, *(codes.notes if codes else ()))
    costs = {name: cost(each, manifest.decoder) for name, each in plans.items()}
    if as_json:
        priced = {name: each.to_json() for name, each in costs.items()}
        print(json.dumps({"bundle": str(folder), "manifest": manifest.to_json(), "cost": priced, "notes": notes}))
        return
    for name, each in plans.items():
        consoles.console().print(cost_table(each, costs[name]))
    for note in notes:
        print(f"note: {note}")
    if manifest.weights.mode == "none":
        print(f"wrote {folder}, graphs without weights: luvc-export inspect {folder} shows them")
    else:
        print(f"wrote {folder}; ask it something: luvc-export run {folder} --image cat.jpg --prompt '...'")


def _sources(plans: list[str], llm: LlmRequest) -> dict[str, str | list[int] | Plan]:
    """What was asked for by the plans' names; a goal makes a plan of its own, which only ``none`` may stand beside."""
    goals = [f"{name.replace('_', '-')}-{value:g}" for name, value in llm.goals().items()]
    if not goals:
        return {options.plan_name(name): options.plan_source(name) for name in plans or [DEFAULT_PLAN]}
    if others := [name for name in plans if name != "none"]:
        raise UsageError(
            "--speedup and --kv-mib solve the budgets themselves",
            where="--plan",
            got=", ".join(others),
            expected="no --plan, or --plan none for the uncompressed model beside it",
            fix="to have both, write the solved plan to a file first: luvc-export plan MODEL --speedup 2 -o FILE.json",
        )
    return {goals[0]: DEFAULT_PLAN, **dict.fromkeys(plans, "none")}
