"""``luvc-export plan``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_model, check_writable, write_whole
from luvc_export.cli.groups import ScoreOptions, SearchOptions, SizeOptions, check_shaping, learned, one_size
from luvc_export.cli.options import given, grouped, stated
from luvc_export.cli.tables.console import table, unwrapped, write
from luvc_export.core import planning
from luvc_export.core.named_plans import CLIPS, DEFAULT_PLAN, NAMED
from luvc_export.core.options import flag, option
from luvc_export.core.plan import STRIPED, Plan, Sharing
from luvc_export.core.plan.request import EncoderRequest, LlmRequest, check_frames
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import UsageError
from luvc_export.pipeline.export_options import ExportOptions

if TYPE_CHECKING:
    from luvc_export.export.checkpoint import Checkpoint
    from luvc_export.runtime.speed_probe.first_token import Speed


@dataclass(frozen=True)
class TimeOptions:
    """A goal in time, and the engine whose time it is."""

    time: str | None = option(
        None, "Solve budgets for this time to the first token on this CPU, by estimate.", metavar="500ms"
    )
    backend: str | None = option(
        None,
        "With --time: openvino or cpu; default: the first that is installed.",
        choices=("openvino", "cpu"),
    )

    def check(self, others: Sequence[str]) -> None:
        """Refuse what contradicts a time, before the work: ``others``, options of the command line.

        Raises:
            UsageError: Another goal or plan is asked for, or a back-end without a time.
        """
        if self.time is None and self.backend is not None:
            raise UsageError("a back-end is timed for a goal in time", where="--backend", fix="give --time too")
        if self.time is not None and others:
            what = "--time solves the budgets itself, for the whole encoder"
            raise UsageError(what, where=", ".join(others), fix="leave them out")

    def speedup(
        self, whole: Plan, llm: DecoderShape, encoder: EncoderShape, text: int, size: str
    ) -> tuple[float, Speed]:
        """Factor on LLM prefill FLOPs that meets the goal, 1 or less where nothing need go, and what it rests on.

        Raises:
            UsageError: ``--time`` cannot be read.
            PlanError: The encoder alone takes as long.
            MachineError: No engine to be timed is installed.
        """
        from luvc_export.runtime.speed_probe.first_token import predicted, probe, seconds, speedup_for

        goal = seconds(str(self.time))
        speed = probe(whole, llm, encoder, self.backend)
        return speedup_for(goal, predicted(whole, llm, encoder, text, speed), size), speed


def time_line(facts: dict[str, Any]) -> str:
    """One line for people on ``first_token.to_json``."""
    rates = f"{facts['encoder_flops_per_s'] / 1e9:.0f} and {facts['llm_flops_per_s'] / 1e9:.0f} GFLOP/s"
    return (
        f"first token here: about {facts['first_token_s'] * 1000:.0f} ms with {facts['engine']} in"
        f" {facts['arithmetic']} (encoder {facts['encoder_s'] * 1000:.0f}, LLM {facts['llm_s'] * 1000:.0f};"
        f" products timed just now at {rates})"
    )


#: What a search heeds and a profile does not.
_SEARCHED = ("held_out", "no_freeze", "merge_keep", "speedup")
#: What the command asks for beside the plan's name and the output.
_RECORDS = (SizeOptions, ExportOptions, Sharing, EncoderRequest, LlmRequest, ScoreOptions, TimeOptions, SearchOptions)


@grouped
def plan(
    context: typer.Context,
    *,
    model: str = option(
        ..., "Checkpoint folder, hub id or demo; without --data only its config is read.", argument=True
    ),
    schedule: str = option(
        DEFAULT_PLAN, f"{', '.join(NAMED)}, none, a schedule, a plan's JSON file, or budgets: 64,32,0.", "--plan"
    ),
    image_size: options.ImageSize = None,
    canvas: SizeOptions,
    media: ExportOptions,
    sharing: Sharing,
    encoder_part: EncoderRequest,
    budgets: LlmRequest,
    ranking: ScoreOptions,
    timed: TimeOptions,
    text: int | None = option(None, "Text tokens counted in costs: 64, or with --data the median prompt's.", least=1),
    aspect: str | None = option(None, "Also say what budgets get of a picture of this shape, padded.", metavar="W:H"),
    kv: str | None = option(None, "Show caches stored so (calibrate --kv): int8. --kv-mib counts 16 bits."),
    output: Path | None = option(None, "Write the plan as JSON.", "-o", "--output"),
    asked: SearchOptions,
    as_json: options.Json = False,
) -> None:
    """Make a plan and show what it costs; with --data, search the cheapest one that keeps the model's answers.

    With --data and --plan striped, measure by depth where the model needs the picture, and propose stripes.

    Exit code 1 if the plan does not hold on the part of the data that was held out, or its minutes are over.

    [dim]luvc-export plan Qwen/Qwen2.5-VL-3B-Instruct --image-size 896x896 --speedup 2[/dim]

    [dim]luvc-export plan Qwen/Qwen2.5-VL-3B-Instruct --image-tokens 576 --time 3s -o plan.json[/dim]

    [dim]luvc-export plan MODEL --data questions.jsonl --retention 0.99 --save search -o searched.json[/dim]

    [dim]luvc-export plan MODEL --data questions.jsonl --plan striped --count 800 --save depth -o striped.json[/dim]
    """
    from luvc_export.export.checkpoint import open_checkpoint

    data = asked.data
    _check_stated(context, asked, timed, schedule)
    _check_caches(kv, data is not None and as_json)
    check_frames(encoder_part, media.joint_frames)
    shape = None if aspect is None else _ratio(aspect)
    check_writable(output, "--output")
    check_folder(asked.save, "--save")
    check_model(model, media.revision)
    checkpoint = open_checkpoint(model, media.revision, weights=data is not None)
    size = one_size(image_size, canvas.image_tokens, checkpoint)
    request = planning.PlanRequest(budgets, encoder_part, _shared(checkpoint, sharing, media))
    shown = _Shown(checkpoint, kv, aspect, shape)
    if data is not None:
        if budgets.speedup is not None and asked.retention is not None:
            raise UsageError("a search is for a speed or a retention", where="--speedup, --retention", fix="give one")
        searched = {"speedup": budgets.speedup, "merge_keep": encoder_part.merge_keep}
        common = _choices(request, ranking, media, text)
        own = None if schedule == STRIPED else searched
        result = asked.result(checkpoint, size, common, own, _command(context), as_json)
        from luvc_export.calibration.budgets import report

        tables = (table(rows, *head, title=title) for title, head, rows in report.tables(result))
        write(as_json, result.to_json(), *tables, *map(unwrapped, report.summary(result)))
        if not result.passed:
            raise result.failure
        planned, counted, speed = result.chosen.plan, result.text, None
    else:
        counted, source = 64 if text is None else text, options.plan_source(schedule)
        if given(context, "schedule") and (goals := [flag(name) for name in budgets.goals()]):
            raise UsageError(f"{goals[0]} solves the budgets itself", where="--plan", got=schedule, fix="leave it out")
        check_shaping(stated(context, *_RECORDS), [source])
        if isinstance(source, Plan):
            from luvc_export.pipeline.plans import check_shared

            check_shared({schedule: source}, media.joint_frames, media.joint_tiles)
        planned, speed = _planned(checkpoint, source, size, request, ranking, timed, counted)
    if output is not None:
        write_whole(output, json.dumps(planned.to_json(), indent=1) + "\n")
    if data is None or not as_json:
        facts = shown.to_json(planned, counted, speed)
        write(as_json, facts, lambda: shown.tables(planned, counted, speed))


def _ratio(text: str) -> float:
    """Parse ``W:H``: how many times as wide as high.

    Raises:
        UsageError: It is no such pair.
    """
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text.strip())
    if not match:
        raise UsageError("cannot read the shape", where="--aspect", got=text, expected="W:H, such as 16:9")
    return int(match[1]) / int(match[2])


def _check_stated(context: typer.Context, asked: SearchOptions, timed: TimeOptions, schedule: str) -> None:
    """Refuse options of the command line that contradict each other."""
    options_stated, data = stated(context, *_RECORDS), asked.data
    named = ["--plan"] if given(context, "schedule") else []
    flags = {
        tag: [each.flag for each in options_stated if tag in each.option.tags]
        for tag in ("searches", "by hand", "goal", "encoder", "instead of time")
    }
    striped = data is not None and schedule == STRIPED
    if data is None and (wrong := flags["searches"]):
        raise UsageError("these options belong to a search", where=", ".join(wrong), fix="give --data too")
    if data is not None and (wrong := named * (not striped) + flags["by hand"]):
        raise UsageError("--data searches the budgets itself", where=", ".join(wrong), fix="leave them out")
    if striped and (wrong := [each.flag for each in options_stated if each.name in _SEARCHED]):
        raise UsageError("a profile by depth heeds no such option", where=", ".join(wrong), fix="leave them out")
    if asked.minutes is not None and not (striped and asked.save is not None and asked.minutes > 0):
        what, fix = "a profile by depth ends in time, and goes on where it is saved", "--plan striped --save DIR"
        raise UsageError(what, where="--minutes", got=asked.minutes, expected="more than 0", fix=fix)
    timed.check([*flags["goal"], *named, *flags["instead of time"], *flags["encoder"]])


def _check_caches(kv: str | None, only_json: bool) -> None:
    """Refuse caches that nobody stores, and costs of them where only a search's JSON comes out."""
    from luvc_export.core.precision import check_caches

    if kv is not None:
        check_caches(kv)
        if only_json:
            raise UsageError("the JSON of a search holds no costs", where="--kv", fix="leave out --kv, or --json")


