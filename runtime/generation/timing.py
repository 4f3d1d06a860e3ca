"""What an answer cost, as data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spent:
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
    """

    preprocess_ms: float
    vision_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_tokens: int
    decode_ms: float
    kv_mib: float
    visual_tokens: tuple[int, ...]

    @property
    def tokens_per_s(self) -> float | None:
        """Decoding speed without the first token; None when there was no other."""
        return self.decode_tokens / self.decode_ms * 1000 if self.decode_tokens and self.decode_ms > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with ``tokens_per_s``."""
        data: dict[str, Any] = json.loads(json.dumps({**dataclasses.asdict(self), "tokens_per_s": self.tokens_per_s}))
        return data
