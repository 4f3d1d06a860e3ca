"""Units that leave the encoder's later blocks, and come back at its end: prune and restore, in plain numbers.

After a block a share of the units goes on and the rest waits. For some blocks more the rest is still seen: attention
reads it reconstructed from what changed in its nearest kept neighbours, while only kept units are computed further. At
the end it is restored the same way, so that the LLM sees the whole grid; or it stays away. The idea is IPCV's
(arXiv 2512.18747); the static form, quotas of units and the scores are ours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from luvc_export.core.merging import Axis, equal_parts
from luvc_export.errors import PlanError

UnitScore = Literal["norm", "change", "residual"]
Restore = Literal["all", "none"]


@dataclass(frozen=True)
class EncoderPrune:
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

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object, where: str) -> EncoderPrune:
        """Build from ``to_json`` data.

        Raises:
            PlanError: It is none; lists what is unknown or missing.
        """
        known = {field.name: field.type for field in fields(cls)}
        if not isinstance(data, dict) or set(data) - set(known) or {"block", "keep"} - set(data):
            raise PlanError("no prune of the encoder", where=where, got=repr(data)[:200], expected=", ".join(known))
        numbers = {name: float(data[name]) for name in ("keep", "rho") if name in data}
        for name in ("block", "window", "stabilise", "neighbours"):
            if name in data and (isinstance(data[name], bool) or int(data[name]) != data[name]):
                raise PlanError("a count that is no whole number", where=f"{where}.{name}", got=repr(data[name])[:40])
        return cls(**{**data, **numbers})

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


def problems(prune: EncoderPrune, blocks_merged: list[int], topk_limit: int | None, units: int) -> list[str]:
    """What of a plan's prune contradicts itself or the plan.

    Args:
        prune: Of the plan.
        blocks_merged: Blocks after which the plan merges.
        topk_limit: See ``Plan``.
        units: Of the grid when it is chosen.
    """
    found = []
    for name, choices in (("restore", Restore), ("score", UnitScore)):
        if getattr(prune, name) not in get_args(choices):
            expected = ", ".join(get_args(choices))
            found.append(f"encoder_prune.{name}: got {getattr(prune, name)!r}, expected one of {expected}")
    if not 0 < prune.keep < 1:
        found.append(f"encoder_prune.keep: got {prune.keep}, expected a share in (0, 1)")
    if not 0 < prune.rho <= 1:
        found.append(f"encoder_prune.rho: got {prune.rho}, expected a fraction in (0, 1]")
    for name, least in (("block", 0), ("window", 0), ("stabilise", 0), ("neighbours", 1)):
        if getattr(prune, name) < least:
            found.append(f"encoder_prune.{name}: got {getattr(prune, name)}, expected at least {least}")
    if late := [block for block in blocks_merged if block >= prune.block]:
        found.append(
            f"merges: after block {late[0]}, where the units that block {prune.block} removed are missing: merge before"
        )
    if found:
        return found
    if topk_limit is not None and not prune.window and prune.count(units) > topk_limit:
        found.append(f"encoder_prune.keep: {prune.count(units)} of {units} units need TopK K <= {topk_limit}")
    return found
