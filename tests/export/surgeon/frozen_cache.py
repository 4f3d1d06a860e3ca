"""The decoder of ``traced_cache`` whose layers before a prune and after it are frozen but for every third token."""

from __future__ import annotations

from pathlib import Path

import traced_cache
from flat_plans import replan

PLAN = replan(traced_cache.PLAN, merges=(), keep=(24, 9, 0), kv_only=(0, 1), turns=3)


def write(folder: Path) -> None:
    """Trace the decoder into ``folder``, weights inside."""
    traced_cache.write(folder, PLAN, lambda decoder: None)
