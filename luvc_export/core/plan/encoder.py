"""What a plan says of the vision encoder: the grid, what merges or leaves, and how merged units are seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from luvc_export.core.files import json_records
from luvc_export.core.plan import merging
from luvc_export.core.plan.merging import Axis, MergePass, TimeMerge, equal_parts
from luvc_export.errors import PlanError

MergeMode = Literal["mean", "max"]
Positions = Literal["mean", "multi"]
Windows = Literal["units", "area"]

#: Original positions that a merged unit carries where ``positions`` is ``multi``.
POSITION_COPIES = 4


UnitScore = Literal["norm", "change", "residual"]
Restore = Literal["all", "none"]


@dataclass(frozen=True)
class EncoderPrune(json_records.JsonRecord):
    """What of the units goes on after encoder block ``block``.

    A share of them goes on and the rest waits. For some blocks more the rest is still seen: attention reads it
    reconstructed from what changed in its nearest kept neighbours, while only kept units are computed further. At the
    end it is restored the same way, so that the LLM sees the whole grid; or it stays away. The idea is IPCV's
    (arXiv 2512.18747); the static form, quotas of units and the scores are ours.

    Args:
        block: Block after which units are chosen.
        keep: Share of the units that goes on, in (0, 1).
        window: Units a side of windows that each keep as large a share, which must be the encoder's; 0 chooses in the
            whole image: in a tower with windows kept units then stay in window order and are cut into runs as long as
            a window.
        stabilise: Blocks after it whose attention still reads the others, reconstructed.
        restore: At the end ``all`` units come back, or ``none``.
        neighbours: Kept units that a removed one is reconstructed from.
        score: What is kept: ``norm``, by the L2 norm of a unit after the norm of the block that reads it next (as it
            is after the last block); ``change``, by how far this block moved it; ``residual``, by what a 2-D low-pass
            leaves of the former.
        rho: Of ``residual``: fraction of the spectrum below the cutoff.
    """

    block: int
    keep: float
    window: int = 0
    stabilise: int = 0
    restore: Restore = "all"
    neighbours: int = 10
    score: UnitScore = "norm"
    rho: float = 0.5

    def count(self, units: int) -> int:
        """How many of ``units`` that share a quota go on: at least one."""
        return min(units, max(1, round(self.keep * units)))

    def tokens(self, axes: tuple[Axis, Axis]) -> int:
        """Units of a grid that go on."""
        rows, columns = axes
        if not self.window:
            return self.count(rows.units * columns.units)
        parts = equal_parts((rows.cut(self.window), columns.cut(self.window)))
        return sum(number * self.count(units) for units, number in parts)

    def problems(self) -> list[str]:
        """What of it is wrong by itself, one line each."""
        lines = json_records.wrong_choices(self)
        if not 0 < self.keep < 1:
            lines.append(f"keep: got {self.keep}, expected a share in (0, 1)")
        if not 0 < self.rho <= 1:
            lines.append(f"rho: got {self.rho}, expected a fraction in (0, 1]")
        for name, least in (("block", 0), ("window", 0), ("stabilise", 0), ("neighbours", 1)):
            if getattr(self, name) < least:
                lines.append(f"{name}: got {getattr(self, name)}, expected at least {least}")
        return lines


@dataclass(frozen=True)
class EncoderPlan(json_records.JsonRecord):
    """Units [rows, columns] of one image, and which of them the encoder's blocks compute.

    Args:
        grid: Units (rows, columns) of one image before merging.
        merges: OIM passes in the order in which they run, along the axes or inside windows; blocks never descend.
        prune: Units that leave the encoder's later blocks, and whether they come back; None for none.
        bucket: Units of an image that the graphs compute, which the host names (input ``units``); 0 for all of them.
        merge_mode: ``mean`` (size-weighted) or ``max`` (largest magnitude per channel, an ablation).
        positions: LLM positions of merged units: their ``mean`` or ``multi`` original ones spread over the rotary
            dimensions.
        windows: After a merge, encoder windows hold as many ``units`` as before or cover the same picture ``area``.
        size_bias: Add log(size) to the encoder's attention scores (an ablation; costs the fused kernel).
        padding: The graphs are told which units show padding alone: those are the last that a prune keeps and never
            merge with the picture. An export sets it by its fit rule; bundles of 0.1.0 have it not.
        time: Frames of a clip that merge; None for none, as of pictures.
        pooled_from: The tower's own units (rows, columns) where the model pools what leaves it to ``grid``, as
            LLaVA-OneVision does with frames; None where each unit of the tower is one of ``grid``.
    """

    written_where_used = frozenset({"time", "pooled_from"})

    grid: tuple[int, int]
    merges: tuple[MergePass, ...] = ()
    prune: EncoderPrune | None = None
    bucket: int = 0
    merge_mode: MergeMode = "mean"
    positions: Positions = "mean"
    windows: Windows = "units"
    size_bias: bool = False
    padding: bool = False
    time: TimeMerge | None = None
    pooled_from: tuple[int, int] | None = None

    @property
    def tower_grid(self) -> tuple[int, int]:
        """Units (rows, columns) of one image inside the tower, before merging."""
        return self.pooled_from or self.grid

    @property
    def units(self) -> int:
        """Visual tokens per image before compression."""
        return self.grid[0] * self.grid[1]

    @cached_property
    def merge_passes(self) -> tuple[merging.Planned, ...]:
        """Every merge pass with the grid it meets."""
        return merging.planned(self.grid, self.merges)

    @cached_property
    def merged_grid(self) -> tuple[int, int]:
        """Units (rows, columns) after every merge pass."""
        return merging.merged_grid(self.grid, self.merges)

    @property
    def merges_units(self) -> bool:
        """Whether a pass makes fewer units of more."""
        return any(step.rows or step.columns for step in self.merges)

    @property
    def takes_units(self) -> bool:
        """Whether the host names the units to compute: graphs then have the input ``units`` [n, K]."""
        return self.bucket > 0

    @property
    def computed_units(self) -> int:
        """Units of an image that the first block computes."""
        return self.bucket or self.units

    @property
    def last_units(self) -> int:
        """Units that the encoder's last block computes."""
        if self.bucket:
            return self.bucket
        passes = self.merge_passes
        axes = passes[-1].after if passes else merging.whole(self.grid)
        return self.prune.tokens(axes) if self.prune else axes[0].units * axes[1].units

    @property
    def grid_intact(self) -> bool:
        """Whether every unit of the merged grid leaves the encoder."""
        return not self.bucket and (self.prune is None or self.prune.restore == "all")

    @property
    def tokens(self) -> int:
        """N_0: visual tokens per image that leave the encoder."""
        return self.merged_grid[0] * self.merged_grid[1] if self.grid_intact else self.last_units

    @property
    def reads_padding(self) -> bool:
        """Whether the vision graph asks which units are padding: it does where it merges or chooses."""
        return self.padding and (self.prune is not None or self.merges_units)

    @property
    def says_merged(self) -> bool:
        """Whether the vision graph says where each unit went (output ``merged_into``)."""
        return self.reads_padding or self.takes_units

    @property
    def position_copies(self) -> int:
        """Original positions that each visual token carries."""
        return POSITION_COPIES if self.positions == "multi" else 1

    def problems(self, topk_limit: int | None = None) -> list[str]:
        """What is wrong, one line each; what follows from something wrong is not looked at.

        Args:
            topk_limit: See ``Plan``.
        """
        lines = json_records.wrong_choices(self)
        if len(self.grid) != 2 or min(self.grid) < 1:
            return [*lines, f"grid: got {self.grid}, expected two numbers of at least 1"]
        lines += merging.problems(self.grid, self.merges)
        if lines:
            return lines
        if self.prune is not None:
            lines += self._prune_problems(self.prune, topk_limit)
        if self.time is not None:
            lines += json_records.below("time", self.time.problems())
            if self.merges_units or self.prune is not None or self.bucket:
                lines.append("time: frames merge where no unit merges, leaves or is left out: one of them")
        if self.pooled_from is not None:
            if len(self.pooled_from) != 2 or any(a < b for a, b in zip(self.pooled_from, self.grid, strict=True)):
                lines.append(f"pooled_from: got {self.pooled_from}, expected rows and columns of at least {self.grid}")
            if self.merges_units or self.prune is not None or self.bucket or self.time is not None:
                lines.append("pooled_from: nothing merges, leaves or is left out of units that the model pools")
        return lines if lines or not self.bucket else self._bucket_problems()

    def _prune_problems(self, prune: EncoderPrune, topk_limit: int | None) -> list[str]:
        lines = json_records.below("prune", prune.problems())
        if late := [step.block for step in self.merges if step.block >= prune.block]:
            where = f"where the units that block {prune.block} removed are missing"
            lines.append(f"merges: after block {late[0]}, {where}: merge before (--merge-at), or keep all units")
        if not lines and topk_limit is not None and not prune.window:
            units = self.merged_grid[0] * self.merged_grid[1]
            if prune.count(units) > topk_limit:
                lines.append(f"prune.keep: {prune.count(units)} of {units} units need TopK K <= {topk_limit}")
        return lines

    def _bucket_problems(self) -> list[str]:
        lines, gaps = [], "of the whole grid, of which a bucket has gaps"
        if type(self.bucket) is not int or not 0 < self.bucket < self.units:
            expected = f"1 to {self.units - 1} of {self.units} units, or 0 for all"
            lines.append(f"bucket: got {self.bucket!r}, expected {expected}")
        if self.merges_units:
            lines.append(f"merges: OIM pairs rows and columns {gaps}: --merge-keep 1")
        if self.prune is not None:
            lines.append(f"prune: its shares and what it restores are {gaps}")
        return lines

    @classmethod
    def from_json(cls, data: object, where: str) -> EncoderPlan:
        """See ``JsonRecord``.

        Raises:
            PlanError: Fields are unknown, missing, of another type, or beyond every model.
        """
        part = super().from_json(data, where)
        for name, sides in (("grid", part.grid), ("pooled_from", part.pooled_from or ())):
            if max(sides, default=0) > json_records.MOST_SIDE:
                raise PlanError(
                    "the number is larger than any model's",
                    where=f"{where}.{name}",
                    got=str(sides)[:40],
                    expected=f"to {json_records.MOST_SIDE}",
                )
        return part
