"""Pages that were found as an HTML page: each shown, and of many vectors the patches that a query's vectors matched."""

from __future__ import annotations

import io
from collections.abc import Iterable
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from luvc_export.core.files import html
from luvc_export.errors import UsageError
from luvc_export.runtime.engine.clusters import members, pooled
from luvc_export.runtime.engine.embed import embedding_of, shown_cells
from luvc_export.runtime.media.pictures import open_picture
from luvc_export.runtime.media.token_visualisation import shade
from luvc_export.runtime.prompt.request import open_media
from luvc_export.runtime.prompt.vector_chat import input_chat
from luvc_export.search.pages import Page, pages_of, read_file
from luvc_export.search.run import Hit, Search

#: Pixels that a page is wide, and between one and its patches.
_WIDTH, _GAP = 460, 12


def results_page(search: Search, query: str, vectors: NDArray[np.float32], hits: Iterable[Hit]) -> str:
    """One self-contained page; ``vectors`` are the query's, float32 [n, D]."""
    session = search.session
    pages = sum(one.count for one in search.indexed.values())
    body = [f"<h1>{escape(query)}</h1>"]
    body.append(f"<p>{pages} pages, {escape(session.bundle.manifest.source.model)}, plan {session.plan_name}</p>")
    for place, hit in enumerate(hits, 1):
        caption = f"{place}. {title(hit)}: {hit.score:.4f}"
        try:
            picture, matched = _drawn(search, hit, vectors)
        except UsageError as error:  # it went meanwhile
            body.append(f"<p>{escape(f'{caption}; {error.what}')}</p>")
            continue
        file = io.BytesIO()
        picture.save(file, format="PNG")
        body.append(html.figure(file.getvalue(), caption + matched))
    return html.document(f"{query} - luvc-export search", body)


def title(hit: Hit) -> str:
    """A page's name, for people."""
    return hit.name if hit.number is None else f"{hit.name}, page {hit.number}"


def _drawn(search: Search, hit: Hit, vectors: NDArray[np.float32]) -> tuple[Image.Image, str]:
    path = search.files[hit.name]
    page = next(pages_of(path, *read_file(path), hit.number))
    if page.sha256 != hit.page:
        raise UsageError("the page has changed since it was embedded", where=str(path))
    if (cells := _matched(search, page, vectors, search.vectors(hit))) is not None:
        return cells
    return _sized(open_picture(page.picture)), ""


def _matched(
    search: Search, page: Page, query: NDArray[np.float32], vectors: NDArray[np.float32]
) -> tuple[Image.Image, str] | None:
    """What the model saw, beside it the same, dark but for matched patches; None where no vector is a patch's."""
    session = search.session
    how = embedding_of(session.bundle)
    if how.pooling != "every":
        return None
    loaded, request = session.fit(open_media(input_chat(how, [page.picture], None, ""), session.bundle.manifest))
    plan, (high, wide) = loaded.plan, how.merged
    rows, columns = plan.grid
    if len(request.images) != 1 or plan.keep[-1] != plan.units or plan.units != rows * columns:
        return None
    cells = shown_cells(how, plan, request)
    shown = np.ones((-(-rows // high), -(-columns // wide)), np.bool_) if cells is None else cells[0]
    places = np.flatnonzero(shown)
    factor, member = search.options.pool, np.arange(len(places))
    if factor != 1:  # alike patches are one vector: which, the page's own vectors say
        (own,) = session.embed_many(images=[page.picture])
        member, vectors = members(own[: len(places)], factor), pooled(own, len(places), factor)
    nearest = (query @ vectors.T).argmax(1)
    visual = nearest[nearest <= member.max()]
    matched = np.zeros(shown.size, np.int64)
    matched[places[np.isin(member, visual)]] = 1
    owner = matched.reshape(shown.shape).repeat(high, 0).repeat(wide, 1)[:rows, :columns]
    page_seen = _sized(Image.fromarray(request.images[0][0]))
    void = np.zeros((rows, columns), np.bool_) if request.padding is None else request.padding[0]
    sheet = Image.new("RGB", (2 * _WIDTH + _GAP, page_seen.height), "white")
    sheet.paste(page_seen, (0, 0))
    sheet.paste(shade(page_seen, owner, np.ones(1, np.int64), void), (_WIDTH + _GAP, 0))
    of = f"; {matched.sum()} of {len(places)} patches are nearest to {len(visual)} of the query's {len(query)} vectors"
    return sheet, of


def _sized(picture: Image.Image) -> Image.Image:
    return picture.resize((_WIDTH, max(1, round(_WIDTH * picture.height / picture.width))))