def _shared(checkpoint: Checkpoint, sharing: Sharing, media: ExportOptions) -> Sharing:
    """What images share a budget: those of ``--joint-frames`` or ``--joint-tiles``."""
    from luvc_export.pipeline.plans import images_of_tiles, images_of_video

    frames, tiles = media.joint_frames, media.joint_tiles
    if frames is not None and tiles is not None:
        raise UsageError("a plan is for frames or for tiles", where="--joint-frames, --joint-tiles", fix="give one")
    if frames is not None:
        return replace(sharing, images=images_of_video(checkpoint, frames))
    return sharing if tiles is None else replace(sharing, images=images_of_tiles(checkpoint, tiles), tiles=tiles)


def _planned(
    checkpoint: Checkpoint,
    source: str | list[int] | Plan,
    size: tuple[int, int] | None,
    request: planning.PlanRequest,
    ranking: ScoreOptions,
    timed: TimeOptions,
    text: int,
) -> tuple[Plan, Speed | None]:
    """The plan that is asked for, and what its time rests on, where that is the goal."""
    from luvc_export.pipeline import make_plan
    from luvc_export.pipeline.plans import check_grid

    llm, encoder = _shapes(checkpoint)
    if isinstance(source, Plan):
        ranking.check_used([source])
        planning.check_model(source, llm, encoder)
        if size is not None:
            check_grid(checkpoint, source, size)
        return source, None
    wanted, speed = replace(request.llm, text=text), None
    if timed.time is not None:
        sharing = planning.PlanRequest(sharing=request.sharing)
        whole = make_plan(checkpoint, "none", image_size=size, request=sharing)
        factor, speed = timed.speedup(whole, llm, encoder, text, f"{whole.grid[0]}x{whole.grid[1]} units")
        source, wanted = ("none", wanted) if factor <= 1 else (source, replace(wanted, speedup=factor))
    request = replace(request, llm=wanted)
    return make_plan(checkpoint, source, image_size=size, request=request, **ranking.choices()), speed


