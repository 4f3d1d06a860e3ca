"""``luvc-export export``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_model
from luvc_export.cli.groups import ScoreOptions, SizeOptions, check_shaping
from luvc_export.cli.options import grouped, stated
from luvc_export.cli.tables.console import write
from luvc_export.core.named_plans import DEFAULT_PLAN, NAMED, QUANTISED
from luvc_export.core.options import option
from luvc_export.core.plan import Plan, Sharing
from luvc_export.core.plan.request import EncoderRequest, LlmRequest, PlanRequest, check_frames
from luvc_export.errors import UsageError
from luvc_export.pipeline.export_options import ExportOptions
from luvc_export.pipeline.quantising import AGREEMENT, check_answers, check_precision, pictures, quantise_plans

if TYPE_CHECKING:
    from luvc_export.bundle.folder import Bundle
    from luvc_export.calibration.datasets import CalibrationSet
    from luvc_export.calibration.quantise.calibrate import Calibrated
    from luvc_export.export.checkpoint import Checkpoint


_NAMES = ", ".join([*NAMED, *QUANTISED])


@dataclass(frozen=True)
class PrecisionOptions:
    """Another precision of the exported plans, beside the bundle's own."""

    precision: str | None = option(
        None,
        "Also each plan quantised, as calibrate does: int8, q8, q4 ..; on pictures of --data, or drawn ones.",
    )
    retention: float | None = option(
        None, f"With --precision: share of answers that must stay what the plan's are. Default: {AGREEMENT}."
    )

    def check(self, asked: ExportOptions, named: Sequence[str]) -> None:
        """Check it before the export, which is long; ``named`` are plans that say a precision.

        Raises:
            UsageError: A precision these plans cannot have, or what belongs to one without it.
        """
        if self.precision is None and self.retention is not None and not named:
            raise UsageError("only quantised plans are held to their answers", where="--retention", fix="--precision")
        if self.precision is not None:
            check_precision(self.precision, asked, f"--precision {self.precision}")
        for name in named:
            check_precision(QUANTISED[name].precision, asked, f"--plan {name}")

    def apply(self, written: Bundle, data: CalibrationSet, named: Sequence[str], quiet: bool) -> list[Calibrated]:
        """Quantise plans of a bundle and, unless ``quiet``, show what became of each."""
        from luvc_export.cli.tables.quantised import foretell, weights_lines

        wanted = AGREEMENT if self.retention is None else self.retention
        with options.progress(quiet) as tell:
            results = quantise_plans(
                written, self.precision, data, named=named, min_agreement=wanted, foretell=foretell, progress=tell
            )
        for each in () if quiet else results:
            write(False, None, *weights_lines(each, data, wanted))
        return results


@grouped
def export(
    context: typer.Context,
    *,
    model: options.Model,
    output: Path = option(..., "Bundle folder to write.", "-o", "--output"),
    plan: tuple[str, ...] = option(
        (), f"{_NAMES}, none, a schedule, a JSON file or 64,32,0; repeat. Default: {DEFAULT_PLAN}."
    ),
    canvas: SizeOptions,
    asked: ExportOptions,
    quantised: PrecisionOptions,
    no_weights: bool = option(False, "Graphs alone, from the config."),
    encoder: EncoderRequest,
    unit_buckets: str | None = option(
        None,
        "Percent of units: also graphs of fewer, for pictures whose other units neighbours foretell; no merging.",
        metavar="25,50,..",
    ),
    llm: LlmRequest,
    sharing: Sharing,
    ranking: ScoreOptions,
    as_json: options.Json = False,
) -> None:
    """Export a checkpoint to a bundle of compressed ONNX graphs.

    [dim]luvc-export export Qwen/Qwen2.5-VL-3B-Instruct -o qwen-bundle --image-size 896x896[/dim]

    [dim]luvc-export export Qwen/Qwen2.5-VL-3B-Instruct -o qwen-bundle --image-tokens 256,1024[/dim]

    [dim]luvc-export export Qwen/Qwen2.5-VL-3B-Instruct -o qwen-int8 --precision int8 --data photos[/dim]

    [dim]luvc-export export Qwen/Qwen3-VL-4B-Instruct -o films --image-size 448x448 --joint-frames 16[/dim]

    [dim]luvc-export export Qwen/Qwen3-VL-4B-Instruct -o pages --image-size 1120x800 --unit-buckets 25,50,75,100[/dim]

    [dim]luvc-export export Qwen/Qwen3-VL-4B-Instruct -o short --vocab 32768 --data questions.jsonl[/dim]

    [dim]luvc-export export Qwen/Qwen3-VL-4B-Instruct -o served --lora-slots 16[/dim]

    [dim]luvc-export export OpenGVLab/InternVL3-1B-hf -o internvl-bundle --tiles 1x1 --tiles 2x2 --tiles 2x3[/dim]
    """
    from luvc_export.bundle.folder import check_target, load, write_manifest
    from luvc_export.export.checkpoint import open_checkpoint
    from luvc_export.pipeline import export_bundle, make_plans

    check_target(output, asked.overwrite)
    check_folder(output, "--output")
    check_model(model, asked.revision)
    if no_weights:
        asked = replace(asked, weights="none")
    coded = [name for name in dict.fromkeys(plan) if name in QUANTISED]
    quantised.check(asked, coded)
    data, calibrates = asked.vocab_data, coded or quantised.precision is not None
    if calibrates and not isinstance(asked.vocab, int):
        asked = replace(asked, vocab_data=None)
    checkpoint = open_checkpoint(model, asked.revision, weights=not no_weights)
    if calibrates:
        check_answers(checkpoint, asked.task)
    named = _sources(plan, llm)
    check_shaping(stated(context, EncoderRequest, LlmRequest, Sharing, ScoreOptions), named.values())
    check_frames(encoder, asked.joint_frames)
    sizes = canvas.sizes(checkpoint)
    joint = {"joint_frames": asked.joint_frames, "joint_tiles": asked.joint_tiles}
    settings = ranking.choices() | joint | {"unit_buckets": _percentages(unit_buckets), "task": asked.task}
    plans = make_plans(checkpoint, named, image_size=sizes, request=PlanRequest(llm, encoder, sharing), **settings)
    ranking.check_used(plans.values())
    # the plans say it now
    asked = replace(asked, video=asked.video or asked.joint_frames is not None, joint_frames=None, joint_tiles=None)
    with options.progress(as_json) as tell:
        shown = pictures(data, tell) if calibrates else None
        written = export_bundle(checkpoint, output, plans, image_size=sizes, options=asked, progress=tell)
    notes = [*_notes(checkpoint, written)]
    if not as_json:
        write(False, None, lambda: _lines(written, plans, notes))
    calibrated = [] if shown is None else quantised.apply(written, shown, coded, as_json)
    if plan and plan[0] in coded:
        final = calibrated[-1].bundle
        write_manifest(final.folder, replace(final.manifest, default_plan=plan[0]))
    if as_json:
        write(True, _report(load(written.folder) if calibrated else written, plans, notes, calibrated))


