"""How a budget that several images share is divided among them, in static shapes: ``Plan.quota``.

Every image has a quota by its weight, at least one token and at most what it has. A token's rank in its image against
that quota makes a key, and one TopK takes as many as the budget says: first all within their quotas, then the best of
the rest, wherever they are. So totals are exact whatever the weights are (the form is ours; docs/algorithm.md).

``v-cast`` are the weights of V-CAST (arXiv 2603.27650): an image where the clip turns gets more. Its tokens are
ranked by the plan's score, not by V-CAST's. ``dycoke`` and ``vidcom2`` are those of the scores of these names, see
``frame_references`` and ``frame_outliers``. ``spread`` (ours) gives an image more whose tokens differ more from each
other: a tile of sky next to nothing.

Shapes: B rows of a batch, G groups, F images that share a budget, N tokens of a group, n of an image, K kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from luvc_export.core.plan import Quota
from luvc_export.export.compression import frame_outliers, spu
from luvc_export.export.compression.frame_references import dycoke_shares
from luvc_export.export.compression.row_reductions import norms, sums

#: V-CAST's softmax temperature.
TEMPERATURE = 0.7
#: Products of two steps' lengths below this are of a clip that stands still: no direction (V-CAST has no such floor).
STILL = 1e-6
#: Of the tokens' mean square, added to what is between them: images whose tokens differ by rounding get as much.
ALIKE = 0.01
#: Added before rounding down, so that equal weights give each its whole share in every arithmetic.
_NUDGE = 1e-4


class Members(NamedTuple):
    """Which image tokens belong to.

    Attributes:
        one_hot: fp32 [B, G, F, N]; 0 throughout for padding.
        whole: Every token of every image is there, in order.
    """

    one_hot: Tensor
    whole: bool


def members(index: Tensor, images: int, tokens: int, padded: bool) -> Members:
    """Of tokens at places ``index`` int64 [B, G, N] of the encoder's (``spu.mark_padding``), ``tokens`` an image."""
    place = (spu.unmark(index) if padded else index)[:, :, None]
    first = tokens * torch.arange(images)[:, None]  # divided whole numbers compare bools, which TensorRT 10.3 cannot
    own = ((place >= first) & (place < first + tokens)).float()
    own = own * (index >= 0).float()[:, :, None] if padded else own
    return Members(own, index.shape[2] == images * tokens)


def weights(quota: Quota, normed: Tensor, own: Members) -> Tensor:
    """Share of the budget that each image should get, fp32 [B, G, F], adding up to 1.

    Args:
        quota: Any but ``none``.
        normed: What the score ranks, fp32 [B, G, N, D].
        own: Whose tokens they are.
    """
    counts = sums(own.one_hot)
    images = own.one_hot.shape[2]
    if quota == "uniform" or (quota == "v-cast" and images < 3):  # two images have no turn between them
        return torch.full_like(counts, 1 / images)
    if quota == "dycoke":
        return dycoke_shares(own.one_hot.shape[2]).expand_as(counts)
    if quota == "vidcom2":
        return frame_outliers.shares(normed, own.one_hot)
    mean = own.one_hot @ normed / counts.clamp(min=1)[..., None]
    if quota == "spread":
        long = (own.one_hot @ sums(normed * normed)[..., None])[..., 0] / counts.clamp(min=1)
        wide = torch.relu(long - sums(mean * mean)) + ALIKE * long
        return wide / sums(wide[:, :, None]).clamp(min=1e-12)
    return (curvature(mean / norms(mean)[..., None].clamp(min=1e-12)) / TEMPERATURE).softmax(-1)


def curvature(frames: Tensor) -> Tensor:
    """``c_t = 1 - cos(f_t - f_{t-1}, f_{t+1} - f_t)`` of unit vectors [B, G, F >= 3, D]; 1 at ends, and where still."""
    ends = torch.ones_like(frames[:, :, :1, 0])
    step = frames[:, :, 1:] - frames[:, :, :-1]
    before, after = step[:, :, :-1], step[:, :, 1:]
    length = norms(before) * norms(after)
    return torch.cat([ends, 1 - sums(before * after) / length.clamp(min=STILL), ends], 2)


def quotas(share: Tensor, own: Members, keep: int) -> Tensor:
    """Tokens that each image is sure of, whole numbers fp32 [B, G, F]: at most ``keep`` in all, K >= F.

    One for each, the others by ``share`` rounded down; never more than an image has that is no padding.
    """
    images = share.shape[2]
    return torch.minimum(1 + torch.floor(share * (keep - images) + _NUDGE), sums(own.one_hot))


def ranks(score: Tensor, own: Members) -> Tensor:
    """How many tokens of the same image come before each, fp32 [B, G, N]; of equal scores the first comes first."""
    batch, groups, images, tokens = own.one_hot.shape
    each = tokens // images if own.whole else tokens
    apart = score.reshape(batch, groups * images, each) if own.whole else score
    place = torch.arange(each)
    mine, other = apart[..., :, None], apart[..., None, :]
    ahead = ((other > mine) | ((other == mine) & (place < place[:, None]))).float()
    if not own.whole:
        ahead = ahead * (own.one_hot.transpose(2, 3) @ own.one_hot)
    return sums(ahead).reshape(batch, groups, tokens)


def keys(score: Tensor, own: Members, quota: Tensor) -> Tensor:
    """What one TopK ranks [B, G, N]: the scores, and above them all tokens within the quotas [B, G, F] of their images.

    Those stand apart by their places, so that no two are alike; the others keep their scores.
    """
    limit = (own.one_hot.transpose(2, 3) @ quota[..., None])[..., 0]
    above = torch.tensor([*range(1, score.shape[2] + 1)], dtype=torch.float32) * spu.PADDING_STEP
    return torch.where(ranks(score, own) < limit, above, score)