def _shapes(checkpoint: Checkpoint) -> tuple[DecoderShape, EncoderShape]:
    family, config = checkpoint.family, checkpoint.config
    return family.decoder_shape(config), family.encoder_shape(config)


@dataclass(frozen=True)
class _Shown:
    """What a plan costs, as a table and as JSON."""

    checkpoint: Checkpoint
    caches: str | None
    aspect: str | None
    shape: float | None

    def to_json(self, plan: Plan, text: int, speed: Speed | None) -> dict[str, Any]:
        """Plain data."""
        from luvc_export.runtime.speed_probe.first_token import predicted, to_json

        costs, fit = self._costs(plan, text)
        facts: dict[str, Any] = {"plan": plan.to_json(), "cost": costs.to_json()}
        if fit is not None:
            facts["padded"] = asdict(fit)
        if speed is not None:
            facts["first_token"] = to_json(predicted(plan, *_shapes(self.checkpoint), text, speed), speed)
        return facts

    def tables(self, plan: Plan, text: int, speed: Speed | None) -> Iterator[Any]:
        """Tables and lines for people."""
        from luvc_export.cli.tables.named import cost_table, named_table, padded_line

        costs, fit = self._costs(plan, text)
        yield cost_table(plan, costs)
        if plan.schedule in NAMED:
            llm, encoder = _shapes(self.checkpoint)
            moments = plan.sharing.images if plan.schedule in CLIPS else None
            yield named_table(plan.grid, llm, encoder, text, planning.recipe_of(plan, llm), moments)
        if speed is not None:
            yield unwrapped(time_line(self.to_json(plan, text, speed)["first_token"]))
        if fit is not None:
            yield unwrapped(padded_line(plan, fit, str(self.aspect)))

    def _costs(self, plan: Plan, text: int) -> tuple[Any, Any]:
        from luvc_export.core.plan.cost import cost, padded

        llm, encoder = _shapes(self.checkpoint)
        costs = cost(plan, llm, text, encoder=encoder, caches=self.caches)
        return costs, None if self.shape is None else padded(plan, llm, self.shape, text)


def _choices(
    request: planning.PlanRequest, ranking: ScoreOptions, media: ExportOptions, text: int | None
) -> dict[str, Any]:
    """What searches and profiles of ``calibration.budgets`` take by name."""
    if ranking.steps is not None and ranking.score is None:
        raise UsageError("--steps is for a score that chooses in rounds", where="--steps", fix="give --score too")
    scorer = "" if ranking.scorer is None else learned(ranking.score, ranking.scorer)[1]
    return {
        "score": "learned" if scorer else ranking.score,
        "rho": ranking.rho,
        "scorer": scorer,
        "steps": ranking.steps,
        "axis": request.llm.axis or "token",
        "spectrum": request.llm.spectrum or "2d",
        "tiles": media.tiles,
        "video": media.video or media.joint_frames is not None,
        "sharing": request.sharing,
        "text": text,
    }


def _command(context: typer.Context) -> str:
    """The command line that makes the same again."""
    words = ["luvc-export", "plan", str(context.params["model"])]
    every = {"schedule": "--plan"} | {each.parameter: each.flag for each in stated(context, *_RECORDS)}
    for name, value in context.params.items():
        if given(context, name) and name not in ("model", "as_json"):
            words += [every.get(name, flag(name)), str(value)]
    return shlex.join(words)
