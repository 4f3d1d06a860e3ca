"""Aids for dependent lookups, used in training alone: what a word should know, and where it should look, by layer.

Left alone, a decoder of this size worked out in which cell the next digit must be, to 98 %, and in a thousand steps
never looked there. With these losses the lookup came within a hundred steps. They also decide the layers in which the
picture is needed: 0 for the first lookup of a question, 2 for the second, 4 for the third.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from .decoder import Prefix
from .model import LABELS
from .pack import Packed

LOOKUP_LAYERS = {1: 2, 2: 4}  # where a word looks at the picture that has one or two lookups before its own
COUNT_LAYER = 2  # on entry to it a colour that is counted knows the digits that have it
ANSWER_LAYER = 5  # where the answer is taken from the last step word
WATCHED = (*LOOKUP_LAYERS.values(), ANSWER_LAYER)
HEADS = (0, 3)  # attention heads that are guided, one of each group that shares keys and values


def guide(
    packed: Packed, prefix: Prefix, watched: dict, shown: Tensor, key: nn.Linear, members: nn.Linear
) -> tuple[Tensor, Tensor]:
    """Return two losses: do words know what to look for, and do they look.

    `watched` is what `decode` filled for the layers `WATCHED`; `shown` [B, 108, 4] are the labels of the visual tokens;
    `key` and `members` read states [D] as labels of one digit and as the digits that have a colour.
    """
    size, looks, knows = packed.ids[0].numel(), [], []
    for hops, layer in LOOKUP_LAYERS.items():
        some = (packed.hops == hops).nonzero()[:, 0]
        flat, trail, by_digit = (x[some].to(shown.device) for x in (packed.anchors, packed.trail, packed.by_digit))
        row, token, (state, attention) = flat // size, flat % size, watched[layer]
        parts = key(state[row, token]).float().split(list(LABELS.values()), -1)
        for label, chosen in ((0, by_digit), (2, ~by_digit), (3, ~by_digit)):  # `next` seeks a digit, others a cell
            knows.append(cross_entropy(parts[label][chosen], trail[chosen, label], reduction="none"))
        there = (shown[row, :, 2] == trail[:, 2:3]) & (shown[row, :, 3] == trail[:, 3:4])
        weights = attention[:, HEADS][row, :, token][..., : len(prefix.visual)][..., prefix.visual]
        looks.append(missed((weights * there[:, None]).sum(-1)[there.any(-1)]))
    if len(packed.counted):
        flat, among = packed.counted.to(shown.device), packed.among.to(shown.device)
        logits = members(watched[COUNT_LAYER][0][flat // size, flat % size]).float()
        knows.append(binary_cross_entropy_with_logits(logits, among, reduction="none").sum(-1))
    if len(packed.spoken):
        flat, last = packed.spoken.to(shown.device), packed.last.to(shown.device) + len(prefix.visual)
        weights = watched[ANSWER_LAYER][1][:, HEADS][flat // size, :, flat % size]
        looks.append(missed(weights.gather(-1, last[:, None, None].expand(-1, len(HEADS), 1))))
    none = torch.zeros((), device=shown.device)
    return tuple(torch.cat(x).mean() if sum(map(len, x)) else none for x in (knows, looks))


def missed(weights: Tensor) -> Tensor:
    """Return -log of attention weights, flat."""
    return -weights.clamp_min(1e-6).log().flatten()
