"""Units of a clip that merge along time inside the encoder, in plain numbers: the axis beside rows and columns.

After a block the most similar neighbours in time at each place become their mean, by size, until a fixed number is
left; later blocks compute those alone. At the end all come back: what they were when they merged, and what their mean
has become since, so that the LLM sees the whole clip at its own times. That neighbours in time merge inside the encoder
is EarlyTom's idea (arXiv 2605.30010), whole frames there; places of their own as OIM's rows, fixed numbers and coming
back by the change are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from luvc_export.core.plan import reading


@dataclass(frozen=True)
class TimeMerge(reading.Part):
    """What of a clip's frames (images of two frames each, where the family has it so) goes on after ``block``.

    Args:
        block: Encoder block after which units merge.
        frames: Of a clip, as many as share a budget.
        keep: Units that are left of each place's, one of each frame before.
    """

    block: int
    frames: int
    keep: int

    def problems(self) -> list[str]:
        """What of it is wrong by itself, one line each."""
        lines = [f"block: got {self.block}, expected at least 0"] if self.block < 0 else []
        if not 1 <= self.keep < self.frames:
            lines.append(f"keep: got {self.keep} of {self.frames} frames, expected at least 1 and fewer than all")
        return lines
