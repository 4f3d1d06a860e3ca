"""``luvc-export inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash large weight files too.")] = False,
    text: options.Text = 64,
    as_json: options.Json = False,
) -> None:
    """Check a bundle and show what is in it.

    [dim]luvc-export inspect qwen-bundle --verify[/dim]
    """
    from luvc_export.bundle import load
    from luvc_export.report import cost

    loaded = load(bundle, full=verify)
    manifest = loaded.manifest
    costs = {name: cost(entry.plan, manifest.decoder, text) for name, entry in manifest.plans.items()}
    if as_json:
        data = {"manifest": manifest.to_json(), "cost": {name: value.to_json() for name, value in costs.items()}}
        print(json.dumps(data))
        return
    from rich.console import Console
    from rich.table import Table

    from luvc_export.cli.tables import cost_table

    console = Console()
    console.print(_facts(manifest))
    files = Table(title="files")
    for name, side in (("name", "left"), ("MiB", "right"), ("sha256", "left")):
        files.add_column(name, justify=side)  # type: ignore[arg-type]
    for name, record in manifest.files.items():
        files.add_row(name, f"{record.bytes / 2**20:.2f}", record.sha256[:16])
    console.print(files)
    for name, entry in manifest.plans.items():
        console.print(cost_table(entry.plan, costs[name]))
    console.print("every hash is right" if verify else "hashes are right (large files by size, time stamp and edges)")


def _facts(manifest: Any) -> Any:
    from rich.table import Table

    table = Table(show_header=False, title="bundle")
    source, image, prompt = manifest.source, manifest.image, manifest.prompt
    table.add_row("source", f"{source.model} ({source.model_type})")
    table.add_row("arithmetic", manifest.dtype)
    table.add_row("image", f"{image.size[0]}x{image.size[1]}, {image.fit}")
    table.add_row("text capacity", f"{prompt.text_capacity} tokens of a context of {manifest.decoder.context}")
    where = f", in {manifest.weights.folder}" if manifest.weights.folder else ""
    table.add_row("weights", f"{manifest.weights.mode}{where}")
    table.add_row("plans", ", ".join(n + (" (default)" * (n == manifest.default_plan)) for n in manifest.plans))
    table.add_row("made with", ", ".join(f"{name} {version}" for name, version in manifest.tools.items()))
    return table
