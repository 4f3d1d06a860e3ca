"""The decoder of ``traced_cache`` that prunes in rounds: the first picture by scope, every other one by maxmin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import traced_cache

from luvc_export.export.compression import scores

#: Six of 24 tokens in three rounds of two: six cells of 2 x 2 for each.
PLAN = replace(traced_cache.PLAN, merges=(), keep=(24, 6, 0), score="scope", rho=0.5, steps=3)


def write(folder: Path) -> None:
    """Trace the decoder into ``folder``, weights inside."""
    traced_cache.write(folder, PLAN, _by_picture)


def _by_picture(decoder: Any) -> None:
    both = [scores.find(name).score for name in ("scope", "maxmin")]

    def score(given: scores.ScoreInput) -> torch.Tensor:
        first = torch.arange(given.normed.shape[1])[:, None] == 0
        return torch.where(first, *(rank(given) for rank in both))

    decoder.score = score
