"""Feature planes: hidden states saved along the encoder that stay aligned with the units merged after them.

DeepStack (Qwen3-VL) and towers that join several feature layers (LLaVA) use hidden states of earlier blocks. Each plane
receives every OIM pass after its block with the decision made on the main state, so that plane and token fit. How
DeepStack and merging go together is a reconstruction, not in the abstract of arXiv 2512.09010.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luvc_export.core.plan import MergeMode
from luvc_export.core.plan.merging import Planned
from luvc_export.export.compression import oim, window_merge


def merge(
    units: oim.Units, planes: list[Tensor], step: Planned, mode: MergeMode, padded: bool = False
) -> tuple[oim.Units, list[Tensor]]:
    """One pass over ``units`` and, by the same decision and size-weighted mean, over every plane [n, H, W, C'].

    ``step`` is planned for the grid of ``units``; ``padded``: see ``oim.merge``.
    """
    if not planes:
        return window_merge.merge(units, step, mode, padded), planes
    rows, columns = units.x.shape[1:3]
    own_place = torch.arange(rows * columns).expand(units.x.shape[0], -1)
    merged = window_merge.merge(units._replace(merged_into=own_place), step, mode, padded)
    kept = merged.x.shape[1] * merged.x.shape[2]
    joins = (torch.arange(kept)[:, None] == merged.merged_into[:, None, :]).float()
    sizes = units.sizes.flatten(1)[:, :, None]
    moved = []
    for plane in planes:
        mean = joins @ (plane.flatten(1, 2).float() * sizes) / (joins @ sizes)
        moved.append(mean.to(plane.dtype).reshape(-1, *merged.x.shape[1:3], plane.shape[3]))
    return merged._replace(merged_into=merged.merged_into.gather(1, units.merged_into)), moved
