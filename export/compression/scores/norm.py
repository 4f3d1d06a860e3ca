"""Keep the tokens of largest norm: the low-pass score without its filter."""

from __future__ import annotations

from torch import Tensor

from luvc_export.export.compression.row_reductions import norms
from luvc_export.export.compression.scores import ScoreInput


def score(given: ScoreInput) -> Tensor:
    """L2 norm after the layer's input norm [B, G, N]."""
    return norms(given.normed)
