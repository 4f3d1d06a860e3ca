"""What each unit shows, as indices into a codebook, for pictures and pages alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from glyph_vqa.model import codebook as picture_codebook
from numpy.typing import NDArray
from torch import Tensor

from luvc_export.demo.scene import NAMES, Scene

from .page import HEADS, KEYS, MOST_LINES, Page, Shown

HIDDEN = 192
ROLES = ("number", "key", "ref", "figure")
#: Fields and their classes. The first four are the bundled model's. On a page, `key` and `line` are those of the
#: whole line a unit stands in, `ref` the key its line refers to, `head` the column of a table a figure stands in.
FIELDS = {
    "digit": 10, "colour": len(NAMES), "row": 3, "column": 4, "tens": 10, "ones": 10, "key": len(KEYS),
    "line": MOST_LINES, "ref": len(KEYS), "head": len(HEADS), "role": len(ROLES),
}  # fmt: skip
NAMES_OF_FIELDS = tuple(FIELDS)
PAGE_FIELDS = slice(4, None)


@dataclass(frozen=True)
class Seen:
    """What the units of one picture show.

    labels: int64 [units, fields], -1 where a field does not apply. owner: int64 [units], the index of the mark or
    entry whose digit or figure a unit shows, -1 where none.
    """

    labels: NDArray[np.int64]
    owner: NDArray[np.int64]
    table: NDArray[np.int64]  # [marks or entries, fields]


def of_scene(scene: Scene) -> Seen:
    """Return what the 108 units of a picture show."""
    table = np.full((len(scene.marks) + 1, len(FIELDS)), -1, dtype=np.int64)
    for i, m in enumerate(scene.marks):
        table[i, :4] = (m.digit, NAMES.index(m.colour), m.row, m.column)
    owner = scene.owner.ravel()
    return Seen(table[owner], owner, table[:-1])


def of_page(page: Page, shown: Shown) -> Seen:
    """Return what the units of a page show."""
    labels = np.full((page.rows, page.columns, len(FIELDS)), -1, dtype=np.int64)
    owner = np.full((page.rows, page.columns), -1, dtype=np.int64)
    for row, line in enumerate(page.lines):
        labels[row, 0, 4:] = (-1, -1, -1, row, -1, -1, ROLES.index("number"))
        for role, units in (("key", shown.keys), ("ref", shown.refs)):
            for r, c in units.get(row, ()):
                labels[r, c, 4:] = (-1, -1, line.key, row, line.ref if role == "ref" else -1, -1, ROLES.index(role))
    for (row, column), head in shown.heads.items():
        labels[row, column, NAMES_OF_FIELDS.index("head")] = head
    table = np.full((len(page.entries), len(FIELDS)), -1, dtype=np.int64)
    for i, e in enumerate(page.entries):
        table[i, 4:] = (*divmod(e.figure, 10), e.key, e.line - 1, e.ref, e.head, ROLES.index("figure"))
        labels[e.unit], owner[e.unit] = table[i], i
    return Seen(labels.reshape(-1, len(FIELDS)), owner.ravel(), table)


def codebook() -> dict[str, Tensor]:
    """Return the codes a unit is taught to be the sum of: {field: [classes, 192], "none": [1, 192]}, unit norm rows.

    Those of the first four fields and of "none" are the bundled model's, so that it starts out knowing them.
    """
    random = torch.Generator().manual_seed(8)
    rows = {name: torch.randn(size, HIDDEN, generator=random) for name, size in FIELDS.items()}
    return {name: torch.nn.functional.normalize(row, dim=-1) for name, row in rows.items()} | picture_codebook()


def symbols(labels: Tensor, codes: dict[str, Tensor]) -> Tensor:
    """Return the ideal visual embeddings [..., 192] of labels [..., fields]: the sum of codes, or the code `none`."""
    there = labels >= 0
    total = sum(
        codes[name][labels[..., i].clamp_min(0)] * there[..., i, None] for i, name in enumerate(NAMES_OF_FIELDS)
    )
    return torch.where(there.any(-1, keepdim=True), total, codes["none"])
