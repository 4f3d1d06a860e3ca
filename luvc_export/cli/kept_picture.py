"""What an answer's pictures merged to and what of them survived, drawn to a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export.cli.files import check_writable, write_whole
from luvc_export.errors import UsageError


def check_picture_file(path: Path | None, flag: str) -> None:
    """Refuse a file that a PNG cannot be written to, before the work; None is fine.

    Raises:
        UsageError: Its name says something else, or see ``check_writable``.
    """
    if path is not None and path.suffix.lower() != ".png":
        raise UsageError("a PNG is drawn", where=f"{flag} {path}", expected="a name that ends in .png")
    check_writable(path, flag)


def save_survival(generation: Any, path: Path) -> None:
    """Draw merges and survivors of every image of the answer to ``path``: pictures, tiles, moments of a video.

    Raises:
        UsageError: Nothing was seen, or the graphs do not say what merged.
    """
    from PIL import Image

    if not len(generation.past.images) or generation.selection.merged_into is None:
        raise UsageError("no picture was seen in this answer", where=str(path), fix="ask about a picture")
    sheets = list(_sheets(generation))
    whole = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)))
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    drawn = io.BytesIO()
    whole.save(drawn, format="PNG")
    write_whole(path, drawn.getvalue())


def _sheets(generation: Any) -> Iterator[Any]:
    from luvc_export.runtime.generation.result import kept_of
    from luvc_export.runtime.media.token_visualisation import draw

    plan, selection = generation.past.loaded.plan, generation.selection
    means = [layer for layer, _, _ in plan.chooses] if plan.llm.aggregate else []
    images = generation.past.images[-len(selection.merged_into) :]  # of a later turn, those it brought
    for number, merged in enumerate(selection.merged_into):
        kept = {layer: kept_of(groups, number, plan) for layer, groups in selection.kept.items()}
        kept |= {layer: np.zeros(0, np.int64) for layer, _, keep in plan.prunes if keep == 0}
        padding = None if selection.padding is None else selection.padding[number]
        facts = {"padding": padding, "means": means, "foretold": plan.encoder.takes_units}
        yield draw(images[number][0], plan.grid, merged, kept, **facts)
