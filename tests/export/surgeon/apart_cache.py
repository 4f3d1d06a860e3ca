"""The decoder of ``traced_cache`` whose tokens are apart (``LlmPlan.apart``) until half of them go before layer 2."""

from __future__ import annotations

from pathlib import Path

import traced_cache
from flat_plans import replan

PLAN = replan(traced_cache.PLAN, merges=(), keep=(24, 24, 12), last_layer="full", apart=True)


def write(folder: Path) -> None:
    """Trace the decoder into ``folder``, weights inside."""
    traced_cache.write(folder, PLAN, lambda decoder: None)
