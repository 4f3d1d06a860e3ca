"""HoliTom (arXiv 2505.21334) in fixed windows of frames: places that stand still once, of the rest cluster centres.

Its authors cut a clip where it changes and average a place that stands still over its segment. Here windows are of one
length, a share of their budget is for places whose neighbours in time are most alike throughout (the least cosine
decides), and such a place stands as its token of the window's first frame, not as a mean (departures: shapes must not
depend on a film). What is left is divided equally among the frames and goes to their DPC-KNN centres: density, ``exp``
of minus the mean squared distance to the 7 nearest, times the squared distance to the nearest denser token. The authors
choose by the encoder's attention too, and prune once more inside the LLM, which a plan's budgets may say.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luvc_export.export.compression import spu
from luvc_export.export.compression.row_reductions import mark, sums
from luvc_export.export.compression.scores._greedy import unit
from luvc_export.export.compression.scores.base import Score, ScoreInput, ScoreSetting

#: Neighbours that density is read from.
NEAREST = 7
#: Densities and cosines count in steps, so that what rounding alone tells apart is alike on every back-end.
_STEPS = 2**14


SETTINGS: dict[str, ScoreSetting[Any]] = {
    "window": ScoreSetting(4, "Frames of a window (ours; HoliTom cuts where a clip changes).", least=1, most=64),
    "still": ScoreSetting(0.5, "Share of a window's budget for places that stand still (ours).", least=0.0, most=1.0),
}


class HoliTom(Score):
    """Still places once, then centres."""

    needs_positions = True
    settings = SETTINGS

    def score(self, given: ScoreInput) -> Tensor:
        """2 for chosen tokens [B, G, N], up to 1 for how much of a centre the others are."""
        batch, groups, tokens, width = given.normed.shape
        frames, each = given.images, tokens // given.images
        along = unit(given.normed).reshape(batch, groups, frames, each, width)
        padding = None if given.padding is None else given.padding().float().reshape(batch, groups, frames, each)
        centre = centres(along.reshape(batch, groups * frames, each, width)).reshape(batch, groups, frames, each)
        taken = []
        for first, last, still, counts in shares(frames, each, given.keep, given.settings):
            own = along[:, :, first:last]
            fixed = torch.zeros_like(centre[:, :, 0])
            if still:
                rank = standing(own)
                rank = rank if padding is None else rank - 4.0 * padding[:, :, first]
                fixed = mark(spu.best(rank, still), each)
            for frame, count in zip(range(first, last), counts, strict=True):
                rank = centre[:, :, frame] - 2.0 * fixed
                rank = rank if padding is None else rank - 4.0 * padding[:, :, frame]
                chosen = mark(spu.best(rank, count), each) if count else torch.zeros_like(fixed)
                taken.append(chosen + fixed if frame == first else chosen)
        chosen = torch.stack(taken, 2).reshape(batch, groups, tokens)
        return torch.where(chosen > 0, 2.0, centre.reshape(batch, groups, tokens))


def shares(frames: int, each: int, keep: int, settings: Any) -> list[tuple[int, int, int, list[int]]]:
    """Of every window: first frame, the one after its last, still places, and tokens of each frame: ``keep`` in all."""
    window, share = (settings.get(name, SETTINGS[name].default) for name in ("window", "still"))
    segments = []
    for first in range(0, frames, window):
        last = min(first + window, frames)
        size = last - first
        budget = keep * last // frames - keep * first // frames
        still = 0 if size == 1 else min(round(share * budget), each, (size * each - budget) // (size - 1))
        rest = budget - still
        segments.append((first, last, still, [rest * (at + 1) // size - rest * at // size for at in range(size)]))
    return segments


def standing(along: Tensor) -> Tensor:
    """How alike each place stays through a window: the least cosine of neighbours, [B, G, f, n, D] -> [B, G, n]."""
    least = sums(along[:, :, 0] * along[:, :, 1])
    for frame in range(2, along.shape[2]):
        least = torch.minimum(least, sums(along[:, :, frame - 1] * along[:, :, frame]))
    return torch.floor(least * _STEPS + 0.5) / _STEPS


def centres(along: Tensor) -> Tensor:
    """DPC-KNN of tokens of length 1 [B, F, n, D]: density times distance, 0 to 1 [B, F, n]."""
    batch, frames, each, _ = along.shape
    apart = (1 - along @ along.transpose(2, 3)).clamp(min=0) / 2  # a quarter of the squared distance: 0 to 1
    count = min(NEAREST, each)
    flat = apart.reshape(batch * frames * each, each)
    near = spu.least(flat, count).reshape(batch, frames, each, count)
    density = torch.floor(torch.exp(-4 * sums(near) / count) * _STEPS + 0.5) / _STEPS
    before = torch.ones(each, each).tril(-1)  # of equally dense ones the first counts as denser
    other, own = density[:, :, None, :], density[:, :, :, None]
    denser = (other > own).float() + (other == own).float() * before
    far = apart * denser + (1 - denser)
    nearest = -(-far).reshape(batch * frames * each, each).amax(1).reshape(batch, frames, each)  # no ReduceMin for all
    return density * torch.floor(nearest * _STEPS + 0.5) / _STEPS


SCORE = HoliTom()
