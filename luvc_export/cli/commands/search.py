"""``luvc-export search``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder, check_writable, write_whole
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import styled, table, write
from luvc_export.core.options import option
from luvc_export.errors import UsageError
from luvc_export.runtime.engine.vector_form import VectorOptions
from luvc_export.runtime.session_options import SessionOptions


@dataclass(frozen=True, kw_only=True)
class SearchOptions(VectorOptions):
    """What embeds pages, where the index is, and how the answer is shown."""

    bundle: Path | None = option(
        None,
        "Bundle folder, of the task embed or embed-many; default: the bundled model of drawn digits (demo-search), "
        "exported beside PAGES, of their name and .bundle.",
    )
    top: int = option(5, "Pages that are shown, the best first.", least=1, most=1000)
    index: Path | None = option(None, "Folder of the index; default: beside PAGES, of their name and .index.")
    html: Path | None = option(None, "Write an HTML page with the pages shown and, of many vectors, matched patches.")


@grouped
def search(
    *,
    pages: Path = option(..., "Folder of pictures and PDFs, or one of them.", argument=True),
    query: str = option(..., "What is searched for.", argument=True),
    wanted: SearchOptions,
    opening: SessionOptions,
    as_json: options.Json = False,
) -> None:
    """Find the pages that answer a query: embedded once into an index, again where they have changed.

    Interrupted anywhere, what was embedded stays. A file that cannot be read is named; the exit code is 1 then.

    [dim]luvc-export search scans/ "invoices above 100 euros" --bundle pages-bundle --html found.html[/dim]
    """
    from luvc_export.pipeline import load_bundle
    from luvc_export.search.page import results_page, title
    from luvc_export.search.run import Search

    check_writable(wanted.html, "--html")
    check_folder(wanted.index, "--index")
    folder = wanted.bundle or _bundled(pages, as_json)
    asked = VectorOptions(**{each.name: getattr(wanted, each.name) for each in fields(VectorOptions)})
    with options.progress(as_json) as tell:
        session = load_bundle(folder, options=opening, progress=tell)
        searched = Search(session, pages, wanted.index, asked)
        vectors = searched.query(query)
        searched.update(tell)
    hits = searched.rank(vectors, wanted.top)
    if wanted.html is not None:
        write_whole(wanted.html, results_page(searched, query, vectors, hits))
    count = sum(one.count for one in searched.indexed.values())
    facts = {
        "hits": [{"name": one.name, "page": one.number, "score": one.score} for one in hits],
        "pages": count,
        "embedded": searched.embedded,
        "errors": searched.errors,
        "index": str(searched.folder),
        "plan": session.plan_name,
        "backend": session.backend.name,
        "html": None if wanted.html is None else str(wanted.html),
    }
    rows = [[str(at), title(one), f"{one.score:.4f}"] for at, one in enumerate(hits, 1)]
    summary = f"{count} pages, {searched.embedded} embedded now, plan {session.plan_name}: {searched.folder}"
    faults = [styled((f"{name}: {error}", "red")) for name, error in searched.errors.items()]
    write(as_json, facts, table(rows, "", "page", "score", left=2), summary, lambda: faults)
    if searched.errors:
        raise typer.Exit(1)


def _bundled(pages: Path, quiet: bool) -> Path:
    """A bundle of the bundled model, half as many vectors a page.

    Raises:
        UsageError: Something else lies in its place.
    """
    from luvc_export.bundle.folder import MANIFEST, read_manifest
    from luvc_export.cli.bundled import exported
    from luvc_export.search.pages import list_files

    list_files(pages)
    name, folder = "demo-search", pages.absolute().with_name(pages.absolute().name + ".bundle")
    if folder.exists():
        model = read_manifest(folder).source.model if (folder / MANIFEST).is_file() else "no bundle"
        if model != name:
            raise UsageError(
                "no bundle is named, and the place of the bundled model's is taken",
                where=str(folder),
                got=model,
                expected=f"nothing, or a bundle of {name}",
                fix="name a bundle with --bundle, or move it away",
            )
    return exported(name, folder, ["none"], quiet, merge_vectors=(1, 2))
