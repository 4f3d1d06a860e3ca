"""Tokens in the order in which evenly spread ones are taken."""

from __future__ import annotations

import torch
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.export.compression.scores.base import Score


class EvenScore(Score):
    """A score whose constant is the even order, of which it takes what it does not rank itself."""

    def constant(self, plan: Plan, layer: int, tokens: int, channels: int) -> Tensor:
        """fp32 [N], see ``even``."""
        return even(tokens, plan.keep[layer])


def even(tokens: int, keep: int) -> Tensor:
    """fp32 [tokens] in -1..2, no two alike: nearest the middles of ``keep`` equal parts first, then others evenly.

    Others stand in for those of the K that show padding. Their order is that of their places' bits turned round.
    """
    bits = max(1, (tokens - 1).bit_length())
    turned = [int(f"{place:0{bits}b}"[::-1], 2) for place in range(tokens)]
    picked = -torch.tensor(turned, dtype=torch.float32) / 2**bits
    picked[[(2 * part + 1) * tokens // (2 * keep) for part in range(keep)]] += 2
    return picked
