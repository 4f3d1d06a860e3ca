"""The decoder of ``traced_cache`` whose prunes are not fused: two in rounds, one learned and by keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import traced_cache
from flat_plans import replan

from luvc_export.export.compression import scores

#: Scores by how many tokens they keep. The first prune has the grid: six cells of 2 x 2, rounds of up to three tokens.
#: The last adds two scores up and the layer between the others is frozen, so that one engine has it all.
SCORES = {6: ("scope",), 4: ("maxmin",), 3: ("learned", "keynorm")}
PLAN = replan(
    traced_cache.PLAN, merges=(), keep=(6, 4, 3), last_layer="full", kv_only=(1,), score="scope", rho=0.5, steps=3
)


def write(folder: Path) -> None:
    """Trace the decoder into ``folder``, weights inside."""
    traced_cache.write(folder, PLAN, mixed)


def mixed(decoder: Any) -> None:
    """Let every prune of ``decoder`` rank by a score of its own."""
    maps = torch.randn(2, 8, decoder.hidden, generator=torch.Generator().manual_seed(0))

    def score(given: scores.ScoreInput) -> torch.Tensor:
        parts = [
            scores.find(name).score(replace(given, basis=maps) if name == "learned" else given)
            for name in SCORES[given.keep]
        ]
        return sum(parts[1:], parts[0])

    decoder.score = score
