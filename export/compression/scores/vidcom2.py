"""VidCom2 (arXiv 2505.14454): what is least like its clip and its frame; ``--quota vidcom2`` is its other half.

See ``frame_outliers``; a picture is a clip of one frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luvc_export.export.compression.frame_outliers import alike
from luvc_export.export.compression.scores.base import Score, ScoreInput


class VidCom2(Score):
    """Outliers."""

    needs_positions = True

    def score(self, given: ScoreInput) -> Tensor:
        """Minus the similarity [B, G, N]."""
        batch, groups, tokens = given.normed.shape[:3]
        each = tokens // given.images
        own = [[float(place // each == frame) for place in range(tokens)] for frame in range(given.images)]
        one_hot = torch.tensor(own).expand(batch, groups, -1, -1)
        if given.padding is not None:
            one_hot = one_hot * (~given.padding()).float()[:, :, None]
        return -alike(given.normed, one_hot)


SCORE = VidCom2()
