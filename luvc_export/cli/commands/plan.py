"""``luvc-export plan``."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_model, check_writable, write_whole
from luvc_export.core import planning
from luvc_export.core.named_plans import DEFAULT_PLAN, NAMED
from luvc_export.core.plan import Plan

#: Options that only a search reads, and those it would contradict.
_SEARCH = ("tiles", "video", "retention", "count", "prompt", "held_out", "save", "max_new_tokens", "no_freeze")
_DIRECT = (
    "schedule",
    "merge_schedule",
    "encoder_keep",
    "encoder_restore",
    "kv_mib",
    "last_layer",
    "kv_only",
    "aggregate",
    "quota",
    "joint_tiles",
)


def plan(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Checkpoint folder, hub id or demo; without --data only its config is read.")
    ],
    schedule: options.PlanName = DEFAULT_PLAN,
    image_size: options.ImageSize = None,
    tiles: options.Tiles = None,
    video: Annotated[bool, typer.Option("--video", help="With --data: images have the frames of a video.")] = False,
    joint_frames: Annotated[
        int | None,
        typer.Option("--joint-frames", metavar="N", help="Budgets that N frames of a video share; implies --video."),
    ] = None,
    joint_tiles: options.JointTiles = None,
    merge_keep: Annotated[
        float | None,
        typer.Option("--merge-keep", help="Share of units that merging keeps; --data tries 1, 0.75 and 0.5."),
    ] = None,
    merge_schedule: options.MergeSchedule = "late",
    encoder_keep: options.EncoderKeep = None,
    encoder_restore: options.EncoderRestore = "all",
    speedup: options.Speedup = None,
    kv_mib: options.KvMib = None,
    score: options.Score = Plan.score,
    rho: options.Rho = Plan.rho,
    axis: options.Axis = Plan.axis,
    spectrum: options.Spectrum = Plan.spectrum,
    steps: options.Steps = Plan.steps,
    scorer: options.Scorer = None,
    last_layer: options.LastLayer = None,
    kv_only: options.KvOnly = None,
    aggregate: options.Aggregate = Plan.aggregate,
    quota: options.Quota = Plan.quota,
    text: Annotated[
        int | None,
        typer.Option("--text", min=1, help="Text tokens counted in costs: 64, or with --data the median prompt's."),
    ] = None,
    aspect: Annotated[
        str | None,
        typer.Option("--aspect", metavar="W:H", help="Also say what budgets get of a picture of this shape, padded."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the plan as JSON.")] = None,
    data: options.Data = None,
    retention: Annotated[
        float, typer.Option("--retention", help="Share of answers that must stay what they are uncompressed.")
    ] = 0.99,
    count: Annotated[int, typer.Option("--count", help="Questions taken from --data at most.")] = 2000,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="For pictures of a folder without a text file.")
    ] = None,
    held_out: Annotated[float, typer.Option("--held-out", help="Share of the pictures kept for the check.")] = 0.5,
    max_new_tokens: options.Longest = None,
    no_freeze: Annotated[bool, typer.Option("--no-freeze", help="With --data: freeze no layer (--kv-only).")] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save", metavar="DIR", help="Folder for report, plots and measurements; a search goes on there."
        ),
    ] = None,
    revision: options.Revision = None,
    as_json: options.Json = False,
) -> None:
    """Make a plan and show what it costs; with --data, search the cheapest one that keeps the model's answers.

    Exit code 1 if the searched plan does not hold on the part of the data that was held out.

    [dim]luvc-export plan Qwen/Qwen2.5-VL-3B-Instruct --image-size 896x896 --speedup 2[/dim]

    [dim]luvc-export plan MODEL --data questions.jsonl --retention 0.99 --save search -o searched.json[/dim]
    """
    from luvc_export.cli.tables.named import named_table
    from luvc_export.cli.tables.plans import cost_table, padded_line
    from luvc_export.core.cost_report import cost, padded
    from luvc_export.errors import UsageError
    from luvc_export.export.checkpoint import open_checkpoint
    from luvc_export.pipeline import make_plan
    from luvc_export.pipeline.plans import check_grid, images_of_tiles, images_of_video

    given = options.given(context)
    wrong = [_flag(name) for name in given if name in (_SEARCH if data is None else _DIRECT)]
    if wrong and data is None:
        raise UsageError("these options belong to a search", where=", ".join(wrong), fix="give --data too")
    if wrong:
        raise UsageError("--data searches the budgets itself", where=", ".join(wrong), fix="leave them out")
    shape = None if aspect is None else options.aspect(aspect)
    leaving = options.encoder_prune(encoder_keep, encoder_restore)
    check_writable(output, "--output")
    check_folder(save, "--save")
    check_model(model, revision)
    ranking = options.score_switches(score, scorer, given)
    filtering = {"rho": rho, "axis": axis, "spectrum": spectrum, "steps": steps}
    switches: dict[str, Any] = ranking | {name: value for name, value in filtering.items() if name in given}
    checkpoint = open_checkpoint(model, revision, weights=data is not None)
    family, config = checkpoint.family, checkpoint.config
    llm, encoder = family.decoder_shape(config), family.encoder_shape(config)
    joint = 1 if joint_frames is None else images_of_video(checkpoint, joint_frames)
    shared = options.joint_tiles(joint_tiles)
    if shared is not None:
        if joint_frames is not None:
            raise UsageError("a plan is for frames or for tiles", where="--joint-frames, --joint-tiles", fix="give one")
        joint = images_of_tiles(checkpoint, shared)
    if data is not None:
        media = {"tiles": options.grids(tiles), "video": video or joint_frames is not None, "joint_images": joint}
        if speedup is not None and "retention" in given:
            raise UsageError("a search is for a speed or a retention", where="--speedup, --retention", fix="give one")
        if steps and "score" not in given:
            raise UsageError("--steps is for a score that chooses in rounds", where="--steps", fix="give --score too")
        judged = {"retention": retention, "held_out": held_out, "speedup": speedup}
        result = _search(
            checkpoint,
            data,
            options.size(image_size),
            {"count": count, "prompt": prompt, "longest": max_new_tokens},
            {**judged, "merge_keep": merge_keep, "text": text, "freeze": not no_freeze, **switches, **media},
            save,
            _command(context, given),
            quiet=as_json,
        )
        _show(result, as_json)
        if not result.passed:
            raise result.failure
        made, counted = result.chosen.plan, result.text
    else:
        counted = 64 if text is None else text
        goals = [_flag(name) for name in given if name in ("speedup", "kv_mib")]
        source = options.plan_source(schedule)
        if goals and "schedule" in given:
            raise UsageError(f"{goals[0]} solves the budgets itself", where="--plan", got=schedule, fix="leave it out")
        options.check_shaping(given, [source])
        if scorer is not None and isinstance(source, Plan):
            options.check_scorer_used(ranking["scorer"], [source])
        size = options.size(image_size)
        made = (
            source
            if isinstance(source, Plan)
            else make_plan(
                checkpoint,
                source,
                image_size=size,
                merge_keep=merge_keep,
                merge_schedule=merge_schedule,
                encoder_prune=leaving,
                speedup=speedup,
                kv_mib=kv_mib,
                text=counted,
                last_layer=last_layer,  # type: ignore[arg-type]
                kv_only=options.layers(kv_only),
                joint_images=joint,
                joint_tiles=shared,
                aggregate=aggregate,
                quota=quota,
                **switches,
            )
        )
        if isinstance(source, Plan):
            planning.check_model(made, llm, encoder)
            if size is not None:
                check_grid(checkpoint, made, size)
    costs = cost(made, llm, counted, encoder=encoder)
    fit = None if shape is None else padded(made, llm, shape, counted)
    if output is not None:
        write_whole(output, json.dumps(made.to_json(), indent=1) + "\n")
    if as_json and data is None:
        told = {} if fit is None else {"padded": asdict(fit)}
        print(json.dumps({"plan": made.to_json(), "cost": costs.to_json()} | told))
    if not as_json:
        from luvc_export.cli.tables import console as consoles

        consoles.console().print(cost_table(made, costs))
        if made.schedule in NAMED:
            consoles.console().print(named_table(made.grid, llm, encoder, counted, made.schedule))
        if fit is not None:
            consoles.console().print(padded_line(made, fit, str(aspect)), highlight=False, soft_wrap=True)


def _search(
    checkpoint: Any,
    source: str,
    size: tuple[int, int] | None,
    reading: dict[str, Any],
    choices: dict[str, Any],
    save: Path | None,
    command: str,
    quiet: bool,
) -> Any:
    """Read the data, search, and write the report into ``save``."""
    from luvc_export.calibration import datasets, tasks
    from luvc_export.calibration.budgets import report
    from luvc_export.calibration.budgets.run import budgets
    from luvc_export.calibration.parity.plots import canvas
    from luvc_export.pipeline.plans import default_image_size

    if save is not None:
        canvas()  # a missing matplotlib is told before the search, not after it
    if size is None:
        known = source in tasks.names()
        size = tasks.find(source).image_size if known else default_image_size(checkpoint)
    with options.progress(quiet) as tell:
        found = datasets.load(source, progress=tell, **reading)
        result = budgets(checkpoint, found, size, folder=save, progress=tell, **choices)
    if save is not None:
        report.write(result, save, command)
    return result


def _show(result: Any, as_json: bool) -> None:
    from rich.table import Table

    from luvc_export.calibration.budgets import report
    from luvc_export.cli.tables import console as consoles

    if as_json:
        print(json.dumps(result.to_json()))
        return
    console = consoles.console()
    for title, head, rows in (
        ("frontier, calibration part", report.FRONTIER, report.frontier_rows(result)),
        ("held-out part", report.HELD_OUT, report.held_out_rows(result)),
    ):
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in report.summary(result):
        console.print(line, highlight=False)


def _flag(name: str) -> str:
    return "--plan" if name == "schedule" else options.flag(name)


def _command(context: typer.Context, given: list[str]) -> str:
    """The command line that makes the same again."""
    params = context.params
    words = ["luvc-export", "plan", str(params["model"])]
    for name in given:
        if name not in ("model", "as_json"):
            words += [_flag(name), str(params[name])]
    return shlex.join(words)
