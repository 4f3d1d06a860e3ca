"""``luvc-export triton``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luvc_export.cli import options


def triton(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundle folder, or FOLDER#PLAN; several.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Model repository; others in it stay.")],
    backend: options.Backend = "auto",
    arithmetic: options.Arithmetic = "auto",
    threads: options.Threads = None,
    instances: Annotated[
        int, typer.Option("--instances", min=1, max=256, help="Sessions on each device; each answers one question.")
    ] = 1,
    no_warm_up: Annotated[
        bool, typer.Option("--no-warm-up", help="Be ready before a picture was asked; the first one waits.")
    ] = False,
    copy: Annotated[
        bool, typer.Option("--copy", help="Put the bundles into the repository; else their paths are written down.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace models that this command wrote.")] = False,
    verify: options.Verify = False,
    as_json: options.Json = False,
) -> None:
    """Write a model repository for NVIDIA Triton: each bundle a decoupled model of its Python back-end.

    Inputs, engines, metrics and what else to know: docs/scale.md.

    [dim]luvc-export triton qwen-bundle#thirds -o models && tritonserver --model-repository models[/dim]
    """
    from luvc_export.cli.files import check_folder
    from luvc_export.triton.repository import RepositoryOptions, write_repository

    check_folder(output, "--output")
    repository_options = RepositoryOptions(backend, instances, threads, arithmetic, not no_warm_up, copy, overwrite)
    with options.progress(quiet=as_json) as tell:
        names = write_repository(output, bundles, repository_options, verify, tell)
    if as_json:
        print(json.dumps({"repository": str(output), "models": names}))
    else:
        print(f"wrote {', '.join(names)} to {output}; tritonserver --model-repository {output}")
