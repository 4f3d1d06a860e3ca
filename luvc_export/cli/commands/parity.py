"""``luvc-export parity``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_model, check_writable, write_whole
from luvc_export.cli.groups import TaskOptions
from luvc_export.cli.options import grouped, stated
from luvc_export.cli.tables.console import write
from luvc_export.core.options import option
from luvc_export.core.options import size as size_of
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.pipeline.export_options import ExportOptions
from luvc_export.runtime.session_options import SessionOptions

if TYPE_CHECKING:
    from luvc_export.calibration.cases import Case


@dataclass(frozen=True)
class ParityOptions:
    """How much two models are compared, and what must hold.

    Raises:
        UsageError: A number is below 1, or a share above.
    """

    cases: Path | None = option(None, "JSON Lines file: image or video, prompt and optionally answer.")
    count: int = option(90, "Cases to answer.")
    observe: int = option(16, "Cases to compare tensor by tensor.")
    batch: int = option(2, "Cases a call.")
    image_size: str | None = option(None, "Image input; default: the family's, or 672x672.", metavar="HxW")
    dtype: str = option("fp32", "Arithmetic of hf and torch: fp32, fp16, bf16.", choices=("fp32", "fp16", "bf16"))
    arithmetic: str = option(
        "fp32", "Of openvino sides: fp32, bf16, fp16, or auto.", choices=("auto", "fp32", "bf16", "fp16")
    )
    max_new_tokens: int | None = option(None, "Longest answer; default: the task's own, or 32 tokens.", least=1)
    retention: float = option(0.99, "Accuracy a compressed plan must keep.")
    locate: bool = option(False, "Show every tensor, layer by layer.")
    report: Path | None = option(None, "Write a page with plots.", metavar="HTML")

    def __post_init__(self) -> None:
        if min(self.count, self.observe, self.batch) < 1:
            raise UsageError("numbers must be at least 1", where="--count, --observe, --batch")
        if not 0 <= self.retention <= 1:
            raise UsageError("a share must lie between 0 and 1", where="--retention", got=self.retention)


@grouped
def parity(
    context: typer.Context,
    *,
    reference: str = option(
        ..., r"Trusted: \[hf:|torch:|onnx:|openvino:|trt:]MODEL\[#PLAN]; MODEL may be 'demo'.", argument=True
    ),
    candidate: str = option(..., "Under test, described in the same way.", argument=True),
    task: TaskOptions,
    compared: ParityOptions,
    media: ExportOptions,
    opening: SessionOptions,
    as_json: options.Json = False,
) -> None:
    """Compare two models on the same questions: tensors, kept tokens, answers. Exit code 1 if a gate fails.

    [dim]luvc-export parity hf:demo demo-out/bundle#none --task glyph --report parity.html[/dim]

    Engines are trt:BUNDLE#PLAN, or trt:BUNDLE#PLAN@TARGET, on the GPU they were built for.

    [dim]luvc-export parity torch:demo trt:demo-out/bundle#safe --task glyph[/dim]

    Where no bundle says so, the films of a task share budgets: the plan is one for clips.

    [dim]luvc-export parity hf:CHECKPOINT torch:CHECKPOINT#film --task glyph-clips[/dim]
    """
    from luvc_export.bundle.folder import load
    from luvc_export.calibration import runners
    from luvc_export.calibration.cases import read_jsonl
    from luvc_export.calibration.parity.plots import page
    from luvc_export.calibration.parity.run import open_pair
    from luvc_export.calibration.parity.run import parity as run

    if (compared.cases is None) == (task.task is None):
        raise UsageError("say what to ask", where="parity", expected="either --cases FILE or --task NAME")
    known_task = task.found()
    check_writable(compared.report, "--report")
    specs = [runners.parse(each) for each in (reference, candidate)]
    with options.progress(as_json) as tell:
        for spec in specs:
            if spec.is_bundle:
                load(spec.model, opening.verify, tell, task=None)
            else:
                check_model(spec.model)
    own = ["--image-size"] * bool(compared.image_size) + [each.flag for each in stated(context, ExportOptions)]
    if own and any(spec.is_bundle for spec in specs):
        raise UsageError("the bundle says how it sees pictures", where=", ".join(own), fix="leave them out")
    count, size = compared.count, size_of(compared.image_size)
    frames, longest, stops = 0, 32, False
    asked: Iterable[Case] = [] if compared.cases is None else islice(read_jsonl(compared.cases), count)
    if known_task:
        asked, size = known_task.cases(known_task.report[0], count, known_task.report[1]), size or known_task.image_size
        frames, longest, stops = known_task.frames, known_task.longest, known_task.stops
    seen = tuple(media.tiles), media.video or frames > 0, compared.arithmetic, frames
    left, right = open_pair(reference, candidate, size, compared.dtype, opening.threads, *seen)
    with options.progress(as_json) as tell:
        result = run(
            left,
            right,
            list(asked),
            observe=compared.observe,
            longest=compared.max_new_tokens or longest,
            stops=stops,
            batch=compared.batch,
            retention=compared.retention,
            progress=tell,
        )
    if compared.report is not None:
        write_whole(compared.report, page(result))
    page_line = [] if compared.report is None else [f"report    | {compared.report}"]
    write(as_json, result.to_json(), *result.lines(compared.locate), *page_line)
    if not result.passed:
        failed = [gate.name for gate in result.gates if not gate.passed]
        raise CheckFailed("the models do not agree", got=", ".join(failed), expected="every gate passed")
