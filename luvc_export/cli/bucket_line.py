"""What a bucket computed of an answer's pictures, and what it left out."""

from __future__ import annotations

from typing import Any

import numpy as np


def bucket_counts(selection: Any) -> dict[str, int] | None:
    """Units of all pictures: ``all``, ``computed``, ``novel`` and ``lost`` (novel, but not computed).

    None where the bundle has no buckets, or nothing was seen.
    """
    if selection.novel is None or not len(selection.novel):
        return None
    novel = selection.novel.reshape(len(selection.novel), -1)
    seen = np.ones_like(novel) if selection.merged_into is None else selection.merged_into >= 0
    masks = {"all": novel, "computed": seen, "novel": novel, "lost": novel & ~seen}
    return {"all": novel.size} | {name: int(masks[name].sum()) for name in ("computed", "novel", "lost")}


def bucket_line(selection: Any) -> str | None:
    """``bucket_counts`` for people."""
    if (counts := bucket_counts(selection)) is None:
        return None
    lost = f"; {counts['lost']} of those are left out: too many for this bucket" if counts["lost"] else ""
    return f"{counts['computed']} of {counts['all']} units computed; neighbours do not foretell {counts['novel']}{lost}"
