"""New rows of caches that an engine gives apart: put behind those that are there, once the engine is done.

Engines whose caches are codes read slots of fixed capacity and give what they add alone (docs/surgery.md). It is copied
on the stream of the engine, so the next call sees it; the copies go elsewhere at every step, so no CUDA graph has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luvc_export.core.plan import Plan
from luvc_export.runtime.cuda.device import Buffer, Gpu
from luvc_export.runtime.tensorrt.memory_plan import CachePart, KvPlan, Region, pack


@dataclass(frozen=True)
class NewRows:
    """What one call adds.

    Args:
        kv: Where caches lie.
        plan: Says how many visual rows of a group each layer keeps.
        batch: Conversations of the call.
        groups: New groups of each.
        text: New text tokens of each, padding included.
    """

    kv: KvPlan
    plan: Plan
    batch: int
    groups: int
    text: int

    @property
    def parts(self) -> tuple[CachePart, ...]:
        """States that get rows."""
        return tuple(part for part in self.kv.parts if not self.kv.is_swapped(part))

    def count(self, part: CachePart) -> int:
        """New rows of a part."""
        return self.groups * self.plan.keep[part.state.layer] + self.text

    @property
    def region(self) -> Region:
        """Where the engine writes each part's new rows [batch, heads, count, ...], by output name."""
        return pack({part.state.present: self.batch * self.count(part) * part.row for part in self.parts})

    def place(self, buffer: Buffer) -> dict[str, int]:
        """Reserve room for them; their addresses by output name."""
        region = self.region
        buffer.reserve(region.nbytes)
        return {name: buffer.address + offset for name, offset in region.offsets.items()}

    def first(self, part: CachePart, text: int) -> int:
        """The slot of the first new row behind ``text`` tokens: visual rows end where the slots of text begin."""
        visual = part.rows - self.kv.text_capacity
        return visual - self.groups * self.plan.keep[part.state.layer] + text

    def put_behind(
        self, gpu: Gpu, stream: int, buffer: Buffer, held: Sequence[tuple[int, int]], caches: Mapping[str, int]
    ) -> None:
        """Copy them to their slots.

        Args:
            gpu: Where all lies.
            stream: Of the engine.
            buffer: What ``place`` reserved.
            held: Text tokens and groups of each conversation before the call.
            caches: Address of each part of the first conversation, by output name.
        """
        offsets = self.region.offsets
        starts = {text for text, _ in held}
        together = len(starts) == 1
        for part in self.parts:
            name, count = part.state.present, self.count(part)
            for number, (text, _) in enumerate(held[:1] if together else held):
                target = caches[name] + number * part.nbytes + self.first(part, text) * part.token
                source = buffer.address + offsets[name] + number * count * part.row
                pieces = part.heads * (self.batch if together else 1)
                gpu.copy_pieces(
                    (target, part.rows * part.token), (source, count * part.token), count * part.token, pieces, stream
                )
