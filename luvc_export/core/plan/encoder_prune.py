"""Units that leave the encoder's later blocks, and come back at its end: prune and restore, in plain numbers.

After a block a share of the units goes on and the rest waits. For some blocks more the rest is still seen: attention
reads it reconstructed from what changed in its nearest kept neighbours, while only kept units are computed further. At
the end it is restored the same way, so that the LLM sees the whole grid; or it stays away. The idea is IPCV's
(arXiv 2512.18747); the static form, quotas of units and the scores are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from luvc_export.core.plan import reading
from luvc_export.core.plan.merging import Axis, equal_parts

UnitScore = Literal["norm", "change", "residual"]
Restore = Literal["all", "none"]


@dataclass(frozen=True)
class EncoderPrune(reading.Part):
    """What of the units goes on after encoder block ``block``.

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
        lines = reading.wrong_choices(self)
        if not 0 < self.keep < 1:
            lines.append(f"keep: got {self.keep}, expected a share in (0, 1)")
        if not 0 < self.rho <= 1:
            lines.append(f"rho: got {self.rho}, expected a fraction in (0, 1]")
        for name, least in (("block", 0), ("window", 0), ("stabilise", 0), ("neighbours", 1)):
            if getattr(self, name) < least:
                lines.append(f"{name}: got {getattr(self, name)}, expected at least {least}")
        return lines
