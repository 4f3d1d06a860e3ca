"""``luvc-export inspect``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_writable, write_whole
from luvc_export.cli.grouped import grouped
from luvc_export.cli.tables import console as consoles
from luvc_export.runtime.session_options import SessionOptions


@grouped
def inspect(
    *,
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    opening: SessionOptions,
    text: Annotated[int, typer.Option("--text", min=1, help="Text tokens counted in costs.")] = 64,
    surgery: Annotated[bool, typer.Option("--surgery", help="Show what graph surgery did.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="HTML", help="Write the surgery report as one page.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check a bundle and show what is in it.

    [dim]luvc-export inspect qwen-bundle --verify
    luvc-export inspect qwen-bundle --surgery --html surgery.html[/dim]
    """
    from luvc_export.bundle.engines.checks import changed
    from luvc_export.bundle.folder import load
    from luvc_export.core.plan.cost import cost
    from luvc_export.runtime.prompt.template import described

    with options.progress(quiet=as_json) as tell:
        loaded = load(bundle, opening.verify, tell, task=None)
    manifest = loaded.manifest
    if surgery or html is not None:
        _surgery(loaded, html, as_json)
        return
    for code in (part for engines in manifest.engines for part in engines.code):
        loaded.read_engine(code).close()
    costs = {
        name: cost(entry.plan, manifest.decoder, text, caches=entry.cache_precision)
        for name, entry in manifest.plans.items()
    }
    if as_json:
        data = {
            "manifest": manifest.to_json(),
            "cost": {name: value.to_json() for name, value in costs.items()},
            "chat_template": described(loaded),
            "changed_since_verified": [changed(signed, manifest) for signed in manifest.verified],
        }
        print(json.dumps(data))
        return
    from luvc_export.cli.tables.engines import bindings, facts, trust, validation
    from luvc_export.cli.tables.named import bundle_table, cost_table

    console = consoles.console()  # names come from strangers
    console.print(_facts(manifest, described(loaded)))
    sizes = ((name, f"{record.bytes / 2**20:.2f}", record.sha256[:16]) for name, record in manifest.files.items())
    files = consoles.table(sizes, "name", "MiB", "sha256", title="files")
    files.columns[1].justify = "right"
    console.print(files)
    console.print(_plans(manifest))
    for name, entry in manifest.plans.items():
        console.print(cost_table(entry.plan, costs[name]))
    precisions = {name: entry.quantised.precision for name, entry in manifest.plans.items() if entry.quantised}
    kept = bundle_table({name: one.plan for name, one in manifest.plans.items()}, manifest.decoder, precisions)
    if kept is not None:
        console.print(kept)
    for engines in manifest.engines:
        engine_facts = facts(engines)
        engine_facts.add_row("trust", trust(engines, manifest))
        console.print(engine_facts)
        console.print(bindings("vision", engines.vision))
        console.print(bindings("decoder", engines.decoder))
    for signed in manifest.verified:
        console.print(validation(signed, manifest))
    console.print(_trust(manifest, opening.verify))


def _trust(manifest: Any, verify: bool) -> str:
    from luvc_export.bundle.reference import hashes

    if manifest.weights.mode == "reference" and not hashes(manifest):
        return "hashes are right; of the weights in the checkpoint none are recorded (exported by 0.1.0): export again"
    if manifest.weights.mode == "reference" and not verify:
        return "hashes are right; the weights in the checkpoint are hashed when they are used, or with --verify"
    return "every hash is right" if verify else "hashes are right (large files that did not change: as hashed before)"


def _surgery(loaded: Any, html: Path | None, as_json: bool) -> None:
    from luvc_export.export.surgeon import render, render_html, surgery_report

    check_writable(html, "--html")
    report = surgery_report(loaded)
    if html is not None:
        write_whole(html, render_html(report))
    if as_json:
        print(json.dumps({name: [asdict(part) for part in parts] for name, parts in report.items()}))
        return
    consoles.console().print(render(report))
    if html is not None:
        print(f"wrote {html}")


def _plans(manifest: Any) -> Any:
    rows = []
    for name, entry in manifest.plans.items():
        shown = name + " (default)" * (name == manifest.default_plan)
        units = f"{entry.bucket} of {entry.plan.units}" if entry.bucket else "all"
        height, width = entry.size
        precision = entry.precision + (f", caches {entry.cache_precision}" if entry.caches else "")
        rows.append((shown, entry.kind, f"{height}x{width}", units, precision, entry.variant_of or ""))
    head = ("name", "for a", "of pixels", "units", "precision", "variant of")
    return consoles.table(rows, *head, title="plans")


def _facts(manifest: Any, template: str) -> Any:
    table = consoles.table((), title="bundle")
    source, image, prompt = manifest.source, manifest.image, manifest.prompt
    table.add_row("source", f"{source.model} ({source.model_type})")
    table.add_row("task", f"{manifest.task}: {manifest.does.asked_by}")
    table.add_row("arithmetic", manifest.dtype)
    table.add_row("image", f"{image.size[0]}x{image.size[1]}, {image.fit}")
    table.add_row("text capacity", f"{prompt.text_capacity} tokens of a context of {manifest.decoder.context}")
    table.add_row("chat template", template)
    if manifest.vocabulary is not None:
        table.add_row("vocabulary", str(manifest.vocabulary))
    if manifest.generation is not None:
        asked = manifest.generation.options()
        table.add_row("answers", ", ".join(f"{name} {value}" for name, value in asked.items()) or "the best token")
        if manifest.generation.unsupported:
            table.add_row("not followed", ", ".join(manifest.generation.unsupported))
    else:
        table.add_row("answers", "the best token (generation_config.json was not stored: export again to have it)")
    where = f", in {manifest.weights.folder}" if manifest.weights.folder else ""
    table.add_row("weights", f"{manifest.weights.mode}{where}")
    if (codes := manifest.weights.stored) is not None:
        bits = 8 * codes.bytes / codes.numbers
        table.add_row("quantised", f"{codes.method}, {len(codes.products)} weights, {bits:.2f} bits each with scales")
        for note in codes.notes:
            table.add_row("", note)
    table.add_row("made with", ", ".join(f"{name} {version}" for name, version in manifest.tools.items()))
    return table
