"""What an answer cost, as data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

#: Of ``DraftCounts``, what is written beside the counts.
_RATIOS = ("tokens_per_step", "acceptance_length", "acceptance")


@dataclass(frozen=True)
class PhaseSeconds:
    """Seconds of one answer, as they are measured.

    Args:
        ready: Preparing: opening and fitting the pictures, template and tokenizer.
        vision: The vision graph, all images together.
        prefill: The decoder over the whole prompt.
        first: From the call to the first token: the three above and choosing it.
        decode: The tokens after the first.
    """

    ready: float
    vision: float
    prefill: float
    first: float
    decode: float


@dataclass(frozen=True)
class DraftCounts:
    """How drafts of several tokens a step fared.

    Args:
        steps: Decoder calls, each a step of a row.
        drafts: Of these, steps that had a draft.
        drafted: Tokens of the drafts.
        accepted: Of these, tokens that the model chose too.
        stopped: Drafts that ended at a token that it did not choose.
    """

    steps: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    stopped: int = 0

    def __add__(self, other: DraftCounts) -> DraftCounts:
        return DraftCounts(
            self.steps + other.steps,
            self.drafts + other.drafts,
            self.drafted + other.drafted,
            self.accepted + other.accepted,
            self.stopped + other.stopped,
        )

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens that a step gave; None without steps."""
        return (self.steps + self.accepted) / self.steps if self.steps else None

    @property
    def acceptance_length(self) -> float | None:
        """Tokens that a step with a draft gave, the model's own included; None without drafts."""
        return 1 + self.accepted / self.drafts if self.drafts else None

    @property
    def acceptance(self) -> float | None:
        """Of drafted tokens whose predecessors were chosen, the share that was too; None without any."""
        looked_at = self.accepted + self.stopped
        return self.accepted / looked_at if looked_at else None


@dataclass(frozen=True)
class Timings:
    """Times and sizes of one answer.

    Args:
        preprocess_ms: Opening and fitting the pictures, template and tokenizer.
        vision_ms: The vision graph, all images together; 0.0 without images.
        prefill_ms: The decoder graph over the whole prompt.
        ttft_ms: From the call to the first token: the three above and sampling. Graphs are loaded before the clock
            starts.
        decode_tokens: Tokens made after the first one.
        decode_ms: Time for those.
        kv_mib: MiB of every layer's cache after the last step, as allocated by the graph.
        visual_tokens: Visual tokens, of all images, in each layer's cache.
        drafts: How drafts fared, where ``--speculate`` asked for some.
    """

    preprocess_ms: float
    vision_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_tokens: int
    decode_ms: float
    kv_mib: float
    visual_tokens: tuple[int, ...]
    drafts: DraftCounts | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """Decoding speed without the first token; None when there was no other."""
        return self.decode_tokens / self.decode_ms * 1000 if self.decode_tokens and self.decode_ms > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with ``tokens_per_s``; ``drafts`` where there were any, with its ratios."""
        values = {**dataclasses.asdict(self), "tokens_per_s": self.tokens_per_s}
        if self.drafts is None:
            del values["drafts"]
        else:
            ratios = {name: getattr(self.drafts, name) for name in _RATIOS}
            values["drafts"] |= ratios
        data: dict[str, Any] = json.loads(json.dumps(values))
        return data
