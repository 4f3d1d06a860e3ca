"""Keep random tokens: the baseline that beats many published methods. Constant indices from the setting ``seed``."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression.scores.base import Score, ScoreInput, ScoreSetting


class Random(Score):
    """A rank drawn once."""

    settings = MappingProxyType({"seed": ScoreSetting(0, "Another number, other tokens.", least=-(2**31), most=2**31)})

    def constant(self, plan: Plan, layer: int, tokens: int, channels: int) -> Tensor:
        """A random rank of every token, fp32 [N], the same for every picture; another one at every layer and seed."""
        generator = torch.Generator().manual_seed(1000 * plan.llm.method["seed"] + layer)
        return torch.randperm(tokens, generator=generator).float()

    def score(self, given: ScoreInput) -> Tensor:
        """The constant rank [B, G, N]."""
        assert given.basis is not None
        return given.basis.expand(given.normed.shape[:3])


SCORE = Random()
