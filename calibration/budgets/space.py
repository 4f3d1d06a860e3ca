"""The plans that a search may visit: merge passes, and a budget for each layer that still looks at the picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from luvc_export.core.plan import MergePass, Plan

Merges = tuple[MergePass, ...]
Keep = tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """Plans of one model and image size.

    Args:
        grid: Units (rows, columns) of an image.
        layers: Of the LLM.
        horizon: From this layer on no visual token is left.
        merges: Ways to merge in the encoder.
        whole: First layers that are given every token, because the score needs a layer before it.
        switches: Other fields of ``Plan``, the same for all.
    """

    grid: tuple[int, int]
    layers: int
    horizon: int
    merges: tuple[Merges, ...] = ((),)
    whole: int = 0
    switches: dict[str, Any] = field(default_factory=dict)

    def plan(self, merges: Merges, keep: Keep) -> Plan:
        """The plan with budgets ``keep`` of the layers before the horizon.

        Where the last layer sees tokens it takes only their keys and values, which changes no logit and costs less.
        """
        budgets = (*keep, *[0] * (self.layers - len(keep)))
        last = "kv_only" if budgets[-1] else "drop"
        return Plan(self.grid, budgets, merges, last_layer=last, schedule="searched", **self.switches)  # type: ignore[arg-type]

    def encoded(self, merges: Merges) -> int:
        """Tokens that the encoder gives."""
        return Plan(self.grid, (0,), merges).vision_tokens

    def full(self, merges: Merges) -> Keep:
        """All of them, up to the horizon."""
        return (self.encoded(merges),) * self.horizon

    def none(self) -> Plan:
        """The uncompressed plan."""
        return Plan(self.grid, (self.grid[0] * self.grid[1],) * self.layers, last_layer="full", schedule="none")
