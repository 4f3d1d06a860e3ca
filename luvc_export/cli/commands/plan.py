"""``luvc-export plan``."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_model, check_writable, write_whole
from luvc_export.cli.groups import grouped
from luvc_export.cli.groups.data import DataOptions, MediaOptions
from luvc_export.cli.groups.plan import (
    BudgetOptions,
    EncoderOptions,
    ScoreOptions,
    SharingOptions,
    check_media,
    check_shaping,
)
from luvc_export.cli.groups.sizes import ImageTokens, one_size
from luvc_export.cli.groups.time import TimeOptions, first_token, time_line
from luvc_export.core import planning
from luvc_export.core.named_plans import CLIPS, DEFAULT_PLAN, NAMED
from luvc_export.core.plan import Plan, Sharing

#: Options that only a search reads, and those it would contradict.
_SEARCH = ("tiles", "video", "retention", "count", "prompt", "held_out", "save", "max_new_tokens", "no_freeze")
_DIRECT = (
    "schedule",
    "merge_schedule",
    "merge_frames",
    "encoder_keep",
    "encoder_restore",
    "kv_mib",
    "last_layer",
    "kv_only",
    "score_option",
    "quota",
    "joint_tiles",
)


@grouped
def plan(
    context: typer.Context,
    *,
    model: Annotated[
        str, typer.Argument(help="Checkpoint folder, hub id or demo; without --data only its config is read.")
    ],
    schedule: options.PlanName = DEFAULT_PLAN,
    image_size: options.ImageSize = None,
    image_tokens: ImageTokens = None,
    media: MediaOptions,
    shared: SharingOptions,
    encoder_part: EncoderOptions,
    budgets: BudgetOptions,
    ranking: ScoreOptions,
    timed: TimeOptions,
    text: Annotated[
        int | None,
        typer.Option("--text", min=1, help="Text tokens counted in costs: 64, or with --data the median prompt's."),
    ] = None,
    aspect: Annotated[
        str | None,
        typer.Option("--aspect", metavar="W:H", help="Also say what budgets get of a picture of this shape, padded."),
    ] = None,
    kv: Annotated[
        str | None, typer.Option("--kv", help="Show caches stored so (calibrate --kv): int8. --kv-mib counts 16 bits.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the plan as JSON.")] = None,
    asked: DataOptions,
    retention: Annotated[
        float, typer.Option("--retention", help="Share of answers that must stay what they are uncompressed.")
    ] = 0.99,
    held_out: Annotated[float, typer.Option("--held-out", help="Share of the pictures kept for the check.")] = 0.5,
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

    [dim]luvc-export plan Qwen/Qwen2.5-VL-3B-Instruct --image-tokens 576 --time 3s -o plan.json[/dim]

    [dim]luvc-export plan MODEL --data questions.jsonl --retention 0.99 --save search -o searched.json[/dim]
    """
    from luvc_export.cli.tables.named import named_table
    from luvc_export.cli.tables.plans import cost_table, padded_line
    from luvc_export.core.plan.cost import cost, padded
    from luvc_export.core.precision import check_caches
    from luvc_export.errors import UsageError
    from luvc_export.export.checkpoint import open_checkpoint
    from luvc_export.pipeline import make_plan
    from luvc_export.pipeline.plans import check_grid, images_of_tiles, images_of_video

    data, stated, speed = asked.data, options.given(context), None
    wrong = [_flag(name) for name in stated if name in (_SEARCH if data is None else _DIRECT)]
    if wrong and data is None:
        raise UsageError("these options belong to a search", where=", ".join(wrong), fix="give --data too")
    if wrong:
        raise UsageError("--data searches the budgets itself", where=", ".join(wrong), fix="leave them out")
    timed.check(stated)
    shared.check_frames(encoder_part.merge_frames)
    if kv is not None:
        check_caches(kv)
        if data is not None and as_json:
            raise UsageError("the JSON of a search holds no costs", where="--kv", fix="leave out --kv, or --json")
    shape = None if aspect is None else options.aspect(aspect)
    check_writable(output, "--output")
    check_folder(save, "--save")
    check_model(model, revision)
    seen = encoder_part.request()
    checkpoint = open_checkpoint(model, revision, weights=data is not None)
    family, config = checkpoint.family, checkpoint.config
    llm, encoder = family.decoder_shape(config), family.encoder_shape(config)
    check_media(shared.joint_frames, shared.tiles)
    sharing = Sharing(quota=shared.quota)  # type: ignore[arg-type]
    if shared.joint_frames is not None:
        sharing = replace(sharing, images=images_of_video(checkpoint, shared.joint_frames))
    if shared.tiles is not None:
        sharing = replace(sharing, images=images_of_tiles(checkpoint, shared.tiles), tiles=shared.tiles)
    if data is not None:
        if budgets.speedup is not None and "retention" in stated:
            raise UsageError("a search is for a speed or a retention", where="--speedup, --retention", fix="give one")
        if ranking.steps is not None and ranking.score is None:
            raise UsageError("--steps is for a score that chooses in rounds", where="--steps", fix="give --score too")
        learned = "" if ranking.scorer is None else options.learned(ranking.score, ranking.scorer)[1]
        chosen = {"score": "learned" if learned else ranking.score, "rho": ranking.rho, "scorer": learned}
        choices: dict[str, Any] = {
            **chosen,
            "steps": ranking.steps,
            "axis": ranking.axis or "token",
            "spectrum": ranking.spectrum or "2d",
            "tiles": media.grids(),
            "video": media.video or shared.joint_frames is not None,
            "sharing": sharing,
            "retention": retention,
            "held_out": held_out,
            "speedup": budgets.speedup,
            "merge_keep": seen.merge_keep,
            "text": text,
            "freeze": not no_freeze,
        }
        result = _search(
            checkpoint,
            asked,
            one_size(image_size, image_tokens, checkpoint),
            choices,
            save,
            _command(context, stated),
            quiet=as_json,
        )
        _show(result, as_json)
        if not result.passed:
            raise result.failure
        planned, counted = result.chosen.plan, result.text
    else:
        counted = 64 if text is None else text
        source = options.plan_source(schedule)
        goals = [_flag(name) for name in stated if name in ("speedup", "kv_mib")]
        if goals and "schedule" in stated:
            raise UsageError(f"{goals[0]} solves the budgets itself", where="--plan", got=schedule, fix="leave it out")
        check_shaping(stated, [source])
        if isinstance(source, Plan):
            ranking.check_used([source])
        size = one_size(image_size, image_tokens, checkpoint)
        wanted = ranking.filtered(budgets.request(counted))
        if timed.time is not None:
            whole = make_plan(checkpoint, "none", image_size=size, request=planning.PlanRequest(sharing=sharing))
            side = f"{whole.grid[0]}x{whole.grid[1]} units"
            factor, speed = timed.speedup(whole, llm, encoder, counted, side)
            source, wanted = ("none", wanted) if factor <= 1 else (source, replace(wanted, speedup=factor))
        planned = (
            source
            if isinstance(source, Plan)
            else make_plan(
                checkpoint,
                source,
                image_size=size,
                request=planning.PlanRequest(wanted, seen, sharing),
                **ranking.choices(),
            )
        )
        if isinstance(source, Plan):
            planning.check_model(planned, llm, encoder)
            if size is not None:
                check_grid(checkpoint, planned, size)
    costs = cost(planned, llm, counted, encoder=encoder, caches=kv)
    fit = None if shape is None else padded(planned, llm, shape, counted)
    first = None if speed is None else first_token(planned, llm, encoder, counted, speed)
    if output is not None:
        write_whole(output, json.dumps(planned.to_json(), indent=1) + "\n")
    if as_json and data is None:
        padding = {} if fit is None else {"padded": asdict(fit)}
        timing = {} if first is None else {"first_token": first}
        print(json.dumps({"plan": planned.to_json(), "cost": costs.to_json()} | padding | timing))
    if not as_json:
        from luvc_export.cli.tables import console as consoles

        consoles.console().print(cost_table(planned, costs))
        if planned.schedule in NAMED:
            recipe = planning.recipe_of(planned, llm)
            images = planned.sharing.images if planned.schedule in CLIPS else None
            consoles.console().print(named_table(planned.grid, llm, encoder, counted, recipe, images))
        if first is not None:
            consoles.console().print(time_line(first), highlight=False, soft_wrap=True)
        if fit is not None:
            consoles.console().print(padded_line(planned, fit, str(aspect)), highlight=False, soft_wrap=True)


def _search(
    checkpoint: Any,
    asked: DataOptions,
    size: tuple[int, int] | None,
    choices: dict[str, Any],
    save: Path | None,
    command: str,
    quiet: bool,
) -> Any:
    """Read the data, search, and write the report into ``save``."""
    from luvc_export.calibration import tasks
    from luvc_export.calibration.budgets import report
    from luvc_export.calibration.budgets.run import budgets
    from luvc_export.calibration.parity.plots import canvas
    from luvc_export.pipeline.plans import default_image_size

    if save is not None:
        canvas()  # a missing matplotlib is told before the search, not after it
    if size is None:
        known = asked.data in tasks.names()
        size = tasks.find(str(asked.data)).image_size if known else default_image_size(checkpoint)
    with options.progress(quiet) as tell:
        questions = asked.load(tell)
        result = budgets(checkpoint, questions, size, folder=save, progress=tell, **choices)
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


def _command(context: typer.Context, stated: list[str]) -> str:
    """The command line that makes the same again."""
    params = context.params
    words = ["luvc-export", "plan", str(params["model"])]
    for name in stated:
        if name not in ("model", "as_json"):
            words += [_flag(name), str(params[name])]
    return shlex.join(words)
