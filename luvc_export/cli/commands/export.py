"""``luvc-export export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_model
from luvc_export.cli.groups import grouped
from luvc_export.cli.groups.data import MediaOptions
from luvc_export.cli.groups.graphs import BucketOptions, GraphOptions, LoraSlotOptions, VocabularyOptions
from luvc_export.cli.groups.plan import BudgetOptions, EncoderOptions, ScoreOptions, SharingOptions, check_shaping
from luvc_export.cli.groups.sizes import SizeOptions
from luvc_export.core.named_plans import DEFAULT_PLAN, NAMED
from luvc_export.core.plan import Plan, Sharing
from luvc_export.core.plan.request import PlanRequest
from luvc_export.errors import UsageError


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
    media: MediaOptions,
    shared: SharingOptions,
    graphs: GraphOptions,
    words: VocabularyOptions,
    slots: LoraSlotOptions,
    lora: Annotated[
        Path | None, typer.Option("--lora", help="Folder of a peft adapter to merge into the weights first.")
    ] = None,
    encoder: EncoderOptions,
    buckets: BucketOptions,
    budgets: BudgetOptions,
    ranking: ScoreOptions,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    revision: options.Revision = None,
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
    from luvc_export.core.plan.cost import cost
    from luvc_export.export.checkpoint import open_checkpoint
    from luvc_export.export.reading.remarks import remarks
    from luvc_export.pipeline import export_bundle, make_plans

    check_target(output, overwrite)
    check_folder(output, "--output")
    check_model(model, revision)
    written_as = graphs.arguments()
    checkpoint = open_checkpoint(model, revision, weights=not graphs.no_weights)
    named = _sources(plan or [], budgets.speedup, budgets.kv_mib)
    stated = options.given(context)
    check_shaping(stated, named.values())
    shared.check_frames(encoder.merge_frames)
    sharing = Sharing(quota=shared.quota)  # type: ignore[arg-type]
    request = PlanRequest(ranking.filtered(budgets.request()), encoder.request(), sharing)
    sizes = canvas.sizes(checkpoint)
    plans = make_plans(
        checkpoint,
        named,
        image_size=sizes,
        joint_frames=shared.joint_frames,
        joint_tiles=shared.tiles,
        unit_buckets=buckets.shares,
        request=request,
        **ranking.choices(),
    )
    ranking.check_used(plans.values())
    with options.progress(quiet=as_json) as tell:
        written = export_bundle(
            checkpoint,
            output,
            plans,
            image_size=sizes,
            tiles=media.grids(),
            video=media.video or shared.joint_frames is not None,
            unit_tolerance=buckets.unit_tolerance,
            overwrite=overwrite,
            lora=str(lora) if lora else None,
            progress=tell,
            **written_as,
            **words.arguments(),
            **slots.arguments(),
        )
    shape, codes = written.manifest.decoder, written.manifest.weights.stored
    notes = (*remarks(checkpoint), *(codes.notes if codes else ()))
    if as_json:
        costs = {name: cost(each, shape).to_json() for name, each in plans.items()}
        facts = {"bundle": str(output), "manifest": written.manifest.to_json(), "cost": costs, "notes": notes}
        print(json.dumps(facts))
        return
    from luvc_export.cli.tables import console as consoles
    from luvc_export.cli.tables.plans import cost_table

    for each in plans.values():
        consoles.console().print(cost_table(each, cost(each, shape)))
    for note in notes:
        print(f"note: {note}")
    if graphs.no_weights:
        print(f"wrote {output}, graphs without weights: luvc-export inspect {output} shows them")
    else:
        print(f"wrote {output}; ask it something: luvc-export run {output} --image cat.jpg --prompt '...'")


def _sources(plans: list[str], speedup: float | None, kv_mib: float | None) -> dict[str, str | list[int] | Plan]:
    """What was asked for by the plans' names; a goal makes a plan of its own, which only ``none`` may stand beside."""
    goals_stated = {"speedup": speedup, "kv-mib": kv_mib}
    goals = [f"{name}-{value:g}" for name, value in goals_stated.items() if value is not None]
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
