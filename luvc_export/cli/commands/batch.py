"""``luvc-export batch``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from luvc_export.batch.job import BatchJob
from luvc_export.cli import options
from luvc_export.cli.files import check_folder
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import write
from luvc_export.core.options import option, stated
from luvc_export.errors import UsageError
from luvc_export.runtime.engine.vector_form import VectorOptions
from luvc_export.runtime.generation.sampling import AnswerOptions

if TYPE_CHECKING:
    from luvc_export.batch.run import BatchProgress


@grouped
def batch(
    *,
    job: BatchJob,
    workers: int | None = option(None, "Processes, or Ray actors; each loads the bundle.", least=1, most=1024),
    ray: str | None = option(None, "Run on this Ray cluster; local starts one here.", metavar="ADDRESS"),
    num_gpus: float = option(0.0, "With --ray: GPUs of an actor, a share for several on one.", least=0),
    num_cpus: float = option(1.0, "With --ray: CPUs of an actor.", least=0),
    sampling: Annotated[dict[str, Any], AnswerOptions],
    vectors: Annotated[dict[str, Any], VectorOptions],
    as_json: options.Json = False,
) -> None:
    """Answer a file of questions, or ask one of every picture of a folder, into shards of JSON Lines.

    Of a bundle that decodes nothing: a vector of each row's picture, prompt or both, in an npy file beside each shard.
    Interrupted anywhere, the same command goes on where it was. A bad row becomes a line with an error; the exit code
    is 1 then. Several machines: docs/scale.md.

    [dim]luvc-export batch qwen-bundle --input cases.jsonl -o answers --workers 4[/dim]
    """
    from luvc_export.batch.run import chosen_here, local

    values = sampling.pop("chat_template_kwargs", None)
    job = replace(job, sampling=sampling, chat_template_kwargs=values, vectors=stated(VectorOptions(**vectors)))
    if ray is None and (num_gpus, num_cpus) != (0.0, 1.0):
        raise UsageError("--num-gpus and --num-cpus are of Ray's actors", where="--num-gpus", fix="pass --ray")
    check_folder(job.output, "--output")
    with options.progress(as_json) as tell:
        job.check(tell)
    if ray is None:
        result = _run(job, local(workers or 1), as_json, auto=chosen_here)
    else:
        with _standard_output_kept():
            from luvc_export.ray.cluster import cluster

            result = _run(job, cluster(ray, workers or 1, num_cpus, num_gpus), as_json)
    before = f" ({result.resumed} by earlier runs)" if result.resumed else ""
    text = f"{result.rows} rows in {result.shards} shards{before}, {result.errors} with an error: {job.output}"
    write(as_json, result.to_json(), text)
    if result.errors:
        raise typer.Exit(1)


def _run(job: Any, fleet: Any, as_json: bool, **more: Any) -> Any:
    from luvc_export.batch.run import run_batch

    line = BatchLine(sys.stderr, quiet=as_json)
    try:
        return run_batch(job, fleet, line, **more)
    finally:
        line.close()


@contextmanager
def _standard_output_kept() -> Iterator[None]:
    """Send what Ray prints, of its nodes too, to standard error: standard output is for the result."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
        sys.stdout.flush()
    finally:
        os.dup2(kept, 1)
        os.close(kept)


#: Seconds between two lines: on a terminal, and in a log.
_DRAW, _LOG = 0.2, 30.0


class BatchLine:
    """Draws progress on a stream; nothing where ``quiet``."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self._stream, self._quiet = stream, quiet
        self._drawn, self._width, self._terminal = 0.0, 0, stream.isatty()
        self._last: BatchProgress | None = None

    def __call__(self, done: BatchProgress) -> None:
        """Draw, unless something was drawn a moment ago."""
        self._last = done
        if not self._quiet and monotonic() - self._drawn >= (_DRAW if self._terminal else _LOG):
            self._draw()

    def close(self) -> None:
        """Draw where it ended."""
        if not self._quiet and self._last is not None:
            self._draw()
            if self._terminal:
                print(file=self._stream)

    def _draw(self) -> None:
        assert self._last is not None
        text = progress_text(self._last)
        self._drawn = monotonic()
        if self._terminal:
            print("\r" + text.ljust(self._width), end="", file=self._stream, flush=True)
            self._width = len(text)
        else:
            print(text, file=self._stream, flush=True)


def progress_text(done: BatchProgress) -> str:
    """Such as ``1200 of 5000 rows, 3 with an error, 18.4 rows/s, 0:03:26 left``."""
    text = f"{done.done} of {done.rows} rows"
    if done.errors:
        text += f", {done.errors} with an error"
    if done.left is not None:
        minutes, seconds = divmod(round(done.left), 60)
        hours, minutes = divmod(minutes, 60)
        text += f", {done.rate:.3g} rows/s, {hours}:{minutes:02}:{seconds:02} left"
    return text
