"""``luvc-export batch``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

import typer

from luvc_export.batch.job import BatchJob
from luvc_export.cli import options
from luvc_export.cli.files import check_folder
from luvc_export.cli.grouped import grouped
from luvc_export.errors import UsageError
from luvc_export.runtime.generation.sampling import AnswerOptions


@grouped
def batch(
    *,
    job: BatchJob,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=1024, help="Processes, or Ray actors; each loads the bundle.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Run on this Ray cluster; local starts one here.")
    ] = None,
    num_gpus: Annotated[
        float, typer.Option("--num-gpus", min=0, help="With --ray: GPUs of an actor, a share for several on one.")
    ] = 0.0,
    num_cpus: Annotated[float, typer.Option("--num-cpus", min=0, help="With --ray: CPUs of an actor.")] = 1.0,
    sampling: Annotated[dict[str, Any], AnswerOptions],
    as_json: options.Json = False,
) -> None:
    """Answer a file of questions, or ask one of every picture of a folder, into shards of JSON Lines.

    Interrupted anywhere, the same command goes on where it was. A bad row becomes a line with an error; the exit code
    is 1 then. Several machines: docs/scale.md.

    [dim]luvc-export batch qwen-bundle --input cases.jsonl -o answers --workers 4[/dim]
    """
    from luvc_export.batch.run import chosen_here, local

    values = sampling.pop("chat_template_kwargs", None)
    job = replace(job, sampling=sampling, chat_template_kwargs=values)
    if ray is None and (num_gpus, num_cpus) != (0.0, 1.0):
        raise UsageError("--num-gpus and --num-cpus are of Ray's actors", where="--num-gpus", fix="pass --ray")
    check_folder(job.output, "--output")
    with options.progress(quiet=as_json) as tell:
        job.check(tell)
    if ray is None:
        result = _run(job, local(workers or 1), as_json, auto=chosen_here)
    else:
        with _standard_output_kept():
            from luvc_export.ray.cluster import cluster

            result = _run(job, cluster(ray, workers or 1, num_cpus, num_gpus), as_json)
    if as_json:
        print(json.dumps(result.to_json()))
    else:
        before = f" ({result.resumed} by earlier runs)" if result.resumed else ""
        print(f"{result.rows} rows in {result.shards} shards{before}, {result.errors} with an error: {job.output}")
    if result.errors:
        raise typer.Exit(1)


def _run(job: Any, fleet: Any, as_json: bool, **more: Any) -> Any:
    from luvc_export.batch.run import run_batch
    from luvc_export.cli.batch_line import BatchLine

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
