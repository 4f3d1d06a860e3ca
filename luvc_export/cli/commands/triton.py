"""``luvc-export triton``."""

from __future__ import annotations

from pathlib import Path

from luvc_export.cli import options
from luvc_export.cli.files import check_folder
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import write
from luvc_export.core.options import option
from luvc_export.triton.repository import RepositoryOptions, write_repository


@grouped
def triton(
    *,
    bundles: options.Bundles,
    output: Path = option(..., "Model repository; others in it stay.", "-o", "--output"),
    repository: RepositoryOptions,
    as_json: options.Json = False,
) -> None:
    """Write a model repository for NVIDIA Triton: each bundle a decoupled model of its Python back-end.

    Inputs, engines, metrics and what else to know: docs/scale.md.

    [dim]luvc-export triton qwen-bundle#thirds -o models && tritonserver --model-repository models[/dim]
    """
    check_folder(output, "--output")
    with options.progress(as_json) as tell:
        names = write_repository(output, bundles, repository, tell)
    text = f"wrote {', '.join(names)} to {output}; tritonserver --model-repository {output}"
    write(as_json, {"repository": str(output), "models": names}, text)
