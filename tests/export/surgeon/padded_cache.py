"""The graphs of ``traced_cache`` for pictures that may be padded: a merge, two prunes, the first of most, a drop."""

from __future__ import annotations

from pathlib import Path

import traced_cache
from flat_plans import replan

from luvc_export.core.plan import MergePass

PLAN = replan(traced_cache.PLAN, padding=True, merges=(MergePass(1, 2, 2),), keep=(5, 3, 0))


def write(folder: Path, marked: bool = True) -> None:
    """Trace both halves into ``folder``, weights inside, with marks or, as ``plain_*``, without."""
    traced_cache.write(folder, PLAN, marks=(marked,))
