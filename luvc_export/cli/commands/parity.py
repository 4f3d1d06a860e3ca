"""``luvc-export parity``."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_bundle, check_model, check_writable, write_whole
from luvc_export.cli.grouped import grouped, stated
from luvc_export.cli.groups.data import TaskOptions
from luvc_export.core.options import choice, texts
from luvc_export.pipeline.export_options import ExportOptions
from luvc_export.runtime.session_options import SessionOptions


@grouped
def parity(
    context: typer.Context,
    *,
    reference: Annotated[
        str, typer.Argument(help=r"Trusted: \[hf:|torch:|onnx:|openvino:|trt:]MODEL\[#PLAN]; MODEL may be 'demo'.")
    ],
    candidate: Annotated[str, typer.Argument(help="Under test, described in the same way.")],
    cases: Annotated[
        Path | None, typer.Option("--cases", help="JSON Lines file: image or video, prompt and optionally answer.")
    ] = None,
    task: TaskOptions,
    count: Annotated[int, typer.Option("--count", help="Cases to answer.")] = 90,
    observe: Annotated[int, typer.Option("--observe", help="Cases to compare tensor by tensor.")] = 16,
    batch: Annotated[int, typer.Option("--batch", help="Cases a call.")] = 2,
    image_size: options.ImageSize = None,
    media: ExportOptions,
    dtype: Annotated[str, typer.Option("--dtype", help="Arithmetic of hf and torch: fp32, fp16, bf16.")] = "fp32",
    arithmetic: Annotated[
        str, typer.Option("--arithmetic", help="Of openvino sides: fp32, bf16, fp16, or auto.")
    ] = "fp32",
    max_new_tokens: options.Longest = None,
    retention: Annotated[float, typer.Option("--retention", help="Accuracy a compressed plan must keep.")] = 0.99,
    locate: Annotated[bool, typer.Option("--locate", help="Show every tensor, layer by layer.")] = False,
    report: Annotated[Path | None, typer.Option("--report", metavar="HTML", help="Write a page with plots.")] = None,
    opening: SessionOptions,
    as_json: options.Json = False,
) -> None:
    """Compare two models on the same questions: tensors, kept tokens, answers. Exit code 1 if a gate fails.

    [dim]luvc-export parity hf:demo demo-out/bundle#none --task glyph --report parity.html[/dim]

    Engines are trt:BUNDLE#PLAN, or trt:BUNDLE#PLAN@TARGET, on the GPU they were built for.

    [dim]luvc-export parity torch:demo trt:demo-out/bundle#even --task glyph[/dim]

    Where no bundle says so, the films of a task share budgets: the plan is one for clips.

    [dim]luvc-export parity hf:CHECKPOINT torch:CHECKPOINT#film --task glyph-clips[/dim]
    """
    from luvc_export.calibration import runners
    from luvc_export.calibration.cases import read_jsonl
    from luvc_export.calibration.parity.plots import page
    from luvc_export.calibration.parity.run import open_pair
    from luvc_export.calibration.parity.run import parity as run
    from luvc_export.errors import CheckFailed, UsageError

    if (cases is None) == (task.task is None):
        raise UsageError("say what to ask", where="parity", expected="either --cases FILE or --task NAME")
    known_task = task.found()
    check_writable(report, "--report")
    choice("--dtype", dtype, ("fp32", "fp16", "bf16"))
    choice("--arithmetic", arithmetic, ("auto", "fp32", "bf16", "fp16"))
    if min(count, observe, batch) < 1:
        raise UsageError("numbers must be at least 1", where="--count, --observe, --batch")
    if not 0 <= retention <= 1:
        raise UsageError("a share must lie between 0 and 1", where="--retention", got=retention)
    specs = [runners.parse(each) for each in (reference, candidate)]
    with options.progress(quiet=as_json) as tell:
        for spec in specs:
            if spec.is_bundle:
                check_bundle(spec.model, opening.verify, tell)
            else:
                check_model(spec.model)
    own = ["--image-size"] * bool(image_size) + [each.flag for each in stated(context, ExportOptions)]
    if own and any(spec.is_bundle for spec in specs):
        raise UsageError("the bundle says how it sees pictures", where=", ".join(own), fix="leave them out")
    if known_task:
        asked = list(known_task.cases(known_task.report[0], count, known_task.report[1]))
    else:
        asked = list(islice(read_jsonl(cases or Path()), count))
    size = texts.size(image_size) or (known_task.image_size if known_task else None)
    frames = known_task.frames if known_task else 0
    video = media.video or frames > 0
    left, right = open_pair(
        reference, candidate, size, dtype, opening.threads, tuple(media.tiles), video, arithmetic, frames
    )
    with options.progress(quiet=as_json) as tell:
        result = run(
            left,
            right,
            asked,
            observe=observe,
            longest=max_new_tokens or (known_task.longest if known_task else 32),
            stops=known_task.stops if known_task else False,
            batch=batch,
            retention=retention,
            progress=tell,
        )
    if report is not None:
        write_whole(report, page(result))
    if as_json:
        print(json.dumps(result.to_json()))
    else:
        print("\n".join(result.lines(locate)))
        if report is not None:
            print(f"report    | {report}")
    if not result.passed:
        failed = [gate.name for gate in result.gates if not gate.passed]
        raise CheckFailed("the models do not agree", got=", ".join(failed), expected="every gate passed")