def _percentages(text: str | None) -> tuple[int, ...]:
    """Parse ``25,50,75,100``; none where there is nothing.

    Raises:
        UsageError: It is no such list.
    """
    parts = [] if text is None else re.split(r"[\s,]+", text.strip())
    if not all(re.fullmatch(r"\d{1,4}", part) for part in parts):
        expected = "ascending percentages such as 25,50,75,100"
        raise UsageError("cannot read the buckets", where="--unit-buckets", got=text, expected=expected)
    return tuple(int(part) for part in parts)


def _notes(checkpoint: Checkpoint, written: Bundle) -> Iterator[str]:
    from luvc_export.export.reading.remarks import remarks

    yield from remarks(checkpoint)
    if codes := written.manifest.weights.stored:
        yield from codes.notes
    yield from _unopened(written)


def _unopened(written: Bundle) -> Iterator[str]:
    """That no back-end here opens a bundle, which may be for another machine."""
    from luvc_export.runtime.backend_choice import refusal

    if written.manifest.weights.mode != "none" and (why := refusal(written)):
        fix = "--dtype fp32 is for every CPU" if written.manifest.dtype == "bf16" else "luvc-export doctor says more"
        yield f"no back-end of this machine opens this bundle ({why}); {fix}"


def _report(
    written: Bundle, plans: Mapping[str, Plan], notes: list[str], calibrated: list[Calibrated]
) -> dict[str, Any]:
    from luvc_export.cli.tables.quantised import weights_report
    from luvc_export.core.plan.cost import cost

    manifest = written.manifest
    priced = {name: cost(each, manifest.decoder).to_json() for name, each in plans.items()}
    report = {"bundle": str(written.folder), "manifest": manifest.to_json(), "cost": priced, "notes": notes}
    return report | ({"quantised": [weights_report(each) for each in calibrated]} if calibrated else {})


def _lines(written: Bundle, plans: Mapping[str, Plan], notes: list[str]) -> Iterator[Any]:
    from luvc_export.cli.tables.named import cost_table
    from luvc_export.core.plan.cost import cost

    folder, manifest = written.folder, written.manifest
    for each in plans.values():
        yield cost_table(each, cost(each, manifest.decoder))
    yield from (f"note: {note}" for note in notes)
    if manifest.weights.mode == "none":
        yield f"wrote {folder}, graphs without weights: luvc-export inspect {folder} shows them"
    else:
        verb, words = ("run", "--prompt '...'") if manifest.does.decodes else ("embed", "--json")
        yield f"wrote {folder}; ask it something: luvc-export {verb} {folder} --image cat.jpg {words}"


def _sources(plans: Sequence[str], llm: LlmRequest) -> dict[str, str | list[int] | Plan]:
    """What was asked for by the plans' names; a goal makes a plan of its own, which only ``none`` may stand beside."""
    goals = [f"{name.replace('_', '-')}-{value:g}" for name, value in llm.goals().items()]
    if not goals:
        recipes = [QUANTISED[name].recipe if name in QUANTISED else name for name in plans or [DEFAULT_PLAN]]
        return {options.plan_name(name): options.plan_source(name) for name in recipes}
    if others := [name for name in plans if name != "none"]:
        raise UsageError(
            "--speedup and --kv-mib solve the budgets themselves",
            where="--plan",
            got=", ".join(others),
            expected="no --plan, or --plan none for the uncompressed model beside it",
            fix="to have both, write the solved plan to a file first: luvc-export plan MODEL --speedup 2 -o FILE.json",
        )
    return {goals[0]: DEFAULT_PLAN, **dict.fromkeys(plans, "none")}
