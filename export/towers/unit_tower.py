"""The one loop of vision towers: blocks, taps, merges, the prune of units; a kind of position fills in its hooks.

Units stand in a tower's own order and form between ``arrange`` and ``leave``. What a tower has beside the tokens, such
as windows or class tokens, is its stage; what a prune leaves of that is its own too.

Feature planes are hidden states saved along the encoder that stay aligned with the units merged after them: DeepStack
(Qwen3-VL) and towers that join several feature layers (LLaVA) use those of earlier blocks. Each plane receives every
OIM pass after its block with the decision made on the main state, so that plane and token fit. How DeepStack and
merging go together is a reconstruction, not in the abstract of arXiv 2512.09010.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from luvc_export.core.plan import MergeMode, Plan
from luvc_export.core.plan.encoder import EncoderPrune
from luvc_export.core.plan.merging import Axis, Planned, TimeMerge
from luvc_export.errors import PlanError
from luvc_export.export.compression import oim, time_merge, unit_prune
from luvc_export.export.llm.rope import merged_positions

#: Embeddings [n, N_0, D], positions [n, N_0, 2 * copies], merged_into [n, H0 * W0].
Seen = tuple[Tensor, Tensor, Tensor]


class UnitTower(nn.Module):
    """What ``run`` needs of a tower.

    Args:
        plan: Grid, merges, prune.
        blocks: How many blocks run.
        tapped: Blocks whose output is kept beside the last one's.
    """

    #: Of a unit; towers whose units merge along time say it.
    patches = 1

    def __init__(self, plan: Plan, blocks: int, tapped: tuple[int, ...]) -> None:
        super().__init__()
        self.plan, self.blocks, self.tapped = plan, blocks, tapped
        self.copies = plan.encoder.position_copies

    def arrange(self, units: oim.Units, axes: tuple[Axis, Axis] | None, x: Tensor | None) -> Any:
        """The stage of ``units`` on their grid, ``x`` its tokens.

        Args:
            units: On their grid.
            axes: What merging left of rows and columns; None at the start.
            x: Tokens before the merge; None at the start.
        """
        raise NotImplementedError

    def fewer(self, units: oim.Units, stage: Any, time: TimeMerge) -> Any:
        """The stage of the frames that are left of clips, whose units stand as they did in every frame.

        Raises:
            PlanError: The tower's frames do not merge.
        """
        raise PlanError("frames do not merge in this encoder", where="plan.encoder.time", fix="leave it out")

    def leave(self, units: oim.Units, x: Tensor, stage: Any) -> oim.Units:
        """``units`` with their state ``x`` on the grid again."""
        raise NotImplementedError

    def block(self, number: int, x: Tensor, stage: Any, pruned: Any) -> Tensor:
        """One block; on kept units where ``pruned`` is not None."""
        raise NotImplementedError

    def tap(self, x: Tensor, units: oim.Units, stage: Any, pruned: Any) -> Tensor:
        """A state to keep: on the grid [n, H, W, F], or of kept units alone [n, K, F] where none come back."""
        raise NotImplementedError

    def choose(self, prune: EncoderPrune, x: Tensor, before: Tensor, units: oim.Units, stage: Any, padded: bool) -> Any:
        """What a prune leaves; ``units`` hold ``x`` on the grid, ``before`` is what the block read."""
        raise NotImplementedError

    def only(self, units: oim.Units, stage: Any, places: Tensor) -> Any:
        """What is left of ``units`` where those at ``places``, int64 [n, K], are all that ever are."""
        raise NotImplementedError

    def chosen(self, x: Tensor, pruned: Any) -> Tensor:
        """Tokens of the kept units as they were chosen, ``x`` the tokens of all."""
        raise NotImplementedError

    def give(self, x: Tensor, saved: list[Tensor], units: oim.Units, stage: Any, pruned: Any) -> Tensor:
        """Embeddings [n, N_0, D] of the last state and of those kept."""
        raise NotImplementedError

    def stayed(self, pruned: Any) -> Tensor:
        """Raster places of units that are left, in the order of the embeddings, int64 [n, K]."""
        raise NotImplementedError

    def run(self, units: oim.Units, stage: Any, beside: Tensor | None) -> Seen:
        """From embedded units to what the graph gives.

        Args:
            units: At their start.
            stage: Of these units.
            beside: What the plan's graph asks beside the image: bool [n, H0, W0], units that show padding alone, or
                with a bucket int32 [n, K], the units to compute.
        """
        encoder, pruned, saved = self.plan.encoder, None, list[Tensor]()
        padded, x, prune = beside is not None, stage.x, self.plan.encoder.prune
        time, joined, of_all = encoder.time, None, stage
        if encoder.takes_units:
            assert beside is not None
            pruned = self.only(units, stage, beside.long())
            x = self.chosen(x, pruned)
        for number in range(self.blocks):
            before = x
            x = self.block(number, x, stage, pruned)
            if number in self.tapped:
                every = x if joined is None else time_merge.restored(joined, x, self.patches)
                saved.append(self.tap(every, units, of_all if joined is not None else stage, pruned))
            if time is not None and number == time.block:
                joined, x = time_merge.merge(x, time, self.patches)
                stage = self.fewer(units, stage, time)
            passes = [planned for planned in encoder.merge_passes if planned.step.block == number]
            if passes:
                units = self.leave(units, x, stage)
                for step in passes:
                    units, saved = merge_with_planes(units, saved, step, encoder.merge_mode, padded)
                stage = self.arrange(units, passes[-1].after, x)
                x = stage.x
            if prune is not None and number == prune.block:
                units = self.leave(units, x, stage)
                pruned = self.choose(prune, x, before, units, stage, padded)
                x = self.chosen(x, pruned)
        if joined is not None:
            x, stage = time_merge.restored(joined, x, self.patches), of_all
        embeds = self.give(x, saved, units, stage, pruned)
        positions, into = merged_positions(units, self.plan).flatten(1, 2), units.merged_into
        if encoder.grid_intact:
            return embeds, positions, into
        index, grid = self.stayed(pruned), units.x.shape[1] * units.x.shape[2]
        positions, places = unit_prune.rows(positions, index), dropped(index, grid)
        return embeds, positions, places if encoder.takes_units else places.gather(1, into)


def dropped(index: Tensor, units: int) -> Tensor:
    """Place of each of ``units`` among the kept at ``index`` [n, K], int64 [n, units]; -1 for those that left."""
    itself = (torch.arange(units)[:, None] == index[:, None, :]).float()
    number = torch.arange(1, index.shape[1] + 1, dtype=torch.float32)
    return (itself @ number[:, None])[:, :, 0].to(torch.int64) - 1


def merge_with_planes(
    units: oim.Units, planes: list[Tensor], step: Planned, mode: MergeMode, padded: bool = False
) -> tuple[oim.Units, list[Tensor]]:
    """One pass over ``units`` and, by the same decision and size-weighted mean, over every plane [n, H, W, C'].

    ``step`` is planned for the grid of ``units``; ``padded``: see ``oim.merge``.
    """
    if not planes:
        return oim.merge_planned(units, step, mode, padded), planes
    rows, columns = units.x.shape[1:3]
    own_place = torch.arange(rows * columns).expand(units.x.shape[0], -1)
    merged = oim.merge_planned(units._replace(merged_into=own_place), step, mode, padded)
    kept = merged.x.shape[1] * merged.x.shape[2]
    joins = (torch.arange(kept)[:, None] == merged.merged_into[:, None, :]).float()
    sizes = units.sizes.flatten(1)[:, :, None]
    moved = []
    for plane in planes:
        mean = joins @ (plane.flatten(1, 2).float() * sizes) / (joins @ sizes)
        moved.append(mean.to(plane.dtype).reshape(-1, *merged.x.shape[1:3], plane.shape[3]))
    return merged._replace(merged_into=merged.merged_into.gather(1, units.merged_into)), moved
