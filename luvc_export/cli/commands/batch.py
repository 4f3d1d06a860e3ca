"""``luvc-export batch``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options, sampling_options


def batch(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    source: Annotated[
        Path, typer.Option("--input", help="JSON Lines file of image, prompt, id; or a folder of pictures.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the shards, part-*.jsonl.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="For pictures of a folder without a text file of their name.")
    ] = None,
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
    plan: options.BundlePlan = None,
    backend: options.Backend = "auto",
    arithmetic: options.Arithmetic = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=1024, help="CPU threads of a worker; default: cores by workers."),
    ] = None,
    speculate: options.Speculate = None,
    lora: options.Adapters = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=1024, help="Questions of one model call, at most.")] = 8,
    shard: Annotated[int, typer.Option("--shard", min=1, max=1_000_000, help="Rows of a shard.")] = 256,
    max_new_tokens: sampling_options.MaxNewTokens = None,
    temperature: sampling_options.Temperature = None,
    greedy: sampling_options.Greedy = False,
    top_k: sampling_options.TopK = None,
    top_p: sampling_options.TopP = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of sampling, of every row.")] = None,
    stop: sampling_options.Stop = None,
    json_schema: sampling_options.JsonSchema = None,
    regex: sampling_options.Regex = None,
    image_tokens: sampling_options.ImageTokens = None,
    chat_template_kwargs: sampling_options.ChatTemplateKwargs = None,
    max_pixels: sampling_options.MaxPixels = None,
    verify: options.Verify = False,
    as_json: options.Json = False,
) -> None:
    """Answer a file of questions, or ask one of every picture of a folder, into shards of JSON Lines.

    Interrupted anywhere, the same command goes on where it was. A bad row becomes a line with an error; the exit code
    is 1 then. Several machines: docs/scale.md.

    [dim]luvc-export batch qwen-bundle --input cases.jsonl -o answers --workers 4[/dim]
    """
    from luvc_export.batch.job import BatchJob
    from luvc_export.batch.run import chosen_here, local
    from luvc_export.cli.files import check_folder
    from luvc_export.core.image_tokens import ceiling
    from luvc_export.errors import UsageError

    sampling: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k}
    sampling |= {"top_p": top_p, "seed": seed, "stop": stop, "regex": regex}
    sampling["json_schema"] = None if json_schema is None else sampling_options.read_schema(json_schema)
    sampling["greedy"] = greedy or None
    sampling = {name: value for name, value in sampling.items() if value is not None}
    shape = {"threads": threads, "rows": rows, "shard": shard, "max_pixels": max_pixels, "speculate": speculate}
    shape["image_tokens"] = None if image_tokens is None else ceiling(image_tokens)
    how: dict[str, Any] = {"sampling": sampling, "lora": tuple(lora or ()), **shape}
    how["chat_template_kwargs"] = sampling_options.read_template_values(chat_template_kwargs)
    job = BatchJob(bundle, source, output, prompt, plan, backend, arithmetic, **how)
    if ray is None and (num_gpus, num_cpus) != (0.0, 1.0):
        raise UsageError("--num-gpus and --num-cpus are of Ray's actors", where="--num-gpus", fix="pass --ray")
    check_folder(output, "--output")
    with options.progress(quiet=as_json) as tell:
        job.check(verify, tell)
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
        print(f"{result.rows} rows in {result.shards} shards{before}, {result.errors} with an error: {output}")
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
