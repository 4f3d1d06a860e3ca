"""``luvc-export inspect``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from luvc_export.cli import options
from luvc_export.cli.files import check_writable, write_whole
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import styled, table, write
from luvc_export.core.options import option
from luvc_export.runtime.session_options import SessionOptions


@grouped
def inspect(
    *,
    bundle: options.Bundle,
    opening: SessionOptions,
    text: int = option(64, "Text tokens counted in costs.", least=1),
    surgery: bool = option(False, "Show what graph surgery did."),
    html: Path | None = option(None, "Write the surgery report as one page.", metavar="HTML"),
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

    with options.progress(as_json) as tell:
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
    template = described(loaded)
    data = {
        "manifest": manifest.to_json(),
        "cost": {name: value.to_json() for name, value in costs.items()},
        "chat_template": template,
        "changed_since_verified": [changed(signed, manifest) for signed in manifest.verified],
    }
    write(as_json, data, lambda: _tables(manifest, template, costs), lambda: [styled(_trust(manifest, opening.verify))])


def _tables(manifest: Any, template: str, costs: dict[str, Any]) -> Iterator[Any]:
    from luvc_export.cli.tables.engines import bindings, facts, trust, validation
    from luvc_export.cli.tables.named import bundle_table, cost_table

    yield table(_facts(manifest, template), title="bundle")
    sizes = ((name, f"{record.bytes / 2**20:.2f}", record.sha256[:16]) for name, record in manifest.files.items())
    files = table(sizes, "name", "MiB", "sha256", title="files")
    files.columns[1].justify = "right"
    yield files
    yield _plans(manifest)
    for name, entry in manifest.plans.items():
        yield cost_table(entry.plan, costs[name])
    precisions = {name: entry.quantised.measured for name, entry in manifest.plans.items() if entry.quantised}
    kept = bundle_table({name: one.plan for name, one in manifest.plans.items()}, manifest.decoder, precisions)
    if kept is not None:
        yield kept
    for engines in manifest.engines:
        yield facts(engines, trust(engines, manifest))
        yield bindings("vision", engines.vision)
        yield bindings("decoder", engines.decoder)
    for signed in manifest.verified:
        yield validation(signed, manifest)


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
    data = {name: [asdict(part) for part in parts] for name, parts in report.items()}
    written = () if html is None else (f"wrote {html}",)
    write(as_json, data, lambda: [render(report)], *written)


def _plans(manifest: Any) -> Any:
    rows = []
    for name, entry in manifest.plans.items():
        shown = name + " (default)" * (name == manifest.default_plan)
        units = f"{entry.bucket} of {entry.plan.units}" if entry.bucket else "all"
        height, width = entry.size
        precision = entry.precision + (f", caches {entry.cache_precision}" if entry.caches else "")
        rows.append((shown, entry.kind, f"{height}x{width}", units, precision, entry.variant_of or ""))
    head = ("name", "for a", "of pixels", "units", "precision", "variant of")
    return table(rows, *head, title="plans")


def _facts(manifest: Any, template: str) -> Iterator[tuple[str, str]]:
    source, image, prompt, weights = manifest.source, manifest.image, manifest.prompt, manifest.weights
    yield "source", f"{source.model} ({source.model_type})"
    yield "task", f"{manifest.task}: {manifest.does.asked_by}"
    yield "arithmetic", manifest.dtype
    yield "image", f"{image.size[0]}x{image.size[1]}, {image.fit}"
    yield "text capacity", f"{prompt.text_capacity} tokens of a context of {manifest.decoder.context}"
    yield "chat template", template
    if manifest.vocabulary is not None:
        yield "vocabulary", str(manifest.vocabulary)
    if manifest.generation is not None:
        asked = manifest.generation.options()
        yield "answers", ", ".join(f"{name} {value}" for name, value in asked.items()) or "the best token"
        if manifest.generation.unsupported:
            yield "not followed", ", ".join(manifest.generation.unsupported)
    else:
        yield "answers", "the best token (generation_config.json was not stored: export again to have it)"
    yield "weights", weights.mode + (f", in {weights.folder}" if weights.folder else "")
    if (codes := weights.stored) is not None:
        bits = 8 * codes.bytes / codes.numbers
        yield "quantised", f"{codes.method}, {len(codes.products)} weights, {bits:.2f} bits each with scales"
        yield from (("", note) for note in codes.notes)
    yield "made with", ", ".join(f"{name} {version}" for name, version in manifest.tools.items())
