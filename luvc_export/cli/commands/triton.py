"""``luvc-export triton``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder
from luvc_export.cli.grouped import grouped
from luvc_export.triton.repository import RepositoryOptions, write_repository


@grouped
def triton(
    *,
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundle folder, or FOLDER#PLAN; several.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Model repository; others in it stay.")],
    repository: RepositoryOptions,
    as_json: options.Json = False,
) -> None:
    """Write a model repository for NVIDIA Triton: each bundle a decoupled model of its Python back-end.

    Inputs, engines, metrics and what else to know: docs/scale.md.

    [dim]luvc-export triton qwen-bundle#thirds -o models && tritonserver --model-repository models[/dim]
    """
    check_folder(output, "--output")
    with options.progress(quiet=as_json) as tell:
        names = write_repository(output, bundles, repository, tell)
    if as_json:
        print(json.dumps({"repository": str(output), "models": names}))
    else:
        print(f"wrote {', '.join(names)} to {output}; tritonserver --model-repository {output}")
